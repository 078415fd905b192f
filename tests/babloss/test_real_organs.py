"""Direction B at its default options: where it wants landmarks on real organs, and that the measurement can tell."""

import numpy as np
import pytest

from benchmarks.bridge_organs import HALF, Place, distance_from_surface, measure, wanted
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.data.raw import open_dataset
from tests import real_data


def disc(radius: int, spacing: tuple[float, float] = (1.0, 1.0)) -> Place:
    """A disc, and the landmark where it ends along the last axis."""
    y, x = np.mgrid[:61, :61] - 30.0
    organ = np.hypot(y * spacing[0], x * spacing[1]) <= radius
    return Place("organ_left", (organ,), np.array([30.0, 30.0 + radius + 0.5]), 1, 1, spacing)


def test_distances_are_those_from_the_faces_of_voxels():
    organ = np.zeros((9, 9), bool)
    organ[3:6, 2:7] = True
    for point, expected in {(4.0, 6.5): 0.0, (4.0, 7.5): 1.0, (4.0, 4.0): 1.5, (7.5, 8.5): 2 * np.sqrt(2)}.items():
        assert distance_from_surface(organ, np.array(point), np.ones(2)) == pytest.approx(expected)
    # thick slices: a row is 3 mm
    assert distance_from_surface(organ, np.array((6.5, 4.0)), np.array((3.0, 1.0))) == pytest.approx(3.0)


@pytest.mark.parametrize("radius", [4, 10])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 1.0)])
def test_on_a_disc_a_landmark_stays_on_the_surface_and_a_whole_heatmap_does_not(radius, spacing):
    found = wanted(disc(radius, spacing), BaBLossOptions())
    assert abs(found.downhill) <= HALF
    assert max(found.downhill_off, found.best_off) <= HALF
    if radius == 4:
        whole = wanted(disc(radius, spacing), BaBLossOptions(sigma=4.0))
        assert min(-whole.downhill, whole.downhill_off) > HALF


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("dataset", "off_at_most", "apart_at_most"),
    # half a voxel is the aim; docs/mechanisms.md says where it is missed, and by how much
    [("Dataset004_Hippocampus", 0.95, 0.1), ("Dataset027_ACDC", 1.25, 0.1)],
)
def test_on_real_organs_nearly_all_landmarks_stay_within_half_a_voxel_of_the_surface(
    dataset, off_at_most, apart_at_most
):
    found = measure(open_dataset(real_data.dataset(dataset)), 2, slices=False, options=BaBLossOptions())
    off = [each.downhill_off for values in found.values() for each in values]
    assert len(off) > 30
    assert np.mean(off) <= HALF / 2
    assert np.mean(np.array(off) > HALF) <= apart_at_most
    assert max(off) <= off_at_most
