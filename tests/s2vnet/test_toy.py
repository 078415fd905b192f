"""Use of the mechanisms, on volumes of one disc whose class only slice 0, or a click, tells.

One network learns both modes in 240 steps on clips of 4 slices, and is tested on 8.
"""

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from benchmarks.mechanisms.propagation import segmented
from nnunet_ext.interactive.evaluate_clicks import next_click
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.nnunet import precision
from nnunet_ext.s2vnet.predictor import S2VPredictor
from tests.interactive import sessions
from tests.s2vnet.toy import SIZE, clicks, dice, discs, trained

pytestmark = pytest.mark.xdist_group("toy")


@pytest.fixture(scope="module")
def network():
    torch.set_num_threads(1)
    return trained(240, lambda step: step % 2 == 0, interactive=0.9)


@pytest.fixture(scope="module")
def without_memory():
    """The same network, but every slice stands alone."""
    torch.set_num_threads(1)
    return trained(80, lambda step: True, propagates=False)


@pytest.fixture(scope="module")
def without_aggregation():
    """The same training, but a slice sees the centres of the last one only."""
    torch.set_num_threads(1)
    return trained(240, lambda step: step % 2 == 0, interactive=0.9, aggregation="last")


def worst(predicted, labels):
    """Dice of the worse class in the worst slice."""
    return min(min(dice(predicted[:, t], labels[:, t])) for t in range(labels.shape[1]))


def test_what_slice_0_tells_reaches_all_slices(network):
    images, labels = discs(16, 8, True, 1)
    assert worst(segmented(network, images), labels) > 0.85
    longer, labels = discs(16, 16, True, 3)
    assert worst(segmented(network, longer), labels) > 0.75


def test_without_propagation_no_other_slice_knows(without_memory):
    images, labels = discs(16, 8, True, 1)
    found = segmented(without_memory, images)
    assert min(dice(found[:, 0], labels[:, 0])) > 0.6  # where the cue is
    assert min(dice(found[:, 1:], labels[:, 1:])) < 0.45


def test_a_click_decides_and_without_one_it_is_a_guess(network):
    images, labels = discs(16, 8, False, 2)
    assert worst(segmented(network, images, clicks(labels)), labels) > 0.9
    assert min(dice(segmented(network, images), labels)) < 0.6


def test_a_wrong_click_is_obeyed_and_a_newer_one_corrects_it(network):
    images, labels = discs(16, 8, False, 2)
    wrong = clicks(labels, wrong=True)
    assert max(dice(segmented(network, images, wrong), labels)) < 0.1
    assert worst(segmented(network, images, wrong.joined(clicks(labels))), labels) > 0.85


def test_causality(network):
    """Later slices change nothing before them, also in a network that has learned to propagate."""
    images, _ = discs(4, 8, True, 4)
    for index in (0, 5):
        other = images.clone()
        other[:, :, index] = -other[:, :, index]
        a, b = segmented(network, images), segmented(network, other)
        assert torch.equal(a[:, :index], b[:, :index])
    assert not torch.equal(a[:, index:], b[:, index:])


def test_after_a_slice_of_noise_aggregation_remembers_more(network, without_aggregation):
    images, labels = discs(16, 8, True, 1)
    images[:, :, 3] = 1.5 * torch.randn(16, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    after = slice(4, None)
    scores = [min(dice(segmented(n, images)[:, after], labels[:, after])) for n in (network, without_aggregation)]
    assert scores[0] > 0.65
    assert scores[0] > scores[1] + 0.1


def in_session(network, volume, **options):
    """A session over one volume, with plans that leave its intensities."""
    settings = sessions.model.__wrapped__()
    settings.network = network
    settings.configuration_manager.configuration["normalization_schemes"] = ["NoNormalization"]
    made = S2VSession("cpu", **options)
    made.initialize_from_predictor(settings)
    made.set_image(volume.numpy(), {"spacing": [1.0, 1.0, 1.0]})
    return made


def test_one_click_in_a_session_corrects_the_volume_and_later_ones_do_not_undo_it(network):
    images, labels = discs(8, 12, False, 2)
    corrected = []
    for volume, truth in zip(images, labels.numpy(), strict=True):
        kind = int(truth.max())

        def of_kind(one, kind=kind, truth=truth):
            return dice(torch.from_numpy(one.target_buffer), torch.from_numpy(truth))[kind - 1]

        made, alone = in_session(network, volume), in_session(network, volume, propagation=False)
        wrong = in_session(network, volume)
        for one in (made, alone, wrong):
            one.predict_automatic()
        click = next_click(made.target_buffer, truth, [1, 1, 1])
        if click is None or click.label != kind or click.region < 10:
            continue
        corrected.append(kind)
        for one in (made, alone):
            one.add_point_interaction(click.voxel, label=kind)
        assert of_kind(made) > 0.95
        assert of_kind(alone) < 0.3
        # a click that tells nothing about the class, on the far side of what the first one told
        far = 1 if click.voxel[0] > 5 else 10
        made.add_point_interaction([far, 0, 0], False)
        assert of_kind(made) > 0.95
        # the first click was wrong, the second one at the same place is right
        wrong.add_point_interaction(click.voxel, label=3 - kind)
        assert of_kind(wrong) < 0.1
        wrong.add_point_interaction(click.voxel, label=kind)
        assert of_kind(wrong) > 0.95
    assert len(corrected) >= 2


@pytest.mark.parametrize("length", [4, 8])
def test_both_ways_to_predict_have_the_same_dice(network, length):
    """Stock patches of 4 slices that overlap, or of the whole volume, with all flips; and chains through the volume.

    Every slice shows its class, so that no patch is without a cue.
    """
    images, labels = discs(8, 8, False, 5)
    kind = labels.flatten(1).amax(1)
    images += torch.where(kind == 1, 2.0, -2.0).view(-1, 1, 1, 1, 1) * (labels > 0)[:, None]
    scores = []
    for made in (nnUNetPredictor, S2VPredictor):
        predictor = made(device=torch.device("cpu"), allow_tqdm=False)
        predictor.network, predictor.allowed_mirroring_axes = network, (0, 1, 2)
        predictor.configuration_manager = SimpleNamespace(patch_size=[length, SIZE, SIZE], configuration={})
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
        found = [predictor.predict_sliding_window_return_logits(image).argmax(0) for image in images]
        scores.append(dice(torch.stack(found), labels))
    assert min(scores[0]) > 0.8
    assert scores[0] == pytest.approx(scores[1], abs=0.03)


def test_bfloat16_finds_the_same(network, monkeypatch):
    """With trained weights, where a pixel near a tie may go to another centre than in float32."""
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: True)
    images, _ = discs(3, 8, True, 5)
    found = []
    for section in ({}, {"precision": {"cpu": "bfloat16"}}):
        predictor = S2VPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
        predictor.network, predictor.allowed_mirroring_axes = network, None
        settings = {"nnunet_ext": section}
        predictor.configuration_manager = SimpleNamespace(patch_size=[8, SIZE, SIZE], configuration=settings)
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
        found.append(torch.stack([predictor.predict_sliding_window_return_logits(image) for image in images]))
    expected, half = found
    assert not torch.equal(half, expected)
    assert (half - expected).abs().max() <= precision.TOLERANCE * expected.abs().max()
    assert (half.argmax(1) == expected.argmax(1)).float().mean() > 0.995
