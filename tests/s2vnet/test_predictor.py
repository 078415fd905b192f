"""Both ways to predict: nnU-Net's patches of some slices, and chains through the whole volume."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmarks import s2v_memory
from nnunet_ext import cli
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet import precision
from nnunet_ext.nnunet.models import Prediction
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.predictor import S2VPredictor, predict
from tests import tiny
from tests.s2vnet.test_network import s2vnet
from tests.s2vnet.test_trainer import trained  # noqa: F401 (a fixture)


def predictor(kind=S2VPredictor, depth=6, network=None, mirroring=True, **settings):
    made = kind(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=mirroring, **settings)
    made.network = network or s2vnet(deep_supervision=False)
    made.configuration_manager = SimpleNamespace(patch_size=[depth, 16, 16], configuration={})
    made.label_manager = SimpleNamespace(num_segmentation_heads=3)
    made.allowed_mirroring_axes = (0, 1, 2)
    return made


def volume(seed=0, depth=6, height=16, width=16):
    return torch.randn(1, depth, height, width, generator=torch.Generator().manual_seed(seed))


def logits(found, image):
    return found.predict_sliding_window_return_logits(image).float()


def test_forward_without_mirroring_is_the_network():
    network, x = s2vnet(deep_supervision=False).eval(), volume()
    with torch.no_grad():
        expected = network(x[None])[0]
        backward = network(x[None].flip(2)).flip(2)[0]
    for direction, wanted in (("forward", expected), ("backward", backward)):
        one = predictor(network=network, direction=direction, mirroring=False, use_gaussian=False)
        torch.testing.assert_close(logits(one, x), wanted, atol=1e-4, rtol=1e-4)
    both = logits(predictor(network=network, direction="both", mirroring=False, use_gaussian=False), x)
    upper = torch.arange(1, 7).view(1, 6, 1, 1) / 7
    torch.testing.assert_close(both, upper * expected + (1 - upper) * backward, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [4, 6])
@pytest.mark.parametrize("gaussian", [False, True])
def test_stock_patches_that_hold_the_volume_equal_the_forward_chain(gaussian, depth):
    """Volumes as long as the patch, or shorter; several columns."""
    network, x = s2vnet(deep_supervision=False), volume(depth=depth, height=20, width=18)
    a = logits(predictor(nnUNetPredictor, network=network, mirroring=False, use_gaussian=gaussian), x)
    b = logits(predictor(network=network, direction="forward", mirroring=False, use_gaussian=gaussian), x)
    assert a.shape == b.shape == (3, depth, 20, 18)
    # nnU-Net adds up in half precision, in which its Gaussian of three axes underflows in the corners of end slices
    difference = (a - b).abs()
    assert difference.quantile(0.5 if gaussian else 0.99) < 0.02
    assert (a.argmax(0) == b.argmax(0)).float().mean() > (0.93 if gaussian else 0.995)


def test_mirroring_averages_in_plane_flips():
    network, x = s2vnet(deep_supervision=False).eval(), volume()
    found = predictor(network=network, direction="forward", use_gaussian=False)
    assert found.flips() == [(), (1,), (2,), (1, 2)]
    with torch.no_grad():
        flips = [(), (3,), (4,), (3, 4)]
        expected = sum(network(x[None].flip(f)).flip(f)[0] for f in flips) / 4
    torch.testing.assert_close(logits(found, x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_volume_after_another_is_that_volume_alone(direction):
    """Bit for bit, over folds and flips."""
    folds = [s2vnet(seed=s, deep_supervision=False).state_dict() for s in (1, 2)]

    def fresh():
        made = predictor(direction=direction)
        made.list_of_parameters = folds
        return made

    a, b = volume(1, depth=9), volume(2, height=20)
    used = fresh()
    used.predict_logits_from_preprocessed_data(a)
    assert torch.equal(used.predict_logits_from_preprocessed_data(b), fresh().predict_logits_from_preprocessed_data(b))


def test_a_column_that_is_empty_at_its_ends_starts_where_there_is_an_image():
    x = volume(width=16)
    x[:, :2] = 0
    network = s2vnet(deep_supervision=False)
    found = logits(predictor(network=network, direction="forward", mirroring=False), x)
    assert (found[:, :2].argmax(0) == 0).all()
    alone = logits(predictor(network=network, direction="forward", mirroring=False), x[:, 2:])
    torch.testing.assert_close(found[:, 2:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("remembers", [False, True])
def test_both_directions_are_the_shares_of_each_to_the_last_bit(remembers, mirroring):
    """The centres and masks that are kept of the upward chain give its logits again."""
    network, x = s2vnet(deep_supervision=False, options={"mask_memory": remembers}), volume(depth=7)
    for memory in network.memory:
        torch.nn.init.normal_(memory.scale, std=5.0)
    x[:, :1] = 0  # a slice without an image

    def found(direction):
        return logits(predictor(network=network, direction=direction, mirroring=mirroring, use_gaussian=False), x)

    seen = torch.arange(1.0, 8.0).view(1, 7, 1, 1)
    expected = (seen / 8) * found("forward") + ((8 - seen) / 8) * found("backward")
    assert torch.equal(found("both"), expected)


def initialised(kind="classes", spacing=(1.0, 1.0), folds=(1,), **settings):
    """A predictor as ``nnunet-ext s2v predict`` has it, with random weights."""
    plans = tiny.plans(**{"2d": tiny.configuration(2)})
    plans["configurations"]["2d"] |= {"spacing": list(spacing), "patch_size": [8, 16, 16]}
    manager = PlansManager(plans)
    heads = LabelHeads(3, ((1, 2), (2,))) if kind == "regions" else LabelHeads(3)
    networks = [s2vnet(heads, seed=seed, deep_supervision=False) for seed in folds]
    made = S2VPredictor(device=torch.device("cpu"), allow_tqdm=False, **settings)
    made.manual_initialization(
        s2vnet(heads, deep_supervision=False),
        manager,
        manager.get_configuration("2d"),
        [network.state_dict() for network in networks],
        tiny.dataset_json(kind),
        "nnUNetTrainerS2VNet",
        (0, 1, 2),
    )
    return made


def preprocessed(target=None, depth=5):
    """A cropped image as nnU-Net's iterator delivers it, 20 × 18 pixels of 1.0 × 1.0 mm that were 17 × 15."""
    box = [[1, 1 + depth], [2, 19], [3, 18]]
    return {
        "data": volume(4, depth, 20, 18),
        "ofile": target,
        "data_properties": {
            "spacing": [4.0, 20 / 17, 18 / 15],
            "shape_before_cropping": (depth + 2, 21, 18),
            "bbox_used_for_cropping": box,
            "shape_after_cropping_and_before_resampling": [b - a for a, b in box],
        },
    }


