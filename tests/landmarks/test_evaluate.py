"""``nnunet-ext landmarks evaluate``: numbers that can be computed by hand."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.evaluate import ScoredLandmark, evaluate, outcome_of, summarise
from nnunet_ext.landmarks.formats import write_markups, write_table
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, present
from tests.landmarks.raw import Case, describe, write_dataset

ORIGIN = present((0, 0, 0))
REFERENCES = {
    "a": {"tip": ORIGIN, "end": ORIGIN},
    "b": {"tip": ORIGIN, "end": ABSENT},
    "c": {"tip": ORIGIN, "end": UNKNOWN},
    "d": {"tip": ORIGIN, "end": ABSENT},
}
PREDICTIONS = {
    "a": {"tip": present((0, 3, 4)), "end": present((2, 0, 0), 0.5)},
    "b": {"tip": present((1, 0, 0)), "end": present((9, 9, 9))},
    "c": {"tip": ABSENT, "end": present((9, 9, 9))},
    "d": {"tip": present((0, 0, 3)), "end": UNKNOWN},
}


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    for case, landmarks in REFERENCES.items():
        write_markups(tmp_path / "references" / f"{case}.mrk.json", landmarks)
    write_table(tmp_path / "predictions" / "landmarks.csv", PREDICTIONS)
    return tmp_path / "references", tmp_path / "predictions"


@pytest.mark.parametrize(
    ("reference", "prediction", "outcome"),
    [
        (ORIGIN, ORIGIN, "found"),
        (ORIGIN, ABSENT, "missed"),
        (ORIGIN, UNKNOWN, "missed"),
        (ABSENT, ORIGIN, "false"),
        (ABSENT, ABSENT, "rejected"),
        (ABSENT, UNKNOWN, "rejected"),
        (UNKNOWN, ORIGIN, "not scored"),
        (UNKNOWN, ABSENT, "not scored"),
    ],
)
def test_what_counts_as_what(reference, prediction, outcome):
    assert outcome_of(reference, prediction)[0] == outcome


def test_the_numbers(folders):
    found = evaluate(*folders).summaries()
    tip, end, both = found["tip"], found["end"], found["all"]
    assert (tip.found, tip.missed, tip.false, tip.rejected) == (3, 1, 0, 0)
    assert (end.found, end.missed, end.false, end.rejected) == (1, 0, 1, 1)
    assert tip.mre == pytest.approx(3)
    assert (tip.median, tip.maximum, tip.sd) == pytest.approx((3, 5, 2))
    # four are present, one of them was missed; the limit itself counts
    assert tip.sdr == {1.0: 0.25, 1.5: 0.25, 2.0: 0.25, 2.5: 0.25, 3.0: 0.5, 4.0: 0.5}
    assert both.mre == pytest.approx((5 + 1 + 3 + 2) / 4)
    assert both.sdr[2.0] == pytest.approx(2 / 5)
    assert evaluate(*folders).mean_of_landmarks() == pytest.approx(2.5)


def test_nothing_to_count_is_nan_and_not_zero():
    nothing = summarise([ScoredLandmark("a", "tip", "rejected")])
    assert math.isnan(nothing.mre)
    assert math.isnan(nothing.sdr[1.0])
    assert nothing.rejected == 1


def test_the_command_prints_and_writes(folders, capsys):
    references, predictions = map(str, folders)
    assert main(["landmarks", "evaluate", references, predictions]) == 0
    printed = capsys.readouterr().out
    assert "4 cases" in printed
    assert "nan" not in printed
    out = folders[1] / "evaluation"
    summary = json.loads((out / "landmarks_summary.json").read_text())
    assert summary["landmarks"]["tip"]["mre_mm"] == 3
    assert summary["all"]["sdr_2mm"] == pytest.approx(0.4)
    assert summary["landmarks"]["end"]["sd_mm"] is None
    with (out / "landmarks_metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1] == {
        "case": "a",
        "landmark": "end",
        "outcome": "found",
        "error_mm": "2.0",
        "confidence": "0.5",
        "surface_mm": "",
        "reference_surface_mm": "",
    }
    assert main(["landmarks", "evaluate", references, predictions]) == 0  # its own files are no landmarks


def test_cases_that_are_on_one_side_only(folders):
    references, predictions = folders
    (references / "d.mrk.json").unlink()
    with pytest.raises(InputError, match=r"no reference for case d.*--common"):
        evaluate(references, predictions)
    found = evaluate(references, predictions, common=True)
    assert found.left_out == ("d",)
    assert "left out" in found.report()
    write_markups(references / "e.mrk.json", REFERENCES["a"])
    with pytest.raises(InputError, match="no prediction for case e"):
        evaluate(references, predictions)
    write_table(predictions / "landmarks.csv", {"z": {}, "y": {"tip": ORIGIN}})
    with pytest.raises(InputError, match="no case in common"):
        evaluate(references, predictions, common=True)


def test_references_of_several_formats_are_all_scored(folders):
    references, predictions = folders
    write_table(references / "b.csv", {"b": REFERENCES["b"]})
    (references / "b.mrk.json").unlink()
    (references / "d.json").write_text(json.dumps({"tip": [0, 0, 0], "end": "absent"}))
    (references / "d.mrk.json").unlink()
    assert {one.case for one in evaluate(references, predictions).scored} == set(REFERENCES)


def test_annotated_labels_is_about_the_label_maps_of_the_data_set(tmp_path):
    case = Case(1)
    folder = write_dataset(tmp_path, {"a": (case, "both")}, annotated_labels={"a": []})
    case.write(tmp_path / "dense" / "a.nii.gz", case.array)

    def measured(labels):
        found = evaluate(folder / "landmarksTr", folder / "landmarksTr", labels=labels, processes=1)
        return [one.landmark for one in found.scored if not math.isnan(one.surface_mm)]

    assert measured(folder / "labelsTr") == []
    assert measured(tmp_path / "dense") == ["left", "right", "top"]
    case.write(tmp_path / "dense" / "a.nii.gz", case.array * np.uint8(7))
    with pytest.raises(InputError, match=r"the label values \[7\] are not in dataset\.json"):
        measured(tmp_path / "dense")


def test_distances_from_the_surfaces_of_organs(tmp_path, capsys):
    case = Case(1)
    folder = write_dataset(tmp_path, {"a": (case, "both")})
    x, y, z = case.landmarks["top"].position_mm
    moved = {**case.landmarks, "top": present((x, y, z + 3.0)), "left": UNKNOWN}
    write_markups(tmp_path / "predictions" / "a.mrk.json", moved)
    labels = ["--labels", str(folder / "labelsTr"), "--processes", "1"]
    places = [str(folder / "landmarksTr"), str(tmp_path / "predictions")]
    assert main(["landmarks", "evaluate", *places, *labels]) == 0
    assert "surface" in capsys.readouterr().out
    found = evaluate(*places, labels=folder / "labelsTr", processes=1)
    by_name = {one.landmark: one for one in found.scored}
    assert by_name["top"].surface_mm == pytest.approx(3, abs=1e-3)
    assert by_name["top"].reference_surface_mm == pytest.approx(0, abs=1e-3)
    assert by_name["right"].surface_mm == pytest.approx(0, abs=1e-3)
    assert math.isnan(by_name["left"].surface_mm)
    assert found.summaries()["all"].surface == pytest.approx(1.5, abs=1e-3)


def test_bad_input_gets_one_sentence(tmp_path, folders):
    references, predictions = folders
    with pytest.raises(InputError, match="--dataset-json"):
        evaluate(references, predictions, labels=tmp_path)
    describe(tmp_path)  # two folders above: it declares other landmarks
    with pytest.raises(InputError, match=r"\['end', 'tip'\].*declares \['left', 'right', 'top'\]"):
        evaluate(references, predictions)
    describe(tmp_path, landmarks=["tip", "end"])
    with pytest.raises(InputError, match="no label map"):
        evaluate(references, predictions, labels=tmp_path)
    with pytest.raises(InputError, match="no folder"):
        evaluate(references, tmp_path / "nothing")


def test_landmarks_that_only_one_side_has_are_named(tmp_path):
    write_table(tmp_path / "truth.csv", {"a": {"tip": present((0, 0, 0)), "end": present((1, 1, 1))}})
    write_table(tmp_path / "found.csv", {"a": {"tip": present((0, 0, 1)), "tpi": present((1, 1, 1))}})
    evaluation = evaluate(tmp_path / "truth.csv", tmp_path / "found.csv")
    assert "only the references name end" in evaluation.report()
    assert "only the predictions name tpi" in evaluation.report()
    evaluation.write(tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "landmarks_summary.json").read_text())
    assert summary["one_sided"] == ["only the references name end", "only the predictions name tpi"]
    assert evaluate(tmp_path / "truth.csv", tmp_path / "truth.csv").one_sided == ()
