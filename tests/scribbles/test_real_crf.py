"""The CRF loss on real organs, at the planned and at low resolution: what it would change, and shrink."""

import numpy as np
import pytest

from nnunet_ext.attenscribble.best_size import energy_by_size
from nnunet_ext.attenscribble.crf_window import crf_loss
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.data.raw import open_dataset
from nnunet_ext.scribbles.crf import LIMIT, count_case, planned_losses, preprocessed
from tests import real_data, tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real data"), pytest.mark.real_data]


def planned_on(name: str, spacing: tuple[float, ...], options: dict):
    """The data set, plans with this spacing, and the CRF loss that they mean."""
    raw, plans = open_dataset(real_data.dataset(name)), tiny.plans()
    configuration = "2d" if len(spacing) == 2 else "3d_fullres"
    settings = plans["configurations"][configuration]
    settings.update(spacing=list(spacing), nnunet_ext={"attenscribble": options})
    plans["configurations"] = {configuration: settings}
    plans["image_reader_writer"] = raw.reader().name
    (planned,) = planned_losses(plans)
    return raw, plans, type(planned)(planned.configuration, planned.spacing_mm, planned.tried[:1])


def shares(name: str, spacing: tuple[float, ...], step: int, options: dict) -> dict[str, float]:
    """Share of the correct voxels of every class that is changed, over every ``step``-th case."""
    raw, plans, planned = planned_on(name, spacing, options)
    counts = [count_case(planned, plans, raw.description, case, case.label) for case in raw.cases[::step]]
    changed, voxels = (sum(np.asarray(part[place]) for part in counts) for place in (0, 1))
    return dict(zip(raw.classes.values(), (changed[0] / voxels).tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "spacing", "step"),
    [
        ("Dataset027_ACDC", (1.523, 1.523), 13),
        ("Dataset027_ACDC", (3.0, 3.0), 13),
        ("Dataset027_ACDC", (6.35, 1.523, 1.523), 20),
        ("Dataset038_CHAOST2", (1.25, 1.25), 3),
        ("Dataset038_CHAOST2", (3.0, 3.0), 3),
        ("Dataset004_Hippocampus", (1.0, 1.0, 1.0), 5),
        ("Dataset004_Hippocampus", (1.5, 1.5, 1.5), 5),
        ("Dataset004_Hippocampus", (1.0, 1.0), 1),
    ],
)
def test_the_default_windows_keep_nine_of_ten_voxels_of_every_class(name, spacing, step):
    found = shares(name, spacing, step, {})
    assert max(found.values()) < LIMIT, found


def test_the_published_window_takes_the_hippocampus_apart():
    published = AttenScribbleOptions.as_published()
    found = shares(
        "Dataset004_Hippocampus",
        (1.0, 1.0, 1.0),
        20,
        {"crf_radius": published.crf_radius, "crf_sigma": published.crf_sigma},
    )
    assert min(found["Anterior"], found["Posterior"]) > 2 * LIMIT, found


def smallest(name: str, spacing: tuple[float, ...], step: int, options: dict) -> dict[str, float]:
    """Smallest loss of any size of every class, by that of its true size; medians over every ``step``-th case."""
    raw, plans, planned = planned_on(name, spacing, options)
    crf = crf_loss(planned.spacing_mm, planned.tried[0])
    energies: dict[str, list[np.ndarray]] = {}
    for case in raw.cases[::step]:
        image, truth, _ = preprocessed(planned, plans, raw.description, case, case.label)
        for label, class_name in enumerate(raw.classes.values()):
            if label:
                energies.setdefault(class_name, []).append(energy_by_size(crf, truth, image, label).numpy())
    # a case in which an erosion leaves nothing of a structure says nothing about that size
    medians = {key: np.nanmedian(np.nan_to_num(rows, nan=np.inf), 0) for key, rows in energies.items()}
    return {key: float(row.min()) for key, row in medians.items()}


@pytest.mark.parametrize(
    ("name", "spacing", "step"),
    [
        ("Dataset027_ACDC", (3.0, 3.0), 20),
        ("Dataset038_CHAOST2", (4.0, 4.0), 4),
        ("Dataset004_Hippocampus", (1.0, 1.0, 1.0), 20),
        ("Dataset004_Hippocampus", (1.5, 1.5, 1.5), 20),
    ],
)
def test_with_the_force_against_shrinking_no_other_size_of_an_organ_lowers_the_loss_by_a_twentieth(name, spacing, step):
    found = smallest(name, spacing, step, {"crf_volume_power": (len(spacing) - 1) / len(spacing)})
    assert min(found.values()) > 0.95, found


def test_a_smaller_hippocampus_lowers_the_plain_sum_by_a_third():
    found = smallest("Dataset004_Hippocampus", (1.5, 1.5, 1.5), 20, {})
    assert min(found["Anterior"], found["Posterior"]) < 2 / 3, found