@pytest.mark.parametrize(
    ("kind", "direction", "folds", "mirroring"),
    [
        ("classes", "both", (1, 2), False),
        ("classes", "forward", (1,), True),
        ("classes", "backward", (1, 2, 3), False),
        ("regions", "both", (1,), False),
    ],
)
def test_labels_by_slice_are_those_of_the_logits_of_the_volume(kind, direction, folds, mirroring, monkeypatch):
    """Bit for bit those of nnU-Net's export; and slices wait for no others."""
    made = initialised(kind, folds=folds, direction=direction, use_mirroring=mirroring)
    case = preprocessed()
    made.gap = 4.0
    expected = convert_predicted_logits_to_segmentation_with_correct_shape(
        made.predict_logits_from_preprocessed_data(case["data"]),
        made.plans_manager,
        made.configuration_manager,
        made.label_manager,
        case["data_properties"],
    )

    def refuse(*_):
        raise AssertionError("the logits of the volume are held")

    monkeypatch.setattr(made, "_logits", refuse)
    [found] = made.predict_from_data_iterator(iter([case]), num_processes_segmentation_export=2)
    assert len(np.unique(expected)) == 3
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    again = made.predict_from_data_iterator(iter([case, case]), num_processes_segmentation_export=1)
    assert all(np.array_equal(one, expected) for one in again)  # the weights of the folds are as they were


def test_one_array_is_predicted_with_the_distance_of_its_slices(monkeypatch):
    made, seen = initialised(use_mirroring=False), []
    made.plans_manager.plans["transpose_forward"], made.plans_manager.plans["transpose_backward"] = [1, 0, 2], [1, 0, 2]
    monkeypatch.setattr(
        made, "_logits", lambda networks, image: seen.append(made.gap) or torch.zeros(3, *image.shape[1:])
    )
    made.predict_single_npy_array(volume(4, 5, 20, 18).numpy(), {"spacing": [1.0, 7.0, 1.0]})
    assert seen == [7.0]
    assert made.gap is None


