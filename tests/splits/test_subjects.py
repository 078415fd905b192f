"""Who is one subject: every way to say it, and everything that can be said wrongly."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.splits.subjects import group, numbered, subjects_from_names
from tests.splits.conftest import CASES

HIPPOCAMPUS = [f"hippocampus_{number:03d}" for number in (1, 3, 4, 6, 7, 8, 11)]


def of(cases, by) -> list[str]:
    subject_of = group(cases, by).subject_of
    assert sorted(subject_of) == sorted(cases)
    return [subject_of[case] for case in cases]


def refused(cases, by, *words) -> None:
    with pytest.raises(InputError) as error:
        group(cases, by)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# --- ways -------------------------------------------------------------------------------------------------------------


def test_every_case_its_own_subject():
    assert of(HIPPOCAMPUS, "case") == HIPPOCAMPUS


def test_pairs_are_2k_minus_1_and_2k():
    assert of(HIPPOCAMPUS, "pairs") == [
        "hippocampus_1+2",
        "hippocampus_3+4",
        "hippocampus_3+4",
        "hippocampus_5+6",
        "hippocampus_7+8",
        "hippocampus_7+8",
        "hippocampus_11+12",
    ]
    assert of(["a_000", "a_001", "a_002", "a_009", "a_010"], "pairs-from-0") == [
        "a_0+1",
        "a_0+1",
        "a_2+3",
        "a_8+9",
        "a_10+11",
    ]


@given(st.lists(st.integers(1, 400), min_size=2, unique=True))
def test_two_numbers_are_a_pair_if_and_only_if_half_of_them_rounded_up_is_the_same(numbers):
    cases = [f"x_{number}" for number in numbers]
    if len({(number + 1) // 2 for number in numbers}) > 1:
        subject_of = group(cases, "pairs").subject_of
        for one, first in zip(cases, numbers, strict=True):
            for other, second in zip(cases, numbers, strict=True):
                assert (subject_of[one] == subject_of[other]) == ((first + 1) // 2 == (second + 1) // 2)


def test_pairs_have_the_same_name_around_the_number():
    assert len(set(of(["a_1", "b_2", "c3_x1", "c3_x2"], "pairs"))) == 3
    assert numbered("site2_012_T1") == ("site2_012_T", "1", "")
    assert numbered("abc") is None


def test_a_pattern_gives_its_match_or_its_groups():
    assert of(CASES, r"patient\d+") == [case[:10] for case in CASES]
    assert of(CASES, r"patient(\d+)_frame") == [case[7:10] for case in CASES]
    assert of(["A-1-x", "A-2-x", "B-1-x"], r"^(\w)-(?P<number>\d)") == ["A_1", "A_2", "B_1"]


def test_a_table_may_know_more_cases_and_more_columns(tmp_path):
    file = tmp_path / "who.csv"
    file.write_text("\ufeffsex,case,subject\r\nf,a,1\r\nm,b,2\r\nf,c,1\r\nf,d,3\r\n", encoding="utf-8")
    assert of(["c", "a", "b"], str(file)) == ["1", "1", "2"]
    other = tmp_path / "who.json"
    other.write_text(json.dumps({"a": 1, "b": "two", "c": 1}))
    assert of(["c", "a", "b"], str(other)) == ["1", "1", "two"]


def test_subjects_from_names():
    assert of(CASES, "subject") == [case[:10] for case in CASES]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "third", "subject"),
    [
        ("patient001_frame01", "patient001_frame12", "patient002_frame01", "patient001"),
        ("sub-01_ses-02_T1w", "sub-01_ses-01_T1w", "sub-02_ses-01_T1w", "sub-01"),
        ("kidney_12_left", "kidney_12_right", "kidney_13_left", "kidney_12"),
        ("kidney_12_L", "kidney_12_R", "kidney_13_L", "kidney_12"),
        ("K12_tp1_left", "K12_tp2_left", "K13_tp1_left", "K12"),
        ("abc_ED", "abc_ES", "abd_ED", "abc"),
        ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000", "BraTS-GLI-00005"),
        ("study_Subject-7_x", "study_Subject-7_y", "study_Subject-8_x", "Subject-7"),
    ],
)
def test_names_that_tell(one, other, third, subject):
    found = subjects_from_names([one, other, third])
    assert found is not None
    assert found.subject_of[one] == found.subject_of[other] == subject
    assert found.subject_of[third] != subject


@pytest.mark.parametrize(
    "names",
    [
        HIPPOCAMPUS,
        [f"case_{n:05d}" for n in range(30)],
        [f"BraTS2021_{n:05d}" for n in range(30)],
        [f"site{n % 2}_{n:03d}" for n in range(30)],
        [f"patient{n}" for n in range(30)],
        [f"patient{n}_frame01" for n in range(30)],
        ["one", "two", "three"],
        [],
    ],
)
def test_names_that_do_not_tell(names):
    assert subjects_from_names(names) is None


# --- bad input --------------------------------------------------------------------------------------------------------


def test_nothing_said_is_refused_with_what_the_names_tell():
    refused(HIPPOCAMPUS, None, "--by", "pairs", "hippocampus_001", "do not tell")
    refused(CASES, "", "20 subjects", "--by subject")
    refused(HIPPOCAMPUS, "subject", "do not tell", "hippocampus_001, hippocampus_003, hippocampus_004, …")


def test_cases_that_get_no_subject_are_named():
    refused([*CASES, "other"], r"patient\d+", "1 of 41 cases (other)", r"'patient\\d+'")
    refused(CASES, r"(z)?", "40 of 40")
    refused(["a", "b1"], "pairs", "no number", "1 of 2 cases (a)")
    refused(["b0", "b1"], "pairs", "b0", "pairs-from-0")


def test_a_pattern_that_is_wrong_or_the_same_in_every_name():
    refused(CASES, "patient(", "no regular expression")
    refused(CASES, "patient", "all 40 cases one subject")


def test_tables_that_are_wrong(tmp_path):
    file = tmp_path / "who.csv"
    refused(["a"], str(file), "who.csv", "cannot be read")
    file.write_text("case,group\na,1\n")
    refused(["a"], str(file), "'case,group'", "case,subject")
    file.write_text("case,subject,subject\na,1,2\n")
    refused(["a"], str(file), "'case,subject,subject'", "each once")
    file.write_text("case,subject\na,1,2\n")
    refused(["a"], str(file), "line 2 has more cells than the header has columns")
    file.write_text("case,subject\na,1\na,2\n")
    refused(["a"], str(file), "a has two subjects, 1 and 2")
    file.write_text("case,subject\na.nii.gz,1\nb,\n")
    refused(["a", "b"], str(file), "2 of 2 cases (a, b)", "a.nii.gz")
    other = tmp_path / "who.json"
    other.write_text("[1]")
    refused(["a"], str(other), "who.json")
    other.write_text(json.dumps({"a": [1]}))
    refused(["a"], str(other), "'a'")


def test_words_in_the_message_are_ways_that_exist():
    with pytest.raises(InputError) as error:
        group(HIPPOCAMPUS, None)
    for way in ("pairs-from-0", "pairs", "case", "subject"):
        assert re.search(rf"\b{way}\b", str(error.value))


@pytest.mark.parametrize(
    "table",
    [
        "\ufeffcase,subject\r\na,1\r\nb,2\r\n",
        "Case;Subject;\r\na;1;\r\nb;2;\r\n",
        "CASE\tSUBJECT\na\t1\nb\t2\n",
        "case,subject,,\na,1,,\nb,2,,\n,,,\n",
        "case,subject\ra,1\rb,2\r",
        '"case","subject"\n"a","1"\n"b","2"\n',
        "subject,age,case\n1,60,a\n2,,b\n",
    ],
)
def test_tables_as_spreadsheets_leave_them(tmp_path, table):
    (tmp_path / "who.csv").write_bytes(table.encode())
    assert group(["a", "b"], str(tmp_path / "who.csv")).subject_of == {"a": "1", "b": "2"}
