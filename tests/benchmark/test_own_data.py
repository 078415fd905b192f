"""Data that a benchmark brings itself: linked, drawn, split and preprocessed at another resolution, in its folder."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.benchmark import own_data
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.missing_labels import removed_from
from nnunet_ext.benchmark.own_data import provide, with_raw_folder
from nnunet_ext.benchmark.own_folds import write_landmark_folds
from nnunet_ext.benchmark.plans import written_plans
from nnunet_ext.benchmark.preprocessed import STAMP, plans_of, splits, subsets
from nnunet_ext.benchmark.spec import DrawnLandmarks, MissingLabels, Spec, parse
from nnunet_ext.errors import InputError
from nnunet_ext.splits.files import read_folds
from nnunet_ext.splits.folds import Fold
from nnunet_ext.splits.subjects import group
from nnunet_ext.unlabelled.prepared import read_prepared
from nnunet_ext.unlabelled.preprocess import prepare_unlabelled
from tests import tiny
from tests.unlabelled.raw import write_image, write_images

SCRIBBLES = "Dataset902_TinyScribble"

CONTENT = {
    "baseline": "nnUNetTrainerReference",
    "trainers": ["nnUNetTrainerReference", {"name": "dense", "trainer": "nnUNetTrainerReference", "dataset": 901}],
    "datasets": [902],
    "references": {902: 901},
    "drawn": {902: {"from": 901, "scribbles": {"mode": "skeleton", "thickness": 1}}},
    "splits": {"by": "pairs-from-0", "folds": 3},
    "configurations": ["3d_fullres"],
    "plans": {"spacing": [2, 2, 2], "features": [4, 8], "epochs": 1, "iterations": 1},
    "raw": "$nnUNet_raw",
    "device": "cpu",
}


@pytest.fixture
def root(nnunet_folders, monkeypatch):
    root = nnunet_folders()
    monkeypatch.setenv("nnUNet_raw", str(root / "raw"))
    return root


@pytest.fixture
def commands(root, monkeypatch):
    """Commands of nnU-Net that would have been run, one list a call; what they leave is written here."""
    given: list[list[str]] = []

    def run(label, command, *, shown, log, env, progress):
        words = shown.split()
        given.append(words)
        number = words[words.index("-d") + 1]
        preprocessed = Path(env["nnUNet_preprocessed"])
        [raw] = Path(env["nnUNet_raw"]).glob(f"Dataset{number}_*")
        folder = preprocessed / raw.name
        cases = [file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir()]
        folder.mkdir(exist_ok=True)
        if words[0] == "nnUNetv2_plan_and_preprocess":
            fingerprint = {"spacings": [[1, 1, 1]] * len(cases), "shapes_after_crop": [[18, 20, 22]] * len(cases)}
            for name, content in (("nnUNetPlans", tiny.plans()), ("dataset_fingerprint", fingerprint)):
                (folder / f"{name}.json").write_text(json.dumps(content))
            (folder / "dataset.json").write_text((raw / "dataset.json").read_text())
        name = words[words.index("-plans_name") + 1] if "-plans_name" in words else "nnUNetPlans"
        plans = json.loads((folder / f"{name}.json").read_text())
        for configuration in words[words.index("-c") + 1 :] if "-c" in words else []:
            if configuration.startswith("-"):
                break
            data = folder / plans["configurations"][configuration]["data_identifier"]
            data.mkdir()
            for case in cases:
                (data / f"{case}.pkl").touch()

    monkeypatch.setattr(own_data, "run_step", run)
    return given


def prepared(root: Path, **changes) -> tuple[Spec, BenchmarkFolder]:
    content = {**CONTENT, **changes}
    spec = with_raw_folder(parse({k: v for k, v in content.items() if v is not None}, "mine.yaml", "mine"))
    benchmark = BenchmarkFolder(root / "benchmark")
    benchmark.use_data(spec)
    return provide(spec, benchmark), benchmark


def test_scribbles_are_drawn_beside_links_to_the_data_sets_of_the_user(root, commands):
    before = sorted((root / "raw").rglob("*"))
    _, benchmark = prepared(root)
    assert sorted((root / "raw").rglob("*")) == before
    assert (benchmark.raw / tiny.DATASET).is_symlink()
    drawn = json.loads((benchmark.raw / SCRIBBLES / "scribbles.json").read_text())
    assert (drawn["options"]["mode"], drawn["options"]["thickness"]) == ("skeleton", 1)


def test_an_arm_of_another_configuration_has_its_own_data(root, commands):
    in_2d = {"name": "slices", "trainer": "nnUNetTrainerReference", "configuration": "2d", "plans": {"spacing": [2, 2]}}
    prepared(root, trainers=[*CONTENT["trainers"], in_2d])
    own = [words for words in commands if "-plans_name" in words and words[words.index("-d") + 1] == "902"]
    assert [words[words.index("-c") + 1 :] for words in own] == [["3d_fullres"], ["2d"]]
    prepared(root, trainers=[*CONTENT["trainers"], {**in_2d, "plans": {}}], plans={"epochs": 1, "iterations": 1})
    later = [words for words in commands[len(own) :] if words[0] == "nnUNetv2_preprocess"]
    shared = [words for words in later if "-plans_name" not in words]
    assert [words[-2:] for words in shared if words[words.index("-d") + 1] == "902"] == [["3d_fullres", "2d"]]


def test_images_without_labels_are_preprocessed_once_for_the_arms_that_draw_them(root, commands, capsys):
    write_images(root)
    own = {"datasets": [901], "references": None, "drawn": None}
    stock, without, ours = (
        {"name": name, "trainer": trainer, "plans": {"options": {"unlabelled": {"images": images}}}}
        for name, trainer, images in (
            ("nnUNetTrainerReference", "nnUNetTrainerReference", "folder"),
            ("without", "nnUNetTrainerMedContext", "none"),
            ("ours", "nnUNetTrainerMedContext", "folder"),
        )
    )
    _, benchmark = prepared(root, trainers=[stock, without], **own)
    assert not list((benchmark.folder / "nnUNet_preprocessed").glob(f"{tiny.DATASET}/unlabelled/*"))
    for times in range(2):
        prepared(root, trainers=[stock, without, ours], **own)
        assert ("3 images without labels" in capsys.readouterr().out) is (times == 0)
    (place,) = (benchmark.folder / "nnUNet_preprocessed").glob(f"{tiny.DATASET}/unlabelled/*")
    assert sorted(read_prepared(place)) == ["new_0", "new_1", "new_2"]
    assert not list((root / "preprocessed").rglob("unlabelled"))
    images = root / "raw" / tiny.DATASET / "imagesUn"
    (images / "new_2_0000.nii.gz").unlink()
    prepared(root, trainers=[stock, ours], **own)
    assert sorted(read_prepared(place)) == ["new_0", "new_1"]
    assert "1 images without labels left" in capsys.readouterr().out
    plans = {
        json.loads(file.read_text())["configurations"]["3d_fullres"]["data_identifier"]: file.stem
        for file in place.parents[1].glob("nnUNetPlans*.json")
    }
    elsewhere = write_images(root, ["other"], folder="elsewhere")
    prepare_unlabelled(901, plans[place.name], ["3d_fullres"], images=elsewhere, processes=1)
    capsys.readouterr()
    images.rename(away := images.with_name("away"))
    prepared(root, trainers=[stock, ours], **own)
    assert sorted(read_prepared(place)) == ["other"]
    assert "2 images without labels left" in capsys.readouterr().out
    away.rename(images)
    with pytest.raises(InputError, match="has no configuration '3d_lowres'"):
        prepared(root, trainers=[stock, ours], configurations=["3d_lowres"], **own)
    write_image(root / "raw" / tiny.DATASET / "imagesUn" / "new_1_0000.nii.gz", np.ones((9, 9, 9)))
    with pytest.raises(InputError, match="imagesUn, new_1: all voxels of channel 0 are 1; correct or remove the image"):
        prepared(root, trainers=[stock, ours], **own)


def test_missing_labels_are_drawn_by_subject(root, commands):
    removed = {902: {"from": 901, "missing_labels": {"removed": [1], "seed": 1}}}
    _, benchmark = prepared(root, drawn=removed)
    content = json.loads((benchmark.raw / "Dataset902_TinyMissingLabels" / "dataset.json").read_text())
    annotated = content["annotated_labels"]
    assert annotated["tiny_0"] == annotated["tiny_1"]


def test_a_label_alone_brings_folds_of_its_own_and_validates_on_the_same_cases(root, commands):
    options = MissingLabels(removed=[1], seed=1, alone="left")
    drawn = {903: {"from": 901, "missing_labels": options.model_dump()}}
    trainers = ["nnUNetTrainerReference", "nnUNetTrainerPnPNet"]
    prepared(root, drawn=drawn, datasets=[901, 903], references=None, trainers=trainers)
    preprocessed = root / "benchmark" / "nnUNet_preprocessed"
    (own,) = preprocessed.glob("Dataset903_*/splits_final.json")
    of_source = json.loads((preprocessed / tiny.DATASET / "splits_final.json").read_text())
    subject_of = group(of_source[0]["train"] + of_source[0]["val"], "pairs-from-0").subject_of
    seen: set[str] = set()
    for fold, all_labels in zip(json.loads(own.read_text()), of_source, strict=True):
        assert fold["val"] == all_labels["val"]
        lacking = {case for case in all_labels["train"] if 1 in removed_from(subject_of[case], (1, 2), options)}
        assert fold["train"] == [case for case in all_labels["train"] if case not in lacking]
        seen |= lacking
    assert seen


def test_what_was_drawn_by_an_earlier_version_is_not_drawn_again(root, commands):
    _, benchmark = prepared(root)
    file = benchmark.raw / SCRIBBLES / "nnunet_ext_drawn.json"
    known = json.loads(file.read_text())
    assert "missing_labels" not in known
    del known["state_of_source"]
    file.write_text(json.dumps({**known, "landmarks": None, "borders": None}))
    before = (benchmark.raw / SCRIBBLES / "scribbles.json").stat().st_mtime_ns
    prepared(root)
    assert (benchmark.raw / SCRIBBLES / "scribbles.json").stat().st_mtime_ns == before


def test_copied_files_are_not_preprocessed_again_and_changed_ones_are(root, commands):
    trainers = ["nnUNetTrainerReference", "nnUNetTrainerPnPNet"]
    changes = {"drawn": None, "references": None, "datasets": [901], "trainers": trainers}
    prepared(root, **changes)
    labels = root / "raw" / tiny.DATASET / "labelsTr"
    file = min(labels.glob("*.nii.gz"))
    for times in (1, 2):  # at the second preparation the new times are known
        os.utime(file, ns=(times, times))
        done = len(commands)
        prepared(root, **changes)
        prepared(root, **changes)
        assert len(commands) == done
    other = max(labels.glob("*.nii.gz"))
    file.write_bytes(other.read_bytes())
    prepared(root, **changes)
    assert commands[done][0] == "nnUNetv2_plan_and_preprocess"


def test_data_drawn_from_the_synthetic_data_set_needs_no_raw_folder(root, commands, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    spec, benchmark = prepared(
        root,
        datasets=[905],
        trainers=[
            "nnUNetTrainerReference",
            {"name": "truth", "trainer": "nnUNetTrainerReference", "dataset": "synthetic"},
        ],
        references={905: "synthetic"},
        drawn={905: {"from": "synthetic", "borders": {"between": ["dark", "bright"]}}},
        synthetic_cases=6,
        raw=None,
        splits=None,
    )
    assert sorted(path.name for path in benchmark.raw.iterdir()) == [
        "Dataset900_TouchingStructures",
        "Dataset905_TouchingStructuresMovedBorder",
    ]
    assert len(list((benchmark.raw / "Dataset900_TouchingStructures" / "labelsTr").iterdir())) == 6
    assert spec.references == {"905": "Dataset900_TouchingStructures"}
    assert spec.arms[1].dataset == "Dataset900_TouchingStructures"
    assert {words[words.index("-d") + 1] for words in commands} == {"900", "905"}


def test_another_resolution_is_preprocessed_alone_and_once(root, commands):
    spec, benchmark = prepared(root)
    plans = written_plans(spec.arms[0].plans, SCRIBBLES, spec.configurations)
    assert [[words[0], words[words.index("-d") + 1]] for words in commands] == [
        ["nnUNetv2_plan_and_preprocess", "902"],
        ["nnUNetv2_preprocess", "902"],
        ["nnUNetv2_plan_and_preprocess", "901"],
        ["nnUNetv2_preprocess", "901"],
    ]
    assert "--no_pp" in commands[0]
    assert commands[1][commands[1].index("-plans_name") + 1] == plans
    configuration = json.loads((benchmark.folder / "nnUNet_preprocessed" / SCRIBBLES / f"{plans}.json").read_text())
    assert configuration["configurations"]["3d_fullres"]["spacing"] == [2, 2, 2]
    prepared(root)
    assert len(commands) == 4


def test_slices_across_another_axis_have_their_own_data(root, commands):
    names = []
    for axis in (None, 1):
        plans = {"slice_axis": axis, "epochs": 1, "iterations": 1}
        spec, benchmark = prepared(root, configurations=["2d"], plans=plans)
        written = written_plans(spec.arms[0].plans, SCRIBBLES, spec.configurations)
        names.append(plans_of(SCRIBBLES, written)["configurations"]["2d"]["data_identifier"])
    assert names == ["nnUNetPlans_2d", "nnUNetPlans_2d_across1_1x1mm"]
    assert (benchmark.folder / "nnUNet_preprocessed" / SCRIBBLES / names[1]).is_dir()


def test_other_scribbles_are_drawn_and_preprocessed_again(root, commands):
    prepared(root)
    _, benchmark = prepared(root, drawn={902: {"from": 901, "scribbles": {"mode": "line"}}})
    assert json.loads((benchmark.raw / SCRIBBLES / "scribbles.json").read_text())["options"]["mode"] == "line"
    assert [words[words.index("-d") + 1] for words in commands[4:]] == ["902", "902"]


def test_a_corrected_source_is_drawn_again_and_found_where_it_has_moved(root, commands, monkeypatch):
    _, benchmark = prepared(root)
    drawn = benchmark.raw / SCRIBBLES / "labelsTr" / "tiny_0.nii.gz"
    before = drawn.read_bytes()
    labels = root / "raw" / tiny.DATASET / "labelsTr"
    shutil.copyfile(labels / "tiny_1.nii.gz", labels / "tiny_0.nii.gz")
    (root / "raw").rename(root / "moved")
    monkeypatch.setenv("nnUNet_raw", str(root / "moved"))
    prepared(root)
    assert (benchmark.raw / tiny.DATASET).resolve() == root / "moved" / tiny.DATASET
    assert drawn.read_bytes() != before


def test_a_changed_image_of_the_source_is_preprocessed_again(root, commands):
    prepared(root)
    stamped = root / "benchmark" / "nnUNet_preprocessed" / SCRIBBLES / STAMP
    image = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_0_0000.nii.gz"
    os.utime(image, ns=(1, 1))  # as if it had been copied
    done = len(commands)
    prepared(root)
    assert len(commands) == done
    known = json.loads(stamped.read_text())
    image.write_bytes((image.parent / "tiny_1_0000.nii.gz").read_bytes())
    prepared(root)
    assert ["nnUNetv2_plan_and_preprocess", "902"] in [[words[0], words[2]] for words in commands[done:]]
    again = json.loads(stamped.read_text())
    assert again["key"] == known["key"]
    assert again["listed"] != known["listed"]


def test_data_of_an_earlier_version_which_did_not_look_at_images_of_the_source_stays(root, commands):
    prepared(root)
    stamped = root / "benchmark" / "nnUNet_preprocessed" / SCRIBBLES / STAMP
    known = json.loads(stamped.read_text())
    stamped.write_text(json.dumps({**{key: known[key] for key in ("key", "configurations")}, "seen": "before"}))
    done = len(commands)
    prepared(root)
    assert len(commands) == done
    assert json.loads(stamped.read_text()) == known


def test_the_folds_are_by_subject_and_the_same_for_all_data_sets(root, commands):
    prepared(root)
    assert len(splits(SCRIBBLES)) == 3
    assert splits(SCRIBBLES) == splits(tiny.DATASET)
    for fold in splits(SCRIBBLES):
        assert {int(case[-1]) // 2 for case in fold["train"]}.isdisjoint(int(case[-1]) // 2 for case in fold["val"])


def test_few_shot_subsets(root, commands):
    prepared(root, splits={"by": "pairs-from-0", "folds": 3, "few_shot": [1], "seeds": [0, 1]})
    assert subsets(SCRIBBLES) == ["1 training subjects"] * 2
    assert [len(fold["train"]) for fold in splits(SCRIBBLES)] == [2, 2]


def test_without_a_spacing_the_planned_resolution_is_preprocessed(root, commands):
    trainers = ["nnUNetTrainerReference", "nnUNetTrainerPnPNet"]
    prepared(root, plans={"epochs": 1}, drawn=None, datasets=[901], references=None, trainers=trainers)
    assert [words[0] for words in commands] == ["nnUNetv2_plan_and_preprocess"]
    assert commands[0][commands[0].index("-c") + 1] == "3d_fullres"


def test_a_raw_folder_that_is_none(root, monkeypatch):
    with pytest.raises(InputError, match=r"raw: \$nowhere is no folder; export nnUNet_raw"):
        prepared(root, raw="$nowhere")


def test_scribbles_with_an_option_that_does_not_exist(root, commands):
    with pytest.raises(InputError, match="drawn, 902: nnunet-ext scribbles generate has no option 'width'; there are"):
        prepared(root, drawn={902: {"from": 901, "scribbles": {"width": 3}}})
    with pytest.raises(InputError, match="mode is 'blob'"):
        prepared(root, drawn={902: {"from": 901, "scribbles": {"mode": "blob"}}})


def test_plans_whose_data_is_not_preprocessed(root, commands, monkeypatch):
    spec, benchmark = prepared(root)
    for file in (benchmark.folder / "nnUNet_preprocessed" / SCRIBBLES).rglob("*.pkl"):
        file.unlink()
    recipe, name = spec.arms[0].plans, r"nnUNetPlans_bench[0-9a-f]{6}"
    words = rf"{SCRIBBLES} is not preprocessed for {name}; run: nnUNetv2_preprocess -d 902 -plans_name {name}"
    with pytest.raises(InputError, match=words):
        written_plans(recipe, SCRIBBLES, spec.configurations)


LANDMARKS = {"from": 901, "landmarks": {"rule": "interface", "segmented": 1, "subsets": 1}}


def test_landmarks_take_the_place_of_masks_and_every_subset_is_a_fold(root, commands):
    _, benchmark = prepared(root, drawn={902: LANDMARKS}, splits={"by": "pairs-from-0", "folds": 3})
    kept = json.loads((benchmark.raw / "Dataset902_TinyLandmarks" / "landmarks.json").read_text())["cases"]
    [fold] = splits("Dataset902_TinyLandmarks")
    assert fold == splits(tiny.DATASET)[0]  # of the arm with all masks
    assert sorted(kept[case] for case in fold["train"]) == ["landmarks"] * 2 + ["segmentation"] * 2
    assert [kept[case] for case in fold["val"]] == ["both"] * 2
    assert subsets("Dataset902_TinyLandmarks") == []
    before = (benchmark.raw / "Dataset902_TinyLandmarks" / "landmarks.json").stat().st_mtime_ns
    prepared(root, drawn={902: LANDMARKS}, splits={"by": "pairs-from-0", "folds": 3})
    assert (benchmark.raw / "Dataset902_TinyLandmarks" / "landmarks.json").stat().st_mtime_ns == before


def test_subsets_have_no_mask_in_common_and_share_the_landmarks(tmp_path):
    base = Fold(tuple(f"c{i}" for i in range(8)), ("v0", "v1"))
    kept = {"c0": "segmentation", "c3": "segmentation", "c5": "segmentation", "c6": "segmentation", "v0": "both"}
    cases = {case: kept.get(case, "landmarks") for case in base.train} | {"v0": "both", "v1": "both"}
    about = {"cases": cases, "segmented_subjects": ["c0", "c3", "c5", "c6"]}
    (tmp_path / "landmarks.json").write_text(json.dumps(about))
    write_landmark_folds(tmp_path, base, DrawnLandmarks(segmented=2, subsets=2), "case")
    first, second = read_folds(tmp_path / "splits_final.json")
    others = {"c1", "c2", "c4", "c7"}
    assert set(first.train) & set(second.train) == others
    assert set(first.train) | set(second.train) == set(base.train)
    assert (len(first.train), len(second.train)) == (6, 6)
    assert first.val == second.val == base.val
