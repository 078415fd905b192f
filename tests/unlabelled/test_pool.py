"""Images that a fold may use: nothing of a subject that validates, unless the user says so."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.splits.files import About
from nnunet_ext.splits.subjects import Grouping
from nnunet_ext.unlabelled.pool import of_folder, others_of_the_split, showing
from nnunet_ext.unlabelled.prepared import Notes

PATH = Path("folder")


def about(by, **subject_of):
    return About(Grouping(by, subject_of), (), ())


def notes(**same_as):
    return {name: Notes("r", (), cases) for name, cases in same_as.items()}


def test_others_are_neither_trained_on_nor_of_a_subject_that_validates():
    cases = [f"patient{p}_frame{f}" for p in range(6) for f in (1, 2)]
    chosen = others_of_the_split(PATH, cases, ["patient0_frame1"], ["patient1_frame1"], None, transductive=False)
    # the names tell the subjects: the other frame of patient 1 is not seen either
    assert sorted(chosen.files) == [case for case in cases if case[:8] != "patient1" and case != "patient0_frame1"]
    assert chosen.held_out == ("patient1_frame1", "patient1_frame2")
    assert chosen.files["patient2_frame1"] == PATH / "patient2_frame1"
    assert chosen.sentences() == [
        "Images without labels: 9, the others of the split",
        "2 images (patient1_frame1, patient1_frame2) left out, which show validation subjects",
    ]


def test_transductive_images_are_used_and_said():
    cases = ["a", "b", "c", "d"]
    chosen = others_of_the_split(PATH, cases, ["a"], ["b"], None, transductive=True)
    assert list(chosen.files) == ["b", "c", "d"]
    assert chosen.transductive == ("b",)
    assert chosen.sentences()[1].startswith("WARNING: transductive: 1 image (b) of them show validation subjects")


def test_a_fold_that_leaves_none_is_refused():
    with pytest.raises(InputError, match="leaves no case that neither trains nor validates"):
        others_of_the_split(PATH, ["a", "b"], ["a"], ["b"], None, transductive=False)


def test_of_a_folder_copies_and_subjects_of_validation_cases_are_left_out():
    found = notes(x=(), copy=("case_4",), trained=("case_1",), case_4=())
    chosen = of_folder(PATH, found, ["case_4"], None, transductive=False)
    assert sorted(chosen.files) == ["trained", "x"]
    assert chosen.held_out == ("case_4", "copy")
    # a copy of another image of a subject that validates
    said = about("nowhere.csv", case_1="s", case_4="s")
    assert of_folder(PATH, found, ["case_4"], said, transductive=False).held_out == ("case_4", "copy", "trained")


def test_the_subjects_that_somebody_said_count_also_for_names_that_no_table_knows():
    by_rule = about(r"(s\d+)", s1_a="s1", s2_a="s2")
    assert showing(["s1_new", "s3_new"], ["s1_a"], by_rule) == {"s1_new"}
    said = about("table.csv", one="p", two="q")  # there is no such table here
    assert showing(["one", "two", "new"], ["one"], said) == {"one"}
    assert showing(["two"], ["one"], about("table.csv", one="p", two="p")) == {"two"}


FRAMES = {f"patient{number:03d}_frame{frame:02d}": f"patient{number:03d}" for number in (1, 2) for frame in (1, 12)}


@pytest.mark.parametrize(
    "known",
    [
        None,
        about("gone.csv", **FRAMES),
        about(r"patient\d+", **FRAMES),  # matches nothing in extra_scan_7
        about("subject", **FRAMES),
        about("case", **{case: case for case in FRAMES}),
    ],
    ids=lambda known: known and known.grouping.by,
)
def test_one_name_that_a_rule_does_not_fit_or_a_table_that_is_gone_lets_no_other_name_through(known):
    held = ["patient001_frame01"]
    assert showing(["patient001_frame05", "patient002_frame05", "extra_scan_7"], held, known) == {"patient001_frame05"}
    assert showing(["patient001_frame05"], held, known) == {"patient001_frame05"}  # all names are one subject
    assert showing(["extra_scan_7"], held, known) == set()


def test_a_rule_counts_for_every_name_that_it_fits_and_a_guess_for_the_others():
    pairs = about("pairs", scan_1="scan_1+2", scan_2="scan_1+2", scan_4="scan_3+4")
    assert showing(["scan_3", "scan_5", "odd"], ["scan_4"], pairs) == {"scan_3"}
    # the table says that both are one subject, and the name says whose frame the new one is
    said = about("gone.csv", knee_1="s", patient9_frame1="s", knee_2="t", patient8_frame1="t")
    assert showing(["patient9_frame2", "patient8_frame2"], ["knee_1"], said) == {"patient9_frame2"}


def test_a_table_may_hold_images_without_labels_too(tmp_path):
    table = tmp_path / "subjects.csv"
    table.write_text("case,subject\none,p\ntwo,q\nimage,p\n")
    assert showing(["image", "another"], ["one"], about(str(table), one="p", two="q")) == {"image"}


@given(st.data())
def test_whatever_the_folds_are_no_labelled_subject_of_the_validation_is_drawn(data):
    subject_of = {f"c{i}": f"s{data.draw(st.integers(0, 4))}" for i in range(10)}
    cases = sorted(subject_of)
    held = data.draw(st.sets(st.sampled_from(cases), min_size=1))
    trained = data.draw(st.sets(st.sampled_from(cases))) - held
    known = about("nowhere.csv", **subject_of)
    subjects = {subject_of[case] for case in held}
    expected = [case for case in cases if case not in trained and subject_of[case] not in subjects]
    if not expected:
        with pytest.raises(InputError):
            others_of_the_split(PATH, cases, trained, held, known, transductive=False)
        return
    chosen = others_of_the_split(PATH, cases, trained, held, known, transductive=False)
    assert list(chosen.files) == expected
    both = others_of_the_split(PATH, cases, trained, held, known, transductive=True)
    assert list(both.files) == [case for case in cases if case not in trained]
