"""``nnunet-ext splits --check``: every mistake is found where it is, and correct folds have none."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.splits.cases import find_cases
from nnunet_ext.splits.check import check_splits, leaks
from nnunet_ext.splits.folds import Fold
from nnunet_ext.splits.images import compare_neighbours
from nnunet_ext.splits.subjects import Grouping
from nnunet_ext.splits.write import write_splits
from tests.scribbles.raw import write, write_dataset
from tests.splits.conftest import CASES, DATASET

BY = r"patient\d+"
PLAIN = [f"hippocampus_{number:03d}" for number in range(1, 41)]
CLEAN = [
    {"train": CASES[8:], "val": CASES[:8]},
    {"train": CASES[:8] + CASES[16:], "val": CASES[8:16]},
]


def put(folder: Path, folds: list) -> None:
    (folder / "splits_final.json").write_text(json.dumps(folds))


def found(severity: str, **arguments) -> list[str]:
    report = check_splits(38, **{"processes": 1, **arguments})
    return [finding.text for finding in report.findings if finding.severity == severity]


def serious(**arguments) -> list[str]:
    return found("error", **arguments) + found("warning", **arguments)


# --- whoever the subjects are -----------------------------------------------------------------------------------------


def test_correct_folds_have_no_findings(preprocessed):
    folder = preprocessed()
    put(folder, CLEAN)
    for by in (None, BY, "case", "subject"):
        report = check_splits(38, by=by)
        assert [finding.severity for finding in report.findings if finding.severity != "note"] == []
        assert report.exit_code == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folds: folds[1]["train"].append(CASES[8]), ["fold 1", f"case {CASES[8]}", "training and validation"]),
        (lambda folds: folds[1]["train"].append("stranger"), ["fold 1", "stranger", "not in the data set"]),
        (lambda folds: folds[0]["val"].append("stranger"), ["fold 0", "stranger", "in validation"]),
        (lambda folds: folds[0]["val"].append(CASES[0]), ["fold 0", CASES[0], "more than once"]),
        (lambda folds: folds[0]["train"].remove(CASES[30]), ["fold 0", CASES[30], "missing"]),
        (lambda folds: folds[0]["val"].clear(), ["fold 0", "validation has no cases"]),
    ],
)
def test_one_mistake_is_one_finding(preprocessed, change, words):
    folds = json.loads(json.dumps(CLEAN))
    change(folds)
    put(preprocessed(), folds)
    # a case that is left out of one fold, or trained on without its partner, is found for that, too
    texts = [text for text in serious() if "likely" not in text and ("missing" not in text or "missing" in words)]
    assert len(texts) == 1
    for word in words:
        assert word in texts[0]
    assert check_splits(38).exit_code == 1


def test_cases_in_no_fold_are_a_mistake_unless_few_shot_leaves_them_out(preprocessed):
    folder = preprocessed()
    write_splits(38, BY, shots=[2, 4], seeds=[0, 1])
    assert serious() == []
    assert any("in no fold" in text for text in found("note"))
    # the same folds by somebody else: nobody says that it is on purpose
    put(folder, json.loads((folder / "splits_final.json").read_text()))
    assert any("in no fold" in text for text in found("warning"))


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_a_subject_on_both_sides_is_an_error_where_subjects_are_known(preprocessed):
    folder = preprocessed()
    put(folder, [{"train": CASES[1:8] + CASES[9:], "val": [CASES[0], CASES[8]]}])
    (text,) = found("error", by=BY)
    assert "2 of 2 validation cases have" in text
    assert f"{CASES[0]} ({CASES[1]} is trained on)" in text
    (text,) = found("warning")
    assert "seem to have" in text
    assert any("20 subjects" in note for note in found("note"))


def test_nnunets_default_is_checked_where_there_is_no_file(preprocessed):
    folder = preprocessed()
    report = check_splits(38)
    assert "nnU-Net's default" in report.source
    assert len([f for f in report.findings if f.severity == "warning"]) == 5
    assert not (folder / "splits_final.json").exists()


def test_what_was_said_when_the_folds_were_written_is_known(preprocessed):
    folder = preprocessed(PLAIN)
    write_splits(38, "pairs")
    assert any("20 subjects" in text and "splits_final.about.json" in text for text in found("note"))
    put(folder, [{"train": PLAIN[1:], "val": PLAIN[:1]}])
    (text,) = found("error")
    assert f"{PLAIN[0]} ({PLAIN[1]} is trained on)" in text


def test_what_the_stored_subjects_prove_stays_proven_when_cases_are_added(preprocessed):
    folder = preprocessed()
    write_splits(38, BY)
    put(folder, [{"train": CASES[1:], "val": CASES[:1]}])
    (leak,) = found("error")
    (folder / "gt_segmentations" / "extra_7.nii.gz").touch()
    assert found("error") == [leak]
    assert any("does not know case extra_7, so the subjects are guessed, too" in text for text in found("note"))
    assert any("seem to have their subject in training" in text for text in found("warning"))


def test_the_stored_rule_says_the_subject_of_a_case_that_is_added(preprocessed):
    folder = preprocessed()
    write_splits(38, BY)
    (folder / "gt_segmentations" / "patient001_frame05.nii.gz").touch()
    put(folder, [{"train": [*CASES[2:], "patient001_frame05"], "val": CASES[:2]}])
    (leak,) = found("error")
    assert f"{CASES[0]} (patient001_frame05 is trained on)" in leak
    assert found("warning") == []


def test_by_case_says_that_nobody_knows(preprocessed):
    preprocessed()
    write_splits(38, "case")
    assert len(found("warning")) == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30))
def test_leaks_are_exactly_the_validation_cases_whose_subject_is_trained_on(drawn):
    subject_of = {f"c{index}": f"s{subject}" for index, (subject, _) in enumerate(drawn)}
    train, val = (tuple(f"c{i}" for i, (_, side) in enumerate(drawn) if side is part) for part in (True, False))
    expected = sum(any(subject_of[case] == subject_of[other] for other in train) for case in val)
    result = list(leaks([Fold(train, val)], Grouping("", subject_of)))
    assert len(result) == (expected > 0)
    if expected:
        assert f" {expected} of {len(val)} " in result[0].text


# --- images -----------------------------------------------------------------------------------------------------------


def levels(count: int, paired: int | None, seed: int = 0) -> dict[str, np.ndarray]:
    """Grey values whose scale is random; pairs counted from ``paired`` share it, up to 3 %."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 1, count + 2))
    of = [number if paired is None else (number - paired) // 2 for number in range(1, count + 1)]
    return {
        f"case_{number:03d}": scale[of[number - 1]] * np.exp(rng.normal(0, 0.03)) * np.array([1.0, 2.0, 3.0])
        for number in range(1, count + 1)
    }


@pytest.mark.parametrize(("paired", "first"), [(1, 1), (0, 0), (None, None)])
def test_brightness_tells_pairs_and_from_where_they_are_counted(paired, first):
    for seed in range(10):
        result = compare_neighbours(levels(60, paired, seed))
        assert result is not None
        assert result.first == first


def test_blocks_of_similar_cases_such_as_sites_are_no_pairs():
    rng = np.random.default_rng(0)
    values = {f"c{n:03d}": np.exp(n // 20 + rng.normal(0, 0.05)) * np.array([1, 2, 3]) for n in range(1, 81)}
    result = compare_neighbours(values)
    assert result is not None
    assert result.first is None


def test_any_monotone_change_of_the_grey_values_says_the_same():
    values = levels(40, 1)
    assert compare_neighbours(values) == compare_neighbours({c: np.log(v) - 1000 for c, v in values.items()})
    assert compare_neighbours(values) == compare_neighbours(dict(reversed(values.items())))


def test_too_few_neighbours_say_nothing():
    assert compare_neighbours(levels(11, 1)) is None
    assert compare_neighbours({f"case{word}": np.ones(3) for word in "abcdefghijklmnopq"}) is None


@pytest.fixture
def paired_images(preprocessed, tmp_path, monkeypatch) -> Path:
    """A data set whose names tell nothing, and whose images do; returns its raw folder."""
    preprocessed(PLAIN)
    rng = np.random.default_rng(0)
    scales = dict(zip(PLAIN, np.repeat(np.exp(rng.normal(5, 1, 20)), 2), strict=True))
    images = {c: (rng.normal(10, 1, (3, 8, 8)) * scale).astype(np.float32) for c, scale in scales.items()}
    labels = {case: np.zeros((3, 8, 8), np.uint8) for case in PLAIN}
    raw = tmp_path / "raw" / DATASET
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    return write_dataset(raw, labels, images=images)


def test_images_tell_where_names_do_not(paired_images):
    report = check_splits(38, processes=1)
    assert report.exit_code == 1
    assert len([f for f in report.findings if f.severity == "warning" and "seem to have" in f.text]) == 5
    assert "--by pairs" in report.report()
    assert found("warning", images=False) == []


def test_images_that_cannot_be_read_are_a_note(paired_images, monkeypatch):
    write(paired_images / "imagesTr" / f"{PLAIN[0]}_0000.nii.gz", np.zeros((2, 2, 2)))
    (paired_images / "imagesTr" / f"{PLAIN[1]}_0000.nii.gz").write_text("no image")
    assert any("not compared" in text and PLAIN[1] in text for text in found("note"))
    monkeypatch.delenv("nnUNet_raw")
    assert any("nnUNet_raw is not set" in text for text in found("note"))


def test_an_image_that_is_not_finite_is_named(paired_images):
    broken = np.ones((3, 8, 8), np.float32)
    broken[0, 0, 0] = np.nan
    write(paired_images / "imagesTr" / f"{PLAIN[2]}_0000.nii.gz", broken)
    (line,) = [line for line in check_splits(38, processes=1).report().splitlines() if "NaN" in line]
    assert line.startswith(f"warning {PLAIN[2]}: ")


def test_folds_that_images_do_not_object_to(paired_images, preprocessed, tmp_path):
    out = write_splits(38, "pairs", out=tmp_path / "pairs.json").path
    (tmp_path / "pairs.about.json").unlink()
    report = check_splits(38, out, processes=1)
    assert report.exit_code == 0
    assert "no fold has one in training and validation" in report.report()


# --- the command ------------------------------------------------------------------------------------------------------


def test_exit_codes(preprocessed, tmp_path, capsys):
    folder = preprocessed()
    put(folder, CLEAN)
    assert main(["splits", "38", "--check"]) == 0
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([{"train": CASES, "val": CASES[:1]}]))
    assert main(["splits", "38", "--check", str(bad)]) == 1
    assert "1 error" in capsys.readouterr().out
    bad.write_text("no JSON")
    assert main(["splits", "38", "--check", str(bad)]) == 2
    assert "bad.json cannot be read" in capsys.readouterr().err
    assert main(["splits", "38", "--check", "--force"]) == 2
    assert "--check writes nothing" in capsys.readouterr().err
    for flags in ("--folds 5", "--seeds 0", "--validation-fold 0", "--validation-from a.json", "--few-shot 4"):
        assert main(["splits", "38", "--check", *flags.split()]) == 2
        assert f"--check writes nothing; leave out {flags.split()[0]}.\n" in capsys.readouterr().err
    assert main(["splits", "38", "--by", "case", "--no-images"]) == 2
    assert "--no-images is for --check" in capsys.readouterr().err


def test_what_cannot_be_checked(preprocessed):
    folder = preprocessed(CASES[:4])
    with pytest.raises(InputError, match="4 cases and no splits_final"):
        check_splits(38)
    put(folder, [{"train": CASES[2:4], "val": CASES[:2]}])
    (folder / "splits_final.about.json").write_text("{}")
    with pytest.raises(InputError, match=r"splits_final\.about\.json has no subjects"):
        check_splits(38)


def test_a_case_that_was_removed_and_lies_in_gt_segmentations_only_is_no_case(preprocessed):
    folder = preprocessed()
    data = folder / "nnUNetPlans_2d"
    data.mkdir()
    for case in CASES[1:]:
        (data / f"{case}.pkl").touch()
    assert set(find_cases(38).names) == set(CASES[1:])
    put(folder, [{"train": CASES[4:], "val": CASES[:4]}])
    assert any(f"{CASES[0]}" in text and "not in the data set" in text for text in found("error"))
