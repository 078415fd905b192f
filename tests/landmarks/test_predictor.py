"""Both heads through nnU-Net's sliding window: mirroring with pairs, decoding, and what a model must know."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks import predictor as module
from nnunet_ext.landmarks.heatmaps import decode
from nnunet_ext.landmarks.mirroring import Mirroring
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.predictor import (
    DEFAULT_THRESHOLD,
    LandmarkHead,
    LandmarkPredictor,
    predict,
    read_thresholds,
    threshold,
    thresholds_of_others,
    write_thresholds,
)
from nnunet_ext.nnunet.models import Prediction

NAMES = ("left", "right", "middle")


class Sided(nn.Module):
    """A network that tells left from right by the side of the patch, as a trained one does."""

    def forward(self, x, landmarks=False):
        assert landmarks
        position = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
        return torch.cat((x, -x), 1), torch.cat((x * (position < 0), x * (position > 0), x * position.abs()), 1)


def predictor(mirroring, axes=(0, 1), **settings):
    made = LandmarkPredictor(device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False)
    made.network, made.allowed_mirroring_axes = Sided(), axes
    made.head = LandmarkHead(NAMES, None, mirroring)
    made.label_manager = SimpleNamespace(num_segmentation_heads=2)
    return made


def test_mirroring_exchanges_the_landmarks_of_a_pair():
    x = torch.rand(1, 1, 6, 8)
    segmentation, landmarks = Sided()(x, landmarks=True)
    plain = torch.cat((segmentation, landmarks), 1)
    right = predictor(Mirroring((0, 1), {1: (1, 0, 2)}))
    assert torch.allclose(right._internal_maybe_mirror_and_predict(x), plain, atol=1e-6)
    wrong = predictor(Mirroring((0, 1)))
    assert not torch.allclose(wrong._internal_maybe_mirror_and_predict(x), plain, atol=1e-2)
    once = predictor(Mirroring(), axes=None)
    assert torch.equal(once._internal_maybe_mirror_and_predict(x), plain)


def test_the_sliding_window_keeps_both_heads_and_gives_the_label_manager_back():
    made = predictor(Mirroring(), axes=None)
    made.configuration_manager = SimpleNamespace(patch_size=[8, 8])
    image = torch.rand(1, 3, 12, 12)
    both = made.predict_sliding_window_return_logits(image)
    assert both.shape == (5, 3, 12, 12)
    assert torch.allclose(both[0], image[0].half(), atol=0.03)  # half precision
    assert made.label_manager.num_segmentation_heads == 2


@pytest.mark.parametrize("scale", [None, 255.0])
def test_outputs_become_points_in_mm(scale):
    made = predictor(Mirroring())
    made.head = LandmarkHead(NAMES, scale, Mirroring())
    made.plans_manager = SimpleNamespace(plans={"transpose_forward": [0, 1, 2]})
    made.configuration_manager = SimpleNamespace(spacing=[3.0, 2.0, 1.0])
    properties = {
        "sitk_stuff": {"spacing": (1.0, 2.0, 3.0), "origin": (10.0, 20.0, 30.0), "direction": tuple(np.eye(3).flat)},
        "spacing": [3.0, 2.0, 1.0],
        "bbox_used_for_cropping": [[1, 13], [0, 12], [0, 12]],
        "shape_after_cropping_and_before_resampling": (12, 12, 12),
    }
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1)
    voxels = np.array([[5.3, 6.0, 4.6], [3.0, 3.5, 8.0], [7.2, 5.1, 5.0]])
    heat = np.stack([0.9 * np.exp(-((grid - v) ** 2).sum(-1) / (2 * 2.0**2)) for v in voxels])
    outputs = torch.tensor(heat).logit() if scale is None else torch.tensor(scale * heat)
    found = made.landmarks_of(torch.cat((torch.zeros(2, 12, 12, 12), outputs.float())), properties)
    for name, (z, y, x) in zip(NAMES, voxels, strict=True):
        assert found[name].state is State.PRESENT
        assert np.allclose(found[name].position_mm, (10 + x, 20 + 2 * y, 30 + 3 * (z + 1)), atol=0.1)
        assert 0.8 < found[name].confidence <= 0.9


def beside_a_liver(surface_sigma, spacing, sigma=4.0):
    """A predictor of two landmarks, one on the liver, with the spacing of its configuration."""
    made = predictor(Mirroring())
    made.head = LandmarkHead(("tip", "free"), None, Mirroring(), surface_sigma, sigma)
    made.plans_manager = SimpleNamespace(plans={"transpose_forward": [0, 1, 2]})
    made.configuration_manager = SimpleNamespace(spacing=spacing)
    made.dataset_json = {
        "labels": {"background": 0, "liver": 1},
        "landmarks": {"names": ["tip", "free"], "surface_of": {"tip": ["liver"]}},
    }
    made.label_manager = SimpleNamespace(
        num_segmentation_heads=2, convert_logits_to_segmentation=lambda logits: logits.argmax(0)
    )
    return made


def properties_of(shape, spacing):
    """Properties of a case that was neither cropped nor resampled; ``(z, y, x)``."""
    return {
        "sitk_stuff": {"spacing": spacing[::-1], "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).flat)},
        "spacing": list(spacing),
        "bbox_used_for_cropping": [[0, size] for size in shape],
        "shape_after_cropping_and_before_resampling": shape,
    }


@pytest.mark.parametrize(
    ("surface_sigma", "labels", "expected"),
    # between the two voxels at the surface, nearer to the one where the heatmap is larger
    [(None, (0, 1), 26.0), (1.0, (0, 1), 29.26), (1.0, (1, 0), 29.26), (1.0, (1, 1), 26.0)],
    ids=["anywhere", "on the surface", "seen from outside", "no surface"],
)
def test_a_landmark_of_an_organ_is_sought_on_its_predicted_surface(surface_sigma, labels, expected):
    made, properties = beside_a_liver(surface_sigma, [1.0, 1.0]), properties_of((1, 40, 60), (1.0, 1.0, 1.0))
    logits = torch.zeros(2, 1, 40, 60)
    logits[labels[1], ..., 30:] = 1  # the surface is between columns 29 and 30
    logits[labels[0], ..., :30] = 1
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    heat = 0.9 * torch.exp(-((y - 20) ** 2 + (x - 26) ** 2) / (2 * 4.0**2))
    found = made.landmarks_of(torch.cat((logits, heat.logit().expand(2, 1, 40, 60))), properties)
    assert found["tip"].position_mm == pytest.approx((expected, 20, 0), abs=0.05)
    assert found["free"].position_mm == pytest.approx((26, 20, 0), abs=0.05)
    assert found["tip"].confidence == found["free"].confidence == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("slice_mm", [1.0, 3.0, 8.0])
def test_in_slices_widths_are_of_pixels_however_thin_the_slices_are(monkeypatch, slice_mm):
    shape, seen = (3, 20, 30), {}

    def noted(probabilities, near, smoothing):
        seen.update(near=next(iter(near)), smoothing=smoothing)
        return decode(probabilities)

    monkeypatch.setattr(module, "decode", noted)
    outputs = torch.zeros(4, *shape)
    outputs[1, ..., 15:] = 1
    made = beside_a_liver(1.0, [3.0, 3.0])
    made.landmarks_of(outputs, properties_of(shape, (slice_mm, 3.0, 3.0)))
    assert seen["smoothing"] == pytest.approx([9 / slice_mm, 3, 3])  # 0.75 times 4 pixels of 3 mm
    # two pixels from the surface, which is one from its nearest voxel
    assert seen["near"][:, :, 16] == pytest.approx(math.exp(-1 / 2))


def test_landmarks_of_segmentations_that_are_returned_are_found_by_number(monkeypatch, tmp_path):
    stock, shape = LandmarkPredictor.__mro__[1], (1, 8, 8)
    monkeypatch.setattr(stock, "predict_logits_from_preprocessed_data", lambda self, data: data)
    monkeypatch.setattr(
        stock,
        "predict_from_data_iterator",
        lambda self, cases: [self.predict_logits_from_preprocessed_data(case["data"]) for case in cases],
    )
    made = beside_a_liver(None, [1.0, 1.0])
    made.thresholds = {"tip": 0.1, "free": 0.1}
    one = {"data": torch.zeros(4, *shape), "data_properties": properties_of(shape, (1.0, 1.0, 1.0))}
    files = [None, str(tmp_path / "a"), None]
    returned = made.predict_from_data_iterator([{**one, "ofile": file} for file in files])
    assert [logits.shape for logits in returned] == [(2, *shape)] * 3
    assert list(made.found) == ["0", "a", "2"]
    assert list(made.found["2"]) == ["tip", "free"]
    assert [file.name for file in tmp_path.rglob("*.json")] == ["a.mrk.json"]
    # nnU-Net's other functions do not say where the image lies
    with pytest.raises(InputError, match=r"landmarks have no positions; use predict_from_list_of_npy_arrays or"):
        made.predict_logits_from_preprocessed_data(one["data"])


@pytest.mark.parametrize("threshold", [50.0, -0.1, math.nan])
def test_a_threshold_that_is_no_confidence_is_refused(tmp_path, threshold):
    with pytest.raises(InputError, match=r"--threshold .* is no confidence; give a number from 0 to 1"):
        predict(tmp_path, tmp_path / "out", tmp_path, Prediction(), threshold=threshold)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_width_that_is_none_is_refused(tmp_path, sigma):
    with pytest.raises(InputError, match=r"--surface-sigma .* is no width; give a number of voxels, 0 for anywhere"):
        predict(tmp_path, tmp_path / "out", tmp_path, Prediction(), surface_sigma=sigma)


def test_the_width_of_a_model_can_be_replaced(monkeypatch, tmp_path):
    settings = {"names": ["tip"], "scale": None, "orders": {}, "surface_sigma": 1.0}
    labels = {"background": 0, "liver": 1}
    on_liver = {"labels": labels, "landmarks": {"names": ["tip"], "surface_of": {"tip": ["liver"]}}}
    anywhere = {"labels": labels, "landmarks": {"names": ["tip"]}}

    def loaded(dataset_json, **how):
        def load(self, *_):
            self.configuration_manager = SimpleNamespace(configuration={"nnunet_ext": {"landmarks": settings}})
            self.dataset_json = dataset_json

        monkeypatch.setattr(LandmarkPredictor.__mro__[1], "initialize_from_trained_model_folder", load)
        made = LandmarkPredictor(device=torch.device("cpu"), allow_tqdm=False)
        made.initialize_from_trained_model_folder(str(tmp_path), (0,), **how)
        return made.head.surface_sigma

    assert loaded(on_liver) == 1.0
    assert loaded(on_liver, surface_sigma=2.5) == 2.5
    assert loaded(on_liver, surface_sigma=0.0) is None
    assert loaded(anywhere) == 1.0  # nothing to be near to: decoded as without
    assert loaded(anywhere, surface_sigma=0.0) is None
    with pytest.raises(InputError, match=r'--surface-sigma 2 is for landmarks on organs.*no "surface_of"'):
        loaded(anywhere, surface_sigma=2.0)
    del settings["surface_sigma"]  # a model from before, and the published code
    assert loaded(on_liver) is None


def test_models_without_landmarks_and_folders_without_models_get_one_sentence(tmp_path):
    with pytest.raises(InputError, match="predicts no landmarks; train with nnUNetTrainerBaBLoss"):
        LandmarkHead.from_configuration({}, "fold")
    with pytest.raises(InputError, match=r"no plans\.json; give the folder that holds fold_0"):
        predict(tmp_path, tmp_path / "out", tmp_path, Prediction(device="cpu"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("orders", [{"orders": {"2": [1, 0, 2]}}, {"left_right": 2, "order": [1, 0, 2]}])
def test_what_the_plans_hold_comes_back(orders):
    settings = {"names": list(NAMES), "scale": 255.0, **orders}
    head = LandmarkHead.from_configuration({"nnunet_ext": {"landmarks": settings}}, "model")
    assert head.names == NAMES
    assert head.scale == 255.0
    assert head.mirroring.order_after([2]) == [1, 0, 2]
    assert head.mirroring.order_after([0]) is None


# --- thresholds from the confidences on validation cases --------------------------------------------------------------


ANSWERS = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.sampled_from([State.PRESENT, State.ABSENT, State.UNKNOWN])), max_size=12
)


def test_between_what_is_there_and_what_is_not():
    assert threshold([0.9, 0.8, 0.2, 0.1, 0.5], [1, 1, 0, 0, -1]) == 0.5


def test_where_confidence_says_the_opposite_the_threshold_is_above_all_of_them():
    assert threshold([0.0, 1.0], [1, 0]) > 1
    assert threshold([0.2, 0.8, 0.8], [1, 0, 0]) == pytest.approx(0.9)


def test_a_landmark_that_no_case_lacks_is_found_also_where_heatmaps_are_low():
    assert threshold([0.9, 0.8], [1, 1]) == DEFAULT_THRESHOLD
    # confidences of a 2D network in the validation cases of ACDC; one case in which it saw nothing
    low = [0.094, 0.086, 0.073, 0.101, 0.0001]
    assert threshold([*low, 0.5], [1, 1, 1, 1, 1, -1]) == pytest.approx(0.043)


def test_a_landmark_that_no_case_has_gets_no_threshold():
    assert threshold([0.9, 0.8], [0, -1]) is None
    assert threshold([0.9], [-1]) is None


@given(ANSWERS)
@example(answers=[(0.0, State.PRESENT), (1.0, State.ABSENT)])  # no threshold between the two is right once
@example(answers=[(1.0, State.ABSENT), (1.0, State.ABSENT), (1.0, State.PRESENT)])
def test_no_other_threshold_answers_more_correctly(answers):
    confidences, states = np.array([a for a, _ in answers]), np.array([s for _, s in answers])
    found = threshold(confidences, states)
    if found is None:
        assert not (states == State.PRESENT).any()
        return
    if not (states == State.ABSENT).any():
        assert found <= DEFAULT_THRESHOLD
        assert (confidences[states == State.PRESENT] >= found).mean() >= 0.5
        return

    def correct(t: float) -> float:
        return float((confidences[states == 1] >= t).mean() + (confidences[states == 0] < t).mean())

    assert all(correct(found) >= correct(t) - 1e-9 for t in [*np.linspace(0, 1, 41), 1.1])


def test_a_case_is_judged_by_thresholds_of_the_others():
    confidences, states = [[0.5, 0.2], [0.1, 0.3], [0.9, 0.1]], [[1, 1], [0, 1], [1, -1]]
    found = thresholds_of_others(confidences, states)
    assert np.shape(found) == (3, 2)
    assert found[0] == [pytest.approx(0.5), DEFAULT_THRESHOLD]  # between 0.1 and 0.9
    assert found[1] == [DEFAULT_THRESHOLD, pytest.approx(0.1)]
    assert thresholds_of_others([[0.9]], [[1]]) == [[DEFAULT_THRESHOLD]]


def test_noise_does_not_look_like_knowledge():
    states = np.array([[State.PRESENT]] * 10 + [[State.ABSENT]] * 3)
    there = states[:, 0] == State.PRESENT
    fitted, judged = [], []
    for seed in range(300):
        confidences = np.random.default_rng(seed).random((13, 1))
        for found, limits in (
            (fitted, threshold(confidences, states)),
            (judged, thresholds_of_others(confidences, states)),
        ):
            right = (confidences >= np.array(limits))[:, 0] == there
            found.append((right[there].mean() + right[~there].mean()) / 2)
    assert np.mean(fitted) > 0.65
    assert np.mean(judged) < 0.5


def test_folds_are_averaged_and_what_nobody_knows_has_the_default(tmp_path):
    folders = [tmp_path / "fold_0", tmp_path / "fold_1", tmp_path / "fold_2"]
    for folder in folders:
        folder.mkdir()
    write_thresholds(folders[0], ["tip", "end"], [0.2, None])
    write_thresholds(folders[1], ["tip", "end"], [0.4, None])
    tip, end = read_thresholds(folders, ["tip", "end"])
    assert math.isclose(tip, 0.3)
    assert end == DEFAULT_THRESHOLD
