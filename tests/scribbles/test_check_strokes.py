"""Strokes that cross a border or have the wrong label are found by the other strokes of the data set."""

from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.scribbles.check import ScribbleReport, check_scribbles
from nnunet_ext.scribbles.check_strokes import across_edges
from tests.scribbles.raw import LABELS, SPACING, image, write, write_dataset

CLASSES = {0: "background", 1: "left", 2: "right"}
NAME = "Dataset140_Strokes"
CASES = tuple(f"case_{number}" for number in range(8))


def truth() -> np.ndarray:
    """``(6, 80, 96)``: two structures side by side."""
    labels = np.zeros((6, 80, 96), np.uint8)
    labels[:, 20:60, 20:46], labels[:, 20:60, 46:76] = 1, 2
    return labels


def scribbles(case: str) -> np.ndarray:
    """A wave in the middle of each structure, and a line in the background, at other places in every slice."""
    rng = np.random.default_rng(CASES.index(case))
    drawn = np.full(truth().shape, 3, np.uint8)
    for labels in drawn:
        for value, middle in ((1, 32), (2, 61)):
            phase, rows = rng.uniform(0, 6), np.arange(30, 50)
            columns = np.rint(middle + 4 * np.sin(rows / 3 + phase)).astype(int)
            for column in (columns, columns + 1):
                labels[rows, column] = value
        labels[rng.integers(5, 11), 10:90] = 0
    return drawn


@pytest.fixture
def folder(tmp_path) -> Path:
    arrays = {case: scribbles(case) for case in CASES}
    images = {case: image(truth(), seed=number) for number, case in enumerate(CASES)}
    return write_dataset(tmp_path / NAME, arrays, {**LABELS, "ignore": 3}, images=images)


def spoil(folder: Path, case: str, array: np.ndarray) -> None:
    write(folder / "labelsTr" / f"{case}.nii.gz", array)


def warnings(folder: Path) -> set[tuple[str, str | None, int | None, str | None]]:
    findings = check(folder).findings
    return {(f.kind, f.case, f.index, f.about) for f in findings if f.severity != "note"}


def check(folder: Path) -> ScribbleReport:
    return check_scribbles(folder, processes=1)


def test_careful_strokes_are_not_suspicious(folder):
    assert warnings(folder) == set()


def test_labels_that_were_exchanged_in_a_slice_are_found(folder):
    drawn = scribbles("case_3")
    drawn[2] = np.array([0, 2, 1, 3])[drawn[2]]
    spoil(folder, "case_3", drawn)
    found = warnings(folder)
    assert {("misplaced", "case_3", 2, "left"), ("misplaced", "case_3", 2, "right")} <= found
    # the slices beside it may be named, because theirs are compared with it; nothing else is
    assert {(case, abs(index - 2) <= 1) for _, case, index, _ in found} == {("case_3", True)}


def test_a_structure_that_was_drawn_as_background_is_found(folder):
    drawn = scribbles("case_3")
    drawn[2][drawn[2] == 2] = 0
    spoil(folder, "case_3", drawn)
    assert ("misplaced", "case_3", 2, "background") in warnings(folder)


def test_a_stroke_that_was_shifted_onto_another_structure_is_found(folder):
    drawn = scribbles("case_5")
    rows, columns = np.nonzero(drawn[4] == 1)
    drawn[4][drawn[4] == 1] = 3
    drawn[4, rows, columns + 24] = 1
    spoil(folder, "case_5", drawn)
    assert ("touching", "case_5", 4, "left and right") in warnings(folder)


def test_a_stroke_over_a_border_is_found_and_the_place_is_named(folder):
    drawn = scribbles("case_5")
    (first, *_) = np.flatnonzero((drawn[4] == 1).any(0))
    drawn[4, 38:42, first:70][drawn[4, 38:42, first:70] == 3] = 1  # over the border at column 46
    spoil(folder, "case_5", drawn)
    assert warnings(folder) == {("touching", "case_5", 4, "left and right")}
    (found,) = (finding for finding in check(folder).findings if finding.kind == "touching")
    assert found.box is not None
    top, bottom, left, right = found.box
    assert 36 <= top <= bottom <= 43
    assert 55 <= left <= right <= 68


def test_what_is_usual_in_a_data_set_is_one_note(folder):
    for case in CASES:
        drawn = scribbles(case)
        drawn[4, 38:42, 40:70][drawn[4, 38:42, 40:70] == 3] = 1
        spoil(folder, case, drawn)
    report = check(folder)
    assert warnings(folder) == set()
    (note,) = (finding for finding in report.findings if finding.kind == "touching")
    assert note.text == "strokes of left and right touch in 8 of 48 slices: usual in this data set, so not looked at"
    assert report.exit_code == 0


def test_one_slice_has_nothing_to_be_compared_with(tmp_path):
    arrays = {case: scribbles(case)[0] for case in CASES}
    images = {case: image(truth()[0]) for case in CASES}
    declared = {**LABELS, "ignore": 3}
    folder = write_dataset(tmp_path / NAME, arrays, declared, images=images, spacing=SPACING[1:])
    assert warnings(folder) == set()


def test_dense_labels_touch_everywhere_and_are_only_called_dense(folder):
    spoil(folder, "case_1", truth())
    assert {kind for kind, *_ in warnings(folder)} == {"dense"}


def test_the_page_begins_with_the_pictures_and_says_what_is_circled(folder, tmp_path):
    drawn = scribbles("case_5")
    drawn[4, 38:42, 40:70][drawn[4, 38:42, 40:70] == 3] = 1
    spoil(folder, "case_5", drawn)
    check(folder).write(tmp_path / "out")
    page = (tmp_path / "out" / "overview.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert 0 < page.index("red circle") < page.index("<img") < page.index("<table")
    assert "strokes of left and right touch" in page[: page.index("<img")]


def test_strokes_across_a_strong_edge():
    truth = np.zeros((6, 120, 120))
    truth[:, 40:80, 30:60], truth[:, 40:80, 60:90] = 1, 2
    grey = image(truth)
    drawn = np.full(truth.shape, 3)
    drawn[2, 50:53, 31:59] = drawn[3, 41:79, 57:60] = 1
    assert list(across_edges("a", drawn, grey, SPACING, CLASSES)) == []  # inside, and along a border
    drawn[2, 50:53, 31:80] = 1
    (found,) = across_edges("a", drawn, grey, SPACING, CLASSES)
    assert (found.kind, found.severity, found.about, found.index) == ("edge", "note", "left", 2)
    assert found.box == (50, 52, 31, 79)
    assert list(across_edges("a", drawn, np.zeros_like(grey), SPACING, CLASSES)) == []
    drawn[drawn == 1] = 0  # the background consists of many tissues
    assert list(across_edges("a", drawn, grey, SPACING, CLASSES)) == []
