"""``nnunet-ext splits``: what is written, what is never overwritten, and what is printed."""

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.splits.write import write_splits
from tests import tiny
from tests.splits.conftest import CASES, DATASET

BY = r"patient\d+"


def content(path: Path) -> list[dict[str, list[str]]]:
    return json.loads(path.read_text())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "splits" in path.name)


def refused(*words: str, **arguments) -> None:
    with pytest.raises(InputError) as error:
        write_splits(**{"dataset": 38, "by": BY, **arguments})
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_folds_by_subject_where_nnunet_looks_for_them(preprocessed):
    folder = preprocessed()
    written = write_splits(38, BY)
    assert (written.path, written.state) == (folder / "splits_final.json", "new")
    splits = content(written.path)
    assert len(splits) == 5
    assert sorted(case for split in splits for case in split["val"]) == CASES
    for split in splits:
        assert set(split) == {"train", "val"}
        assert not {case[:10] for case in split["train"]} & {case[:10] for case in split["val"]}
    assert files(folder) == ["splits_final.about.json", "splits_final.json"]


def test_one_file_holds_every_number_and_seed_and_the_other_says_which_fold_is_what(preprocessed):
    folder = preprocessed()
    write_splits(38, BY, shots=[8, 4, "all"], seeds=[7, 0])
    splits, about = content(folder / "splits_final.json"), content(folder / "splits_final.about.json")
    assert [(row["fold"], row["shots"], row["seed"]) for row in about["folds"]] == [
        (0, 4, 7),
        (1, 4, 0),
        (2, 8, 7),
        (3, 8, 0),
        (4, "all", None),
    ]
    for row, split in zip(about["folds"], splits, strict=True):
        assert row["training_cases"] == len(split["train"]) == 2 * row["training_subjects"]
        assert row["validation_cases"] == len(split["val"]) == 8
    assert about["subjects"] == {case: case[:10] for case in CASES}
    assert about["by"] == BY
    assert len({tuple(split["val"]) for split in splits}) == 1
    assert set(splits[0]["train"]) < set(splits[2]["train"]) < set(splits[4]["train"])


def test_a_table_is_found_again_from_anywhere(preprocessed, tmp_path, monkeypatch):
    folder = preprocessed()
    (tmp_path / "subjects.csv").write_text("case,subject\n" + "".join(f"{case},{case[:10]}\n" for case in CASES))
    monkeypatch.chdir(tmp_path)
    write_splits(38, "subjects.csv")
    assert content(folder / "splits_final.about.json")["by"] == str(tmp_path / "subjects.csv")


def test_all_subjects_of_few_shot_are_a_fold_of_the_cross_validation(preprocessed, tmp_path):
    preprocessed()
    folds = content(write_splits(38, BY).path)
    for index in (0, 3):
        path = write_splits(38, BY, shots=["all"], validation_fold=index, out=tmp_path / f"{index}.json").path
        assert content(path) == [folds[index]]


def test_the_validation_set_of_existing_folds(preprocessed, tmp_path):
    preprocessed()
    mine = [{"train": CASES[8:20], "val": CASES[:8]}]
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    splits = content(write_splits(38, BY, shots=[2, 4], validation_from=tmp_path / "mine.json").path)
    assert [split["val"] for split in splits] == [CASES[:8]] * 2
    assert all(set(split["train"]) < set(CASES[8:20]) for split in splits)


def test_the_files_are_the_same_again_and_in_a_data_set_with_the_same_cases(preprocessed, tmp_path, monkeypatch):
    folder = preprocessed()
    write_splits(38, BY, shots=[4], seeds=[3])
    before = (folder / "splits_final.json").read_bytes()
    assert write_splits(38, BY, shots=[4], seeds=[3]).state == "unchanged"
    assert (folder / "splits_final.json").read_bytes() == before
    folder.rename(folder.with_name("Dataset138_Scribble"))
    assert write_splits(138, BY, shots=[4], seeds=[3], out=tmp_path / "other.json").path.read_bytes() == before


def test_other_folds_are_not_overwritten_without_force(preprocessed):
    folder = preprocessed()
    (folder / "splits_final.json").write_text(json.dumps(generate_crossval_split(CASES)))
    before = (folder / "splits_final.json").read_text()
    refused("splits_final.json exists", "--force", "--out")
    assert (folder / "splits_final.json").read_text() == before
    assert files(folder) == ["splits_final.json"]
    written = write_splits(38, BY, force=True)
    assert written.state == "replaced"
    assert "do not belong to these" in written.report()
    assert (folder / "splits_final.json").read_text() != before


def test_a_file_that_is_no_folds_is_not_overwritten_either(preprocessed):
    folder = preprocessed()
    (folder / "splits_final.json").write_text("{")
    refused("splits_final.json holds no folds, so it is not replaced", force=True)


def test_nothing_is_half_written(preprocessed, monkeypatch):
    folder = preprocessed()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        write_splits(38, BY)
    assert files(folder) == []


def test_without_preprocessed_data_the_cases_are_those_of_the_raw_data(tmp_path, monkeypatch):
    raw = tmp_path / "raw" / DATASET
    for case in CASES:
        for file in (raw / "labelsTr" / f"{case}.nii.gz", raw / "imagesTr" / f"{case}_0000.nii.gz"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    description = {"file_ending": ".nii.gz", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}}
    (raw / "dataset.json").write_text(json.dumps(description))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    refused("nnUNetv2_plan_and_preprocess", "--out")
    written = write_splits(38, BY, out=tmp_path / "folds.json")
    assert sorted(case for split in content(written.path) for case in split["val"]) == CASES
    assert f"cp {written.path} $nnUNet_preprocessed/{DATASET}/splits_final.json" in written.report()


