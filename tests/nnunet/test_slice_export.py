"""Labels from slices of logits are those that nnU-Net makes of the logits of the volume, to the last bit."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.no_resampling import no_resampling_hack
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.nnunet.slice_export import SliceExport, labels_of_slice, slices_stand_alone
from tests import tiny


def model(kind="classes", spacing=(1.0, 1.0), transpose=(0, 1, 2)):
    """Plans and labels, as an initialised predictor has them."""
    plans = tiny.plans(**{"2d": tiny.configuration(2)})
    plans["configurations"]["2d"]["spacing"] = list(spacing)
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [int(axis) for axis in np.argsort(transpose)]
    manager = PlansManager(plans)
    return SimpleNamespace(
        plans_manager=manager,
        configuration_manager=manager.get_configuration("2d"),
        label_manager=manager.get_label_manager(tiny.dataset_json(kind)),
    )


def properties(spacing, transpose=(0, 1, 2), before=(7, 21, 18), box=((1, 6), (2, 19), (3, 18))):
    """Properties of a cropped image; ``before`` and ``box`` in the order of nnU-Net's transposed axes."""
    return {
        "spacing": [spacing[axis] for axis in np.argsort(transpose)],
        "shape_before_cropping": before,
        "bbox_used_for_cropping": [list(bounds) for bounds in box],
        "shape_after_cropping_and_before_resampling": [b - a for a, b in box],
    }


def random_logits(model, known, seed=0):
    """As smooth as those of a network, so that labels depend on how they are resampled."""
    depth, *size = known["shape_after_cropping_and_before_resampling"]
    spacing = [known["spacing"][axis] for axis in model.plans_manager.transpose_forward][1:]
    wanted = model.configuration_manager.spacing
    rows, columns = (round(n * mm / to) for n, mm, to in zip(size, spacing, wanted, strict=True))
    heads = model.label_manager.num_segmentation_heads
    return torch.randn(heads, depth, rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["classes", "regions"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(
    ("spacing", "planned"),
    [
        ((8.0, 1.3, 1.1), (1.0, 0.9)),  # thick slices, which nnU-Net resamples one by one
        ((1.2, 1.3, 1.1), (1.0, 0.9)),  # one interpolation in three axes
        ((1.2, 5.0, 1.1), (1.0, 0.9)),  # rows farther apart than slices
        ((2.0, 1.0, 0.9), (1.0, 0.9)),  # nothing to resample
    ],
)
def test_slices_have_the_labels_of_nnunets_export(kind, transpose, spacing, planned):
    made, known = model(kind, planned, transpose), properties(spacing, transpose)
    logits = random_logits(made, known)
    expected = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.clone(), made.plans_manager, made.configuration_manager, made.label_manager, known
    )
    export = SliceExport(known, made)
    for index in (3, 0, 4, 1, 2):
        export.take(index, logits[:, index])
    assert slices_stand_alone(made.configuration_manager)
    assert len(np.unique(expected)) == 3
    assert export.labels.dtype == expected.dtype
    assert np.array_equal(export.labels, expected)


def test_of_a_slice_the_labels_lie_on_the_crop():
    made, known = model(), properties((8.0, 1.3, 1.1))
    assert labels_of_slice(random_logits(made, known)[:, 0], known, made).shape == (17, 15)


def test_only_rules_that_look_at_one_slice_are_used_slice_by_slice():
    def alone(rule):
        return slices_stand_alone(SimpleNamespace(resampling_fn_probabilities=rule))

    assert alone(partial(resample_data_or_seg_to_shape, is_seg=False, order=1))
    assert alone(partial(no_resampling_hack))
    assert not alone(partial(resample_data_or_seg_to_shape, is_seg=False, order=3))
    assert not alone(partial(resample_data_or_seg_to_shape))  # whose default is 3
    assert not alone(partial(resample_torch_fornnunet, is_seg=False))


def test_many_labels_are_written_in_two_bytes():
    made = model()
    made.label_manager = SimpleNamespace(foreground_labels=list(range(300)))
    assert SliceExport(properties((8.0, 1.0, 1.0)), made).labels.dtype == np.uint16


def test_the_file_has_the_geometry_of_the_image(tmp_path):
    made = model()
    image = sitk.GetImageFromArray(np.zeros((4, 6, 5), np.float32))
    image.SetSpacing((0.9, 1.1, 8.0))
    image.SetOrigin((3.0, -2.0, 7.0))
    sitk.WriteImage(image, tmp_path / "image.nii.gz")
    reader = made.plans_manager.image_reader_writer_class()
    _, known = reader.read_images([str(tmp_path / "image.nii.gz")])
    box = ((0, 4), (0, 6), (0, 5))
    export = SliceExport(known | properties((8.0, 1.1, 0.9), before=(4, 6, 5), box=box), made)
    export.labels[2, 3, 4] = 2
    export.write(tmp_path / "labels.nii.gz")
    written = sitk.ReadImage(tmp_path / "labels.nii.gz")
    assert written.GetSpacing() == pytest.approx(image.GetSpacing())
    assert written.GetOrigin() == pytest.approx(image.GetOrigin())
    assert np.array_equal(sitk.GetArrayFromImage(written), export.labels)
