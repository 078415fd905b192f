"""Each filter refuses the mask that it is there for, and no other."""

import numpy as np
import pytest

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.landmarks.pseudo.filters import Limits, judge
from nnunet_ext.landmarks.pseudo.prompts import Prompts

SPACING = np.array([2.0, 1.0, 1.0])
GEOMETRY = Geometry(np.diag(SPACING[::-1])[:, ::-1], np.array([5.0, -3.0, 8.0]))


def box(z=(5, 15), y=(10, 30), x=(10, 30)):
    mask = np.zeros((20, 40, 40), bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def points(*index):
    return GEOMETRY.to_mm(np.array(index, float).reshape(-1, 3))


PROMPTS = Prompts(points((8, 20, 20), (12, 20, 20)), points((1, 20, 20), (18, 20, 20)))
SURFACE = {"low": points((4.5, 20, 20))[0], "high": points((14.5, 20, 20))[0]}
GOOD = box()


def verdict(mask, other=None, prompts=PROMPTS, surface=SURFACE, median=10 * 20 * 20 * 2.0, limits=Limits()):  # noqa: B008
    return judge(mask, GOOD if other is None else other, prompts, GEOMETRY, surface, median, limits)


def test_a_good_mask_passes_with_its_measurements():
    found = verdict(GOOD)
    assert found.accepted
    expected = {
        "foreground_inside": 1,
        "background_outside": 1,
        "landmark_mm": 0,
        "largest_component": 1,
        "volume_mm3": 8000,
        "volume_ratio": 1,
        "agreement": 1,
    }
    assert found.values == pytest.approx(expected)


def speckled():
    mask = box()
    mask[:, 36:38, 36:38] = True  # 80 of 4080 voxels are not more than 5 %
    mask[:, 0:4, 36:40] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "other", "reason"),
    [
        (np.zeros_like(GOOD), GOOD, "empty"),
        (GOOD ^ box((7, 10), (18, 23), (18, 23)), GOOD, "foreground prompts"),
        (box((1, 15)), box((1, 15)), "background prompts"),
        (box((7, 15)), box((7, 15)), "landmarks"),
        (speckled(), GOOD, "components"),
        (box(y=(17, 24)), box(y=(17, 24)), "volume"),
        (GOOD, box(y=(10, 22)), "agreement"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_filter_refuses(mask, other, reason):
    assert reason in verdict(mask, other).reasons
    assert not verdict(mask, other).accepted


@pytest.mark.parametrize("mm", [1.9, 2.1])
def test_landmarks_are_measured_in_mm(mm):
    """One slice too few on one side: the landmark there is 2 mm from the surface."""
    assert verdict(box((6, 15)), box((6, 15)), limits=Limits(landmark_mm=mm)).accepted == (mm > 2)


def test_what_cannot_be_compared_is_no_reason():
    found = verdict(GOOD, prompts=Prompts(PROMPTS.foreground_mm, points()), surface={}, median=None)
    assert found.accepted
    assert found.values["landmark_mm"] is None
    assert found.values["volume_ratio"] is None


def test_a_mask_of_the_whole_image_has_no_surface():
    found = verdict(np.ones_like(GOOD))
    assert {"background prompts", "landmarks", "volume", "agreement"} == set(found.reasons)
