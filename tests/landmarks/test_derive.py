"""``nnunet-ext landmarks derive`` and ``from-masks``: who keeps masks, what is written, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from skimage import io as skimage_io

from nnunet_ext.cli import main
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks import derive
from nnunet_ext.landmarks.check import check_landmarks
from nnunet_ext.landmarks.dataset import open_landmarks
from nnunet_ext.landmarks.derive import derive_dataset
from nnunet_ext.landmarks.derived import Options
from nnunet_ext.landmarks.evaluate import evaluate
from nnunet_ext.landmarks.formats import read
from nnunet_ext.landmarks.from_masks import landmarks_from_masks
from nnunet_ext.landmarks.points import State
from nnunet_ext.splits.files import read_about, read_folds
from tests.landmarks.raw import Case, describe, write_dataset

SUBJECTS = ("p1", "p2", "p3", "p4", "p5")
CASES = [f"{subject}_{time}" for subject in SUBJECTS for time in ("a", "b")]
BY = r"p\d"
TWO = {"background": 0, "box": 1, "other": 2}
OUT = "Dataset227_BoxesLandmarks"


def dense(seed: int) -> Case:
    """A box whose right half is another label."""
    case = Case(seed)
    box = case.array == 1
    middle = int(np.argwhere(box)[:, 2].mean())
    case.array[..., : middle + 1][box[..., : middle + 1]] = 2
    return case


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """``nnUNet_raw`` with ten dense cases of five subjects, and folds in which p1 and p2 validate first."""
    root = tmp_path / "raw"
    folder = write_dataset(root, {name: (dense(seed), "labels") for seed, name in enumerate(CASES)})
    folder = folder.rename(root / "Dataset027_Boxes")
    shutil.rmtree(folder / "landmarksTr")
    redescribe(folder)
    validating = [CASES[:4], CASES[4:]]
    folds = [{"train": [case for case in CASES if case not in val], "val": val} for val in validating]
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    monkeypatch.setenv("nnUNet_raw", str(root))
    return root


def redescribe(folder: Path, **more) -> None:
    describe(folder, numTraining=len(CASES), **{"labels": TWO, **more})
    content = json.loads((folder / "dataset.json").read_text())
    del content["landmarks"]
    (folder / "dataset.json").write_text(json.dumps(content))


def made(out: str | int = 227, dataset: str | int = 27, *, force=False, **options) -> derive.Derived:
    return derive_dataset(dataset, out, Options(**{"segmented": 2, "by": BY, **options}), force=force, processes=1)


def labels(folder: Path, case: str) -> np.ndarray:
    return Reader("SimpleITKIO").labels(folder / f"{case}.nii.gz").array


# --- who keeps what ---------------------------------------------------------------------------------------------------


def test_masks_of_chosen_subjects_landmarks_of_the_others_and_both_where_the_fold_validates(raw, tmp_path):
    result = made(splits=tmp_path / "folds.json")
    kept = {case.name: case.kept for case in result.cases}
    assert {kept[case] for case in CASES[:4]} == {"both"}
    assert len(result.subjects) == 2
    assert set(result.subjects) <= {"p3", "p4", "p5"}
    for case in CASES[4:]:
        chosen = case[:2] in result.subjects
        assert kept[case] == ("segmentation" if chosen else "landmarks")
    found = open_landmarks(227).landmarks()
    for case in CASES:
        there = labels(result.folder / "labelsTr", case)
        truth = labels(raw / "Dataset027_Boxes" / "labelsTr", case)
        assert np.array_equal(there, np.full_like(truth, 3) if kept[case] == "landmarks" else truth)
        assert np.array_equal(labels(result.references, case), truth)
        assert (case in found) == (kept[case] != "segmentation")


def test_the_chosen_are_those_of_a_few_shot_fold_with_the_same_number_and_seed(raw, tmp_path):
    folds, out = tmp_path / "folds.json", tmp_path / "few.json"
    line = f"splits 27 --by {BY} --few-shot 1 2 --seeds 0 1 --validation-from {folds} -o {out}"
    assert main(line.split()) == 0
    few = read_folds(out)
    for place, (number, seed) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
        result = made(300 + place, segmented=number, seed=seed, splits=folds)
        assert tuple(case.name for case in result.cases if case.kept == "segmentation") == few[place].train


def test_the_folds_lie_beside_the_data_set_and_know_the_subjects(raw, tmp_path):
    result = made(splits=tmp_path / "folds.json", fold=1, segmented=1)
    assert read_folds(result.splits) == read_folds(tmp_path / "folds.json")
    assert set(read_about(result.splits).grouping.subjects) == set(SUBJECTS)
    assert result.validation == tuple(CASES[4:])
    assert made(228).splits is None


def test_without_folds_all_subjects_are_chosen_from(raw):
    result = made(segmented=4)
    assert {case.kept for case in result.cases} == {"segmentation", "landmarks"}
    assert len({case.name[:2] for case in result.cases if case.kept == "landmarks"}) == 1


def test_landmarks_everywhere(raw):
    result = made(landmarks_everywhere=True)
    assert {case.kept for case in result.cases} == {"both", "landmarks"}
    assert len(list((result.folder / "landmarksTr").iterdir())) == len(CASES)


# --- what is written --------------------------------------------------------------------------------------------------


def test_nnunet_takes_the_data_set_and_the_images_are_not_copied(raw):
    folder = made().folder
    assert folder == raw / OUT
    verify_dataset_integrity(str(folder), 1)
    listed = get_filenames_of_train_images_and_targets(str(folder))
    assert listed["p1_a"]["images"] == [str(raw / "Dataset027_Boxes" / "imagesTr" / "p1_a_0000.nii.gz")]
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {**TWO, "ignore": 3}
    assert content["dataset"]["p1_a"]["images"] == ["../Dataset027_Boxes/imagesTr/p1_a_0000.nii.gz"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "labelsTr",
        "landmarks.json",
        "landmarksTr",
        "oracle",
    ]


def test_the_landmarks_are_declared_lie_on_their_organs_and_pass_the_check(raw):
    result = made(landmarks_everywhere=True)
    declared = open_landmarks(227).declaration
    assert len(declared.names) == 12
    assert declared.surface_of["box_superior"] == ("box",)
    assert declared.spans["other"][0] == ("other_right", "other_left")
    assert list(declared.mirror_pairs) == ["right-left", "anterior-posterior", "inferior-superior"]
    assert declared.mirror_pairs["inferior-superior"][1] == ("other_inferior", "other_superior")
    report = check_landmarks(227, labels=result.references, processes=1)
    assert report.exit_code == 0
    assert max(abs(distance.mm) for distance in report.distances) < 1e-6


def test_an_interface_lies_on_both_labels(raw):
    result = made(rule="interface", landmarks_everywhere=True)
    declared = open_landmarks(227).declaration
    assert declared.surface_of["box-other_superior"] == ("box", "other")
    assert declared.spans == {}
    distances = check_landmarks(227, labels=result.references, processes=1).distances
    assert max(abs(distance.mm) for distance in distances) < 1e-6


def test_numbers_that_are_written_and_printed(raw, tmp_path):
    result = made(splits=tmp_path / "folds.json")
    content = json.loads((result.folder / "landmarks.json").read_text())
    assert content["segmented_subjects"] == list(result.subjects)
    assert content["options"]["splits"] == str(tmp_path / "folds.json")
    assert content["landmarks"]["box_left"]["present"] == len(CASES)
    assert content["cases"]["p1_a"] == "both"
    # a box starts at one of four voxels along an axis: a guess is off by about one
    assert 0.5 < content["landmarks"]["box_left"]["constant_guess_mm"] < 4
    printed = result.report()
    for words in ("2 subjects keep", "box_left", "landmarks check 227", "splits_final*.json", "Train fold 0 only"):
        assert words in printed


def test_the_constant_guess_is_the_mean_place_of_the_training_cases(raw, tmp_path):
    result = made(splits=tmp_path / "folds.json")
    found = read(result.folder / "oracle" / "landmarksTr")
    truth = {case: np.array(found[case]["box_left"].position_mm) for case in CASES}
    mean = np.mean([truth[case] for case in CASES[4:]], 0)  # all images have the same place in the world
    expected = np.mean([np.linalg.norm(truth[case] - mean) for case in CASES[:4]])
    assert result.statistics()["landmarks"]["box_left"]["constant_guess_mm"] == pytest.approx(expected, abs=1e-3)


def test_an_organ_that_is_not_annotated_is_unknown_and_one_that_is_not_there_absent(raw):
    folder = raw / "Dataset027_Boxes"
    redescribe(folder, annotated_labels={"p1_a": ["box"]})
    empty = dense(1)
    empty.array[empty.array == 2] = 0
    empty.write(folder / "labelsTr" / "p1_b.nii.gz", empty.array)
    cases = {case.name: case.landmarks for case in made().cases}
    assert cases["p1_a"]["other_left"].state is State.UNKNOWN
    assert cases["p1_a"]["box_left"].state is State.PRESENT
    assert cases["p1_b"]["other_left"].state is State.ABSENT


def test_a_landmark_that_no_case_has_is_not_declared(raw):
    folder = raw / "Dataset027_Boxes"
    for seed, name in enumerate(CASES):
        case = dense(seed)
        z, y, x = np.nonzero(case.array == 1)
        case.array[: z.max(), y.min() : y.max(), x.min() : x.max()] = 1  # down to the border of the image
        case.write(folder / "labelsTr" / f"{name}.nii.gz", case.array)
    result = made(labels=("box",))
    assert "box_inferior" not in open_landmarks(227).declaration.names
    assert "box_superior" in open_landmarks(227).declaration.names
    assert "Not declared, because no case has them: box_inferior" in result.report()
    assert check_landmarks(227, processes=1).exit_code == 0


def test_spans_are_kept_where_the_organ_lies_between(raw):
    folder = raw / "Dataset027_Boxes"
    for seed, name in enumerate(CASES):
        case = dense(seed)
        z, y, x = (slice(low, high + 1) for low, high in zip(*bounds(case.array == 1), strict=True))
        case.array[z, y, x][2:-2, :, 2:-2] = 2  # a ring, whose middle is the other label
        case.write(folder / "labelsTr" / f"{name}.nii.gz", case.array)
    made()
    spans = open_landmarks(227).declaration.spans
    assert spans["box"] == (("box_anterior", "box_posterior"),)
    assert ("other_anterior", "other_posterior") in spans["other"]


def bounds(mask):
    inside = np.argwhere(mask)
    return inside.min(0), inside.max(0)


def test_neither_processes_nor_a_second_run_change_anything(raw):
    one = made()
    two = derive_dataset(27, 228, Options(segmented=2, by=BY), processes=2)
    for file in sorted(path.relative_to(one.folder) for path in one.folder.rglob("*.mrk.json")):
        assert (one.folder / file).read_text() == (two.folder / file).read_text()
    before = (one.folder / "landmarks.json").read_text()
    assert json.loads(json.dumps(made(force=True).statistics())) == json.loads(before)


# --- the control ------------------------------------------------------------------------------------------------------


def test_true_masks_give_the_true_landmarks(raw, tmp_path):
    result = made(landmarks_everywhere=True)
    found = landmarks_from_masks(result.references, 227, tmp_path / "control", processes=1)
    assert sorted(found) == CASES
    declared = result.folder / "dataset.json"
    truth = result.folder / "oracle" / "landmarksTr"
    assert evaluate(truth, tmp_path / "control", dataset_json=declared, processes=1).summaries()["all"].mre == 0
    with pytest.raises(InputError, match="is there already"):
        landmarks_from_masks(result.references, 227, tmp_path / "control", processes=1)
    line = ["landmarks", "from-masks", str(result.references), "-d", "227", "-o", str(tmp_path / "control"), "--force"]
    assert main(line) == 0


def test_a_folder_of_images_holds_no_masks(raw, tmp_path):
    result = made()
    case = dense(0)
    case.write(tmp_path / "images" / "p1_a_0000.nii.gz", np.arange(case.array.size).reshape(case.array.shape))
    with pytest.raises(InputError, match=r"the label values \[.*, …\] are not in dataset\.json") as error:
        landmarks_from_masks(tmp_path / "images", 227, tmp_path / "out", processes=1)
    assert len(str(error.value)) < 500
    (tmp_path / "afile").write_text("keep")
    with pytest.raises(InputError, match="afile is a file"):
        landmarks_from_masks(result.references, 227, tmp_path / "afile", processes=1)


def test_masks_without_a_rule_or_without_files(raw, tmp_path):
    result = made()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.nii\.gz files"):
        landmarks_from_masks(tmp_path / "empty", 227, tmp_path / "out", processes=1)
    (result.folder / "landmarks.json").write_text("{}")
    with pytest.raises(InputError, match="holds no rule; derive the data set again"):
        landmarks_from_masks(result.references, 227, tmp_path / "out", processes=1)
    (result.folder / "landmarks.json").unlink()
    with pytest.raises(InputError, match="give a data set that nnunet-ext landmarks derive wrote"):
        landmarks_from_masks(result.references, 227, tmp_path / "out", processes=1)


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(raw: Path, *words: str, out: str | int = 227, force: bool = False, **options) -> None:
    before = sorted(path.name for path in raw.iterdir())
    with pytest.raises(InputError) as error:
        made(out, force=force, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert sorted(path.name for path in raw.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "corner"}, ("--rule", "extreme-points, interface")),
        ({"axes": "some"}, ("--axes", "auto, in-plane, all")),
        ({"axes": "in-plane"}, ("thick slices", "leave it out")),
        ({"labels": ("bex",)}, ("--labels", "bex", "['box', 'other']")),
        ({"labels": ("box",), "rule": "interface"}, ("name at least two",)),
        ({"segmented": 0}, ("--segmented is 0", "5 training subjects")),
        ({"segmented": 5}, ("--segmented is 5", "at least one must have only landmarks")),
        ({"seed": -1}, ("--seed -1", "from 0")),
        ({"fold": 1}, ("--fold 1 belongs to --splits",)),
        ({"by": None}, ("Say with --by",)),
        ({"splits": "nowhere.json"}, ("no file of folds nowhere.json", "splits DATASET", "--out nowhere.json")),
    ],
)
def test_options_that_do_not_fit(raw, options, words):
    refused(raw, *words, **options)


def test_folds_of_another_data_set_and_a_fold_that_is_not_there(raw, tmp_path):
    refused(raw, "--fold is 2", "folds 0 to 1", splits=tmp_path / "folds.json", fold=2)
    (tmp_path / "folds.json").write_text(json.dumps([{"train": ["q1", *CASES], "val": []}]))
    refused(raw, "Fold 0", "1 cases that are not in Dataset027_Boxes (q1)", splits=tmp_path / "folds.json")


def test_force_replaces_nothing_but_its_own(raw):
    refused(raw, "Number 027 is taken", "choose another one.", out=27, force=True)
    refused(raw, "was not written by nnunet-ext landmarks derive", out="Dataset027_Boxes", force=True)
    made()
    refused(raw, "Number 227 is taken", "choose another one, or replace it with --force.")
    made(force=True, labels=("box",))
    assert len(open_landmarks(227).declaration.names) == 6


def test_a_case_without_dense_labels(raw):
    folder = raw / "Dataset027_Boxes"
    redescribe(folder, labels={**TWO, "ignore": 3})
    case = dense(0)
    case.write(folder / "labelsTr" / "p1_a.nii.gz", np.full_like(case.array, 3))
    refused(raw, "p1_a.nii.gz", "derived from dense labels")


def test_landmarks_that_no_case_has_and_labels_that_overlap(raw):
    folder = raw / "Dataset027_Boxes"
    redescribe(folder, labels={**TWO, "third": 3})
    refused(raw, "third", "present in any case", labels=("third",))
    redescribe(folder, labels={"background": 0, "whole": [1, 2], "right": 2}, regions_class_order=[1, 2])
    refused(raw, "['whole', 'right']", "values in common", rule="interface")


def test_a_failure_at_the_very_end_leaves_nothing_behind(raw, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(derive, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        made()
    assert [path.name for path in raw.iterdir()] == ["Dataset027_Boxes"]


# --- other images -----------------------------------------------------------------------------------------------------


def thick(folder: Path, axis: int) -> None:
    """Let the slices of the images be thick along an axis."""
    for place in ("imagesTr", "labelsTr"):
        for file in (folder / place).iterdir():
            image = sitk.ReadImage(str(file))
            image.SetSpacing([8.0 if a == 2 - axis else 1.0 for a in range(3)])
            sitk.WriteImage(image, str(file))


def test_thick_slices_leave_out_the_axis_across_them_unless_all_is_asked_for(raw):
    thick(raw / "Dataset027_Boxes", 0)
    made()
    assert {name.split("_")[1] for name in open_landmarks(227).declaration.names} == {
        "left",
        "right",
        "anterior",
        "posterior",
    }
    made(228, axes="all")
    assert "box_superior" in open_landmarks(228).declaration.names
    made(229, axes="all", rule="interface")
    assert "box-other_superior" not in open_landmarks(229).declaration.names


def test_slices_across_different_directions_are_not_the_same_landmarks(raw):
    folder = raw / "Dataset027_Boxes"
    thick(folder, 0)
    keep = folder.parent / "keep"
    shutil.copytree(folder, keep)
    thick(folder, 1)
    for place, name in (("imagesTr", "p1_a_0000.nii.gz"), ("labelsTr", "p1_a.nii.gz")):
        shutil.copyfile(keep / place / name, folder / place / name)
    shutil.rmtree(keep)
    refused(raw, "thick slices from anterior to posterior, but not p1_a", "split the data set")


def test_two_dimensional_images(raw):
    folder = raw / "Dataset039_Flat"
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
    for seed, case in enumerate(CASES):
        flat = dense(seed).array[10]
        skimage_io.imsave(folder / "imagesTr" / f"{case}_0000.png", flat * 90, check_contrast=False)
        skimage_io.imsave(folder / "labelsTr" / f"{case}.png", flat, check_contrast=False)
    content = {"channel_names": {"0": "photo"}, "labels": TWO, "numTraining": len(CASES), "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(content))
    result = made(239, 39, landmarks_everywhere=True)
    verify_dataset_integrity(str(result.folder), 1)
    assert len(open_landmarks(239).declaration.names) == 8
    truth = skimage_io.imread(result.references / "p1_a.png")
    x, y, _ = result.cases[0].landmarks["box_left"].position_mm
    assert x == np.argwhere(truth == 1)[:, 1].max() + 0.5
    assert truth[round(y), int(x)] == 1