def test_large_images_come_as_files_which_are_removed(tmp_path):
    made, case = initialised(direction="forward", use_mirroring=False), preprocessed()
    [expected] = made.predict_from_data_iterator(iter([case]))
    np.save(tmp_path / "image.npy", case["data"].numpy())
    [found] = made.predict_from_data_iterator(iter([case | {"data": str(tmp_path / "image.npy")}]))
    assert np.array_equal(found, expected)
    assert not (tmp_path / "image.npy").exists()


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_bfloat16_stays_within_the_stated_tolerance(direction, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: True)
    network, x, found = s2vnet(deep_supervision=False), volume(depth=12), []
    with torch.no_grad():  # random steps of k-means would send pixels near a tie anywhere
        for layer in network.layers:
            layer.update.weight.zero_()
    for section in ({}, {"precision": {"cpu": "bfloat16"}}):
        made = predictor(network=network, direction=direction, mirroring=False)
        made.configuration_manager.configuration["nnunet_ext"] = section
        found.append(logits(made, x))
    expected, half = found
    assert not torch.equal(half, expected)
    assert (half - expected).abs().max() <= precision.TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("why", ["probabilities", "rule"])
def test_where_labels_cannot_come_by_slice_nnunets_export_makes_them(why, monkeypatch):
    made, asked = initialised(), []

    def stock(self, cases, save_probabilities, processes):
        asked.append((len(list(cases)), save_probabilities, processes))

    monkeypatch.setattr(nnUNetPredictor, "predict_from_data_iterator", stock)
    if why == "rule":
        made.configuration_manager.configuration["resampling_fn_probabilities_kwargs"]["order"] = 3
    made.predict_from_data_iterator(iter([preprocessed()]), why == "probabilities", 2)
    assert asked == [(1, why == "probabilities", 2)]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    made, case = initialised(direction="forward", use_mirroring=False), preprocessed(str(tmp_path / "missing" / "case"))
    with pytest.raises(OSError, match="missing"):
        made.predict_from_data_iterator(iter([case]))


def test_both_directions_share_features_as_far_as_memory_allows():
    """The network sees every slice once, or those again that did not fit, and finds the same to the last bit."""
    network, x = s2vnet(deep_supervision=False).eval(), volume()
    one = sum(f.numel() * 4 for f in network.features(torch.zeros(4, 1, 16, 16)))
    computed, features = [], network.features
    network.features = lambda x: computed.append(len(x)) or features(x)
    found = []
    # 6 slices in 4 flips, one after the other, and again those that do not fit; each flip has given back the features
    # of its last slice before the next one comes
    for limit, passes in ((6 * one, 24), (4 * one, 24 + 24 - 16 - 3), (0, 48)):
        computed.clear()
        found.append(logits(predictor(network=network, feature_bytes=limit), x))
        assert computed == [1] * passes
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_slices_whose_features_are_computed_together_are_segmented_the_same(direction):
    """Four at a time, of which slices without image and those in the cache are none."""
    network, x = s2vnet(deep_supervision=False).eval(), volume(depth=11)
    x[:, [0, 10]] = 0
    settings = {"network": network, "direction": direction, "mirroring": False, "depth": 11}
    expected = logits(predictor(**settings), x)
    computed, features = [], network.features
    network.features = lambda x: computed.append(len(x)) or features(x)
    found = logits(predictor(**settings, together=4, feature_bytes=2**40), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert computed == [4, 4, 1]
    computed.clear()
    found = logits(predictor(**settings, together=4, feature_bytes=0), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert computed == [4, 4, 1] * (2 if direction == "both" else 1)


def test_a_gpu_gets_batches_of_slices_as_large_as_planned():
    made = predictor()
    made.configuration_manager.batch_size = 12
    assert made._together(1) == 1
    made.device = torch.device("cuda")
    assert [made._together(chains) for chains in (1, 4, 5, 12, 36)] == [12, 3, 2, 1, 1]


def test_regions_have_as_many_channels_as_heads():
    network = s2vnet(LabelHeads(3, ((1, 2), (2,))), deep_supervision=False)
    made = predictor(network=network)
    made.label_manager.num_segmentation_heads = 2
    assert logits(made, volume()).shape == (2, 6, 16, 16)


def test_wrong_models_and_directions_get_one_sentence(tmp_path):
    with pytest.raises(InputError, match="'up'; it can be forward, backward, both"):
        S2VPredictor(direction="up")
    with pytest.raises(InputError, match=r"no plans\.json"):
        predict(tmp_path, tmp_path / "out", tmp_path / "model", Prediction(device="cpu"))


def test_a_model_of_another_trainer_is_refused(monkeypatch):
    monkeypatch.setattr(nnUNetPredictor, "initialize_from_trained_model_folder", lambda *a: None)
    made = predictor(network=tiny.network(2))
    with pytest.raises(InputError, match="no model of S2VNet"):
        made.initialize_from_trained_model_folder("model", (0,))


def test_the_command_writes_what_the_predictor_finds(trained, tmp_path):  # noqa: F811
    trainer, model, root = trained(inference_clip=8)
    images = tmp_path / "images"
    images.mkdir()
    case = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_0_0000.nii.gz"
    (images / case.name).write_bytes(case.read_bytes())
    arguments = ["s2v", "predict", "-i", str(images), "-o", str(tmp_path / "out"), "-m", str(model), "-f", "0"]
    assert cli.main([*arguments, "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar"]) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "tiny_0.nii.gz")))
    assert found.shape == (18, 20, 22)
    data = trainer.dataset_class(trainer.preprocessed_dataset_folder, ["tiny_0"]).load_case("tiny_0")[0][:]
    ours = S2VPredictor(device=torch.device("cpu"), allow_tqdm=False)
    ours.initialize_from_trained_model_folder(str(model), [0])
    segmentation = ours.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(data))).argmax(0)
    assert (segmentation.numpy() == found).mean() > 0.99


