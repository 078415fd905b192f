"""The hippocampus and ACDC data sets: what everybody gets wrong is found, and what is written is right."""

import json

import pytest

from nnunet_ext.splits.check import check_splits
from nnunet_ext.splits.write import write_splits
from tests.real_data import DATA, needs

pytestmark = needs("Dataset004_Hippocampus", "Dataset027_ACDC")


@pytest.fixture(autouse=True)
def _raw(monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(DATA))


def warnings(report) -> list[str]:
    return [found.text for found in report.findings if found.severity == "warning"]


def test_the_default_folds_of_hippocampus_leak_and_the_images_show_it():
    report = check_splits(4, processes=1)
    assert len(warnings(report)) == 5
    assert "probably one subject; if so, say --by pairs" in report.report()


def test_hippocampus_by_pairs_leaks_in_no_fold(tmp_path):
    path = write_splits(4, "pairs", shots=[4, 16], seeds=[0, 1], out=tmp_path / "folds.json").path
    for fold in json.loads(path.read_text()):
        train, val = ({(int(case[-3:]) + 1) // 2 for case in fold[part]} for part in ("train", "val"))
        assert not train & val
        assert len(train) in (4, 16)


def test_the_default_folds_of_acdc_leak_and_the_names_show_it(tmp_path):
    assert len(warnings(check_splits(27))) == 5
    folds = write_splits(27, r"patient\d+", out=tmp_path / "folds.json").path
    assert check_splits(27, folds).exit_code == 0
