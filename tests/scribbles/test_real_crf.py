"""The default CRF windows on real organs, at the planned and at low resolution: they keep nine of ten voxels."""

import os
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.data.raw import open_dataset
from nnunet_ext.scribbles.crf import LIMIT, count_case, planned_losses
from tests import tiny

DATA = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real data"), pytest.mark.real_data]


def shares(name: str, spacing: tuple[float, ...], step: int, options: dict) -> dict[str, float]:
    """Share of the correct voxels of every class that is changed, over every ``step``-th case."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}; set NNUNET_EXT_DATA to a folder that holds this data set")
    raw, plans = open_dataset(DATA / name), tiny.plans()
    configuration = "2d" if len(spacing) == 2 else "3d_fullres"
    settings = plans["configurations"][configuration]
    settings.update(spacing=list(spacing), nnunet_ext={"attenscribble": options})
    plans["configurations"] = {configuration: settings}
    plans["image_reader_writer"] = raw.reader().name
    (planned,) = planned_losses(plans)
    planned = type(planned)(planned.configuration, planned.spacing_mm, planned.tried[:1])
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