def test_the_memory_of_a_trained_model_is_measured_on_its_validation_cases(trained, tmp_path, capsys):  # noqa: F811
    _, model, root = trained(inference_clip=8)
    raw, table = root / "raw" / tiny.DATASET, tmp_path / "memory.csv"
    arguments = [str(model), "--images", str(raw / "imagesTr"), "--labels", str(raw / "labelsTr"), "--file", str(table)]
    threads = ["--threads", str(torch.get_num_threads())]
    with pytest.raises(SystemExit):
        s2v_memory.main([*arguments, *threads])
    assert "has no predictions in fold_0/validation" in capsys.readouterr().err
    (model / "fold_0" / "validation").mkdir()
    for case in ("tiny_0.nii.gz", "tiny_5.nii.gz"):
        shutil.copy(raw / "labelsTr" / case, model / "fold_0" / "validation")
    assert s2v_memory.main([*arguments, *threads]) == 0
    header, *rows = table.read_text().splitlines()
    assert header == "case,own,none,other"
    assert [row.split(",")[0] for row in rows] == ["tiny_0", "tiny_5"]
    own = [float(row.split(",")[1]) for row in rows]
    assert f"2 cases; Dice with their own memory {sum(own) / 2:.3f}" in capsys.readouterr().out
    # its own memory is the forward chain of the predictor, where the patch holds the slice
    ours = S2VPredictor(device=torch.device("cpu"), allow_tqdm=False, direction="forward", use_mirroring=False)
    ours.initialize_from_trained_model_folder(str(model), [0])
    volume = s2v_memory.preprocessed(ours, "tiny_0", raw / "imagesTr", raw / "labelsTr")
    assert volume.image.shape[2:] == (16, 16)
    found = ours.predict_logits_from_preprocessed_data(volume.image).argmax(0)
    scores = [
        2
        * float(((found == label) & (volume.labels == label)).sum())
        / float(((found == label) & (volume.labels >= 0)).sum() + (volume.labels == label).sum())
        for label in range(1, int(volume.labels.max()) + 1)
    ]
    assert own[0] == pytest.approx(sum(scores) / len(scores), abs=0.01)


def test_the_help_of_the_command_names_its_flags():
    shown = subprocess.run(
        [sys.executable, "-m", "nnunet_ext", "s2v", "predict", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    for flag in ("-i ", "-o ", "-d ", "-f ", "-c ", "--direction", "--disable_tta", "nnUNetTrainerS2VNet"):
        assert flag in shown