def test_nnunet_trains_and_validates_what_the_file_says(nnunet_folders, make_trainer):
    nnunet_folders()
    written = write_splits(tiny.DATASET, "pairs-from-0", folds=3, force=True)
    trainer = make_trainer("nnUNetTrainerReference")
    for index, fold in enumerate(written.folds):
        trainer.fold = index
        train, val = trainer.do_split()
        assert (tuple(train), tuple(val)) == (fold.train, fold.val)
        assert (len(train), len(val)) == (4, 2)


# --- what is printed --------------------------------------------------------------------------------------------------


def test_the_command_prints_which_fold_is_what_and_what_to_type_next(preprocessed, capsys):
    folder = preprocessed()
    (folder / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": {}}}))
    assert main(["splits", "38", "--by", BY, "--few-shot", "4", "all", "--seeds", "0", "1"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert rows == [["0", "0", "4", "8", "4", "8"], ["1", "1", "4", "8", "4", "8"], ["2", "-", "16", "32", "4", "8"]]
    assert "40 cases of 20 subjects (--by 'patient\\d+')" in printed
    assert "with one of 0 to 2 as FOLD:  nnUNetv2_train 38 2d FOLD" in printed
    assert "Warning" not in printed


@pytest.mark.parametrize(
    ("plans", "there", "printed"),
    [
        ({"nnUNetPlans": ["3d_lowres", "2d"]}, [], "3d_lowres FOLD"),
        ({"nnUNetPlans": ["2d", "3d_fullres"]}, [], "3d_fullres FOLD"),
        ({"nnUNetPlans": ["2d", "3d_fullres"]}, ["2d"], "2d FOLD"),
        ({"nnUNetResEncUNetMPlans": ["2d"]}, ["2d"], "2d FOLD -p nnUNetResEncUNetMPlans"),
        ({"APlans": ["2d"], "nnUNetPlans": ["3d_fullres"]}, ["2d", "3d_fullres"], "3d_fullres FOLD"),
        ({}, [], "CONFIGURATION FOLD"),
    ],
)
def test_what_to_type_next_names_a_configuration_that_is_planned(preprocessed, plans, there, printed):
    folder = preprocessed()
    for name, configurations in plans.items():
        content = {each: {"data_identifier": f"{name}_{each}"} for each in configurations}
        (folder / f"{name}.json").write_text(json.dumps({"configurations": content}))
        for each in there:
            (folder / f"{name}_{each}").mkdir()
    assert write_splits(38, BY).report().endswith(f"nnUNetv2_train 38 {printed}")


def test_folds_by_case_are_warned_about_where_names_tell_otherwise(preprocessed):
    preprocessed()
    assert "look as if these were 20 subjects and not 40" in write_splits(38, "case").report()


def test_bad_input_is_one_line_and_exit_code_2(preprocessed, capsys):
    folder = preprocessed()
    assert main(["splits", "38"]) == 2
    assert "--by subject" in capsys.readouterr().err
    assert files(folder) == []
    with pytest.raises(SystemExit):
        main(["splits", "38", "--few-shot", "some"])
    assert "'some' is neither a number of subjects nor 'all'" in capsys.readouterr().err


# --- bad input --------------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_go_together(preprocessed):
    preprocessed()
    refused("--few-shot", seeds=[1])
    refused("--few-shot", validation_fold=1)
    refused("--validation-fold is 5", "0 to 4", shots=[2], validation_fold=5)


def test_a_data_set_that_is_not_there(preprocessed, monkeypatch):
    folder = preprocessed()
    refused("'99'", "nnUNet_preprocessed", dataset=99)
    refused("is no data set", dataset=str(folder))
    (folder / "dataset.json").write_text("{}")
    refused("file_ending")
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".png"}))
    refused("gt_segmentations holds no .png")
    for file in (folder / "gt_segmentations").iterdir():
        file.unlink()
    (folder / "gt_segmentations").rmdir()
    refused("no gt_segmentations yet", "nnUNet_raw")
    monkeypatch.delenv("nnUNet_preprocessed")
    refused("nnUNet_preprocessed is not set")


def test_a_place_that_cannot_be_written(preprocessed, tmp_path):
    preprocessed()
    for out in (tmp_path, tmp_path / "no" / "folder.json", tmp_path / "folds.txt"):
        refused("--out", out=out)


@pytest.mark.parametrize(
    ("folds", "word"),
    [
        ([{"train": CASES[2:], "val": ["stranger"]}], "stranger"),
        ([{"train": [], "val": CASES[:2]}], "on no case"),
        ([{"train": CASES[1:], "val": CASES[:1]}], "patient001"),
        ([{"train": CASES}], "fold 0 is not"),
        ([], "no list of folds"),
        ({}, "no list of folds"),
    ],
)
def test_existing_folds_that_cannot_be_started_from(preprocessed, tmp_path, folds, word):
    preprocessed()
    (tmp_path / "mine.json").write_text(json.dumps(folds))
    refused(word, shots=[2], validation_from=tmp_path / "mine.json")
    refused("There is no file of folds", shots=[2], validation_from=tmp_path / "none.json")
