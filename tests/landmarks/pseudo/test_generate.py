"""``nnunet-ext landmarks pseudo-label``: the data set that it writes, what it says of each case, what it refuses."""

import json

import numpy as np
import pytest
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from scipy.ndimage import binary_erosion
from skimage import io

from nnunet_ext.cli import main
from nnunet_ext.data.raw import open_dataset
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.dataset import open_landmarks
from nnunet_ext.landmarks.formats import write_markups
from nnunet_ext.landmarks.points import present
from nnunet_ext.landmarks.pseudo.candidates import Options, _by_organ
from nnunet_ext.landmarks.pseudo.generate import folds_of_segmented, label_map, pseudo_label, subjects_of
from nnunet_ext.partial_labels.declaration import annotated_labels
from nnunet_ext.splits.files import read_folds
from tests.landmarks.raw import BLOCK, Case, describe, write_dataset

SPANS = {"spans": {"box": [["left", "right"]]}}
CASES = {
    "seg_0": (Case(0), "labels"),
    "seg_1": (Case(1), "both"),
    "lm_0": (Case(2), "landmarks"),
    "lm_1": (Case(3), "landmarks"),
}


def whole_box(image, spacing_mm, foreground, background):
    """An engine that is right: the tests' images are bright boxes."""
    return image > 0.5


def nothing(image, spacing_mm, foreground, background):
    return np.zeros(image.shape, bool)


def stubborn(image, spacing_mm, foreground, background):
    """An engine that obeys prompts in a few voxels, and is wrong everywhere else."""
    mask = binary_erosion(image > 0.5, iterations=3)
    for points, inside in ((foreground, True), (background, False)):
        for z, y, x in np.rint(points).astype(int):
            mask[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = inside
    return mask


def needs_three_points(image, spacing_mm, foreground, background):
    return (image > 0.5) & (len(foreground) > 2)


class ByOrgan:
    """An engine that knows organs by name."""

    def of_organ(self, organ, channels):
        assert organ == "box"
        assert channels.shape == (1, *channels.shape[1:])
        return lambda image, *_: (image > 0.5) & (channels[0] > 0.5)


by_organ = ByOrgan()


def wrong_shape(image, spacing_mm, foreground, background):
    return np.zeros((2, 2, 2), bool)


def engine(function):
    return Options(engine=f"{__name__}:{function.__name__}")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    return write_dataset(tmp_path, CASES, landmarks={**BLOCK, **SPANS})


def labels_of(folder, case):
    return Reader("SimpleITKIO").labels(folder / "labelsTr" / f"{case}.nii.gz")


def test_an_engine_may_know_organs_by_name(source):
    for name, out in (("by_organ", "304"), ("whole_box", "305")):
        pseudo_label(204, out, Options(engine=f"{__name__}:{name}"))
    folders = [source.parent / f"Dataset{out}_BoxesPseudo" for out in (304, 305)]
    masks = [labels_of(folder, "lm_0").array for folder in folders]
    assert (masks[0] == 1).any()
    assert np.array_equal(*masks)


class OfColours:
    """An engine that knows organs and needs the three channels of a picture."""

    def of_organ(self, organ, channels):
        assert channels.shape[0] == 3
        return lambda image, *_: (image > 0.5) & (channels > 0.5).all(0)


of_colours = OfColours()


def test_an_engine_that_knows_organs_sees_all_channels_of_one_file(tmp_path):
    io.imsave(tmp_path / "a_0000.png", np.full((8, 8, 3), 200, np.uint8), check_contrast=False)
    make = _by_organ(of_colours, [tmp_path / "a_0000.png"], "NaturalImage2DIO")("box")
    assert make(np.ones((1, 8, 8)), (1, 1, 1), [], []).all()


def test_an_accepted_mask_becomes_organ_shell_and_ignore(source, capsys):
    options = f"{__name__}:whole_box"
    assert main(["landmarks", "pseudo-label", "204", "--new-dataset", "304", "--engine", options, "--shell", "3"]) == 0
    assert ["box", "2", "of", "2", "-"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    folder = source.parent / "Dataset304_BoxesPseudo"
    for case in ("lm_0", "lm_1"):
        written, box = labels_of(folder, case), CASES[case][0].array == 1
        assert (written.array[box] == 1).all()
        assert set(np.unique(written.array)) == {0, 1, 2}
        z, y, x = np.argwhere(box)[0]
        # spacing (2, 1, 1.5) mm: 3 mm are one slice, three rows, two columns
        around = written.array[:, y, x][: z + 1], written.array[z, :, x][: y + 1], written.array[z, y, :][: x + 1]
        assert [line[::-1][1:6].tolist()[:4] for line in around] == [[0, 2, 2, 2], [0, 0, 0, 2], [0, 0, 2, 2]]
        source_labels = labels_of(source, case)
        assert written.spacing_mm == source_labels.spacing_mm
        for key, value in source_labels.geometry.items():
            assert np.allclose(written.geometry[key], value)


def test_segmented_cases_landmarks_and_images_stay_as_they_are(source):
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    assert maybe_convert_to_dataset_name(304) == result.folder.name == "Dataset304_BoxesPseudo"
    for case in ("seg_0", "seg_1"):
        name = f"labelsTr/{case}.nii.gz"
        assert (result.folder / name).read_bytes() == (source / name).read_bytes()
    raw = open_dataset(304)
    assert [case.name for case in raw.cases] == sorted(CASES)
    assert raw.cases[0].images == open_dataset(204).cases[0].images
    assert sorted(open_landmarks(304).landmarks()) == ["lm_0", "lm_1", "seg_1"]
    # the only organ of the data set has a mask, so background there is background
    assert annotated_labels(raw.description) == {}
    assert not result.partial
    assert "2 of 2" in result.report()
    assert "nnUNetTrainerPartialLabels" not in result.report()


def test_an_organ_without_spans_is_prompted_beside_the_landmarks_on_its_surface(source):
    describe(source, landmarks=BLOCK)
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    assert "2 of 2" in result.report()
    assert list(result.checks) == ["seg_1"]
    assert result.checks["seg_1"]["box"].verdict.accepted
    organ = json.loads((result.folder / "pseudo_labels/lm_0.json").read_text())["organs"]["box"]
    assert [len(organ[name]) for name in ("foreground_mm", "background_mm")] == [3, 3]
    assert (organ["foreground_inside"], organ["background_outside"]) == (1, 1)


def test_a_landmark_does_not_test_a_mask_that_it_made(source):
    describe(source, landmarks=BLOCK)
    result = pseudo_label(source, "304", engine(stubborn), processes=1)
    for name in ("lm_0", "lm_1"):
        organ = json.loads((result.folder / f"pseudo_labels/{name}.json").read_text())["organs"]["box"]
        assert (organ["foreground_inside"], organ["background_outside"]) == (1, 1)
        assert organ["landmark_mm"] > 3
        assert "landmarks" in organ["refused_because_of"]


def test_an_empty_mask_from_half_of_the_landmarks_refuses_the_whole(source):
    describe(source, landmarks=BLOCK)
    result = pseudo_label(source, "304", engine(needs_three_points), processes=1)
    text = (result.folder / "pseudo_labels/lm_0.json").read_text()
    organ = json.loads(text, parse_constant=pytest.fail)["organs"]["box"]  # Infinity is no JSON
    assert (organ["landmark_mm"], organ["agreement"]) == (None, 0)
    assert organ["refused_because_of"] == ["landmarks", "agreement"]


def test_the_provenance_says_how_a_mask_was_made(source):
    pseudo_label(source, "304", engine(whole_box), processes=1)
    content = json.loads((source.parent / "Dataset304_BoxesPseudo/pseudo_labels/lm_0.json").read_text())
    organ = content["organs"]["box"]
    assert organ["accepted"] is True
    assert organ["volume_mm3"] == pytest.approx(8 * 10 * 12 * 3.0)
    assert organ["landmark_mm"] < 1e-3
    assert (len(organ["foreground_mm"]), content["options"]["seed"]) == (2, 0)
    assert content["options"]["limits"]["agreement"] == 0.8
    assert content["labelled_mm3"] == {"box": pytest.approx([8 * 10 * 12 * 3.0] * 2)}


def test_segmented_cases_with_landmarks_check_engine_and_filters(source):
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    assert list(result.checks) == ["seg_1"]
    assert ["box", "1.00", "(1.00", "to", "1.00)", "1", "of", "1", "-"] in [
        x.split() for x in result.report().splitlines()
    ]
    assert "refuse most true masks" not in result.report()
    content = json.loads((result.folder / "pseudo_labels/seg_1.json").read_text())["organs"]["box"]
    assert (content["dice"], content["true_mask_refused_because_of"]) == (1, [])
    # without landmarks in segmented cases there is nothing to check with
    (source / "landmarksTr/seg_1.mrk.json").unlink()
    assert "could be checked" in pseudo_label(source, "305", engine(whole_box), processes=1).report()


def test_lines_that_leave_the_organ_are_noticed(source):
    case = CASES["seg_1"][0]
    z, y, x = np.argwhere(case.array)[0]
    hollow = case.array.copy()
    hollow[z + 1 : z + 7, y + 2 : y + 8, x + 2 : x + 10] = 0
    case.write(source / "labelsTr/seg_1.nii.gz", hollow)
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    check = result.checks["seg_1"]["box"]
    full, kept = 8 * 10 * 12, 8 * 10 * 12 - 6 * 6 * 8
    assert check.dice == pytest.approx(2 * kept / (full + kept))
    assert "foreground prompts" in check.verdict.reasons
    assert "The filters refuse most true masks of box" in result.report()


def test_scribbled_and_partly_annotated_cases_check_nothing(source):
    labels = {"background": 0, "box": 1, "ignore": 2}
    describe(source, labels=labels, landmarks={**BLOCK, **SPANS}, annotated_labels={"seg_1": []})
    assert pseudo_label(source, "304", engine(whole_box), processes=1).checks == {}
    describe(source, labels=labels, landmarks={**BLOCK, **SPANS})
    scribbled = np.full_like(CASES["seg_1"][0].array, 2)
    scribbled[:, :2], scribbled[8, 12, 12] = 0, 1
    CASES["seg_1"][0].write(source / "labelsTr/seg_1.nii.gz", scribbled)
    result = pseudo_label(source, "305", engine(whole_box), processes=1)
    assert result.checks == {}
    content = json.loads((result.folder / "pseudo_labels/lm_0.json").read_text())
    assert content["labelled_mm3"] == {"box": pytest.approx([8 * 10 * 12 * 3.0] * 2)}  # of seg_0 alone


def test_a_case_in_which_nobody_looked_for_any_label_is_one_with_only_landmarks(source):
    describe(source, landmarks={**BLOCK, **SPANS}, annotated_labels={"lm_0": [], "seg_1": []})
    for case, found in {"lm_0": np.zeros_like(CASES["lm_0"][0].array), "seg_1": CASES["seg_1"][0].array}.items():
        CASES[case][0].write(source / "labelsTr" / f"{case}.nii.gz", found)
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    assert sorted(result.verdicts) == ["lm_0", "lm_1", "seg_1"]
    assert result.checks == {}
    assert all(set(np.unique(labels_of(result.folder, case).array)) == {0, 1, 2} for case in result.verdicts)
    assert annotated_labels(open_dataset(304).description) == {}
    content = json.loads((result.folder / "pseudo_labels/lm_0.json").read_text())
    assert content["labelled_mm3"] == {"box": pytest.approx([8 * 10 * 12 * 3.0] * 2)}  # of seg_0 alone


def test_a_case_whose_masks_are_refused_stays_all_ignore(source):
    result = pseudo_label(source, "304", engine(nothing), processes=1)
    for case in ("lm_0", "lm_1"):
        assert (labels_of(result.folder, case).array == 2).all()
        provenance = json.loads((result.folder / "pseudo_labels" / f"{case}.json").read_text())
        assert provenance["organs"]["box"]["refused_because_of"] == ["empty"]
    assert ["box", "0", "of", "2", "empty", "2"] in [line.split() for line in result.report().splitlines()]
    assert "No mask passed" in result.report()
    assert "nnUNetv2" not in result.report()


def test_folds_validate_on_segmented_cases_alone(source, capsys):
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    folds = read_folds(result.folder / "splits_final.json")
    assert sorted((fold.train, fold.val) for fold in folds) == [
        (("lm_0", "lm_1", "seg_0"), ("seg_1",)),
        (("lm_0", "lm_1", "seg_1"), ("seg_0",)),
    ]
    assert f"cp {result.folder}/splits_final*.json $nnUNet_preprocessed/{result.folder.name}/" in result.report()
    assert (
        "Without this copy, pseudo Dice, checkpoint_best and summary.json take masks by the engine" in result.report()
    )
    assert main(["splits", "304", "--check", str(result.folder / "splits_final.json"), "--by", "case"]) == 0
    # one segmented case cannot both train and validate
    CASES["seg_1"][0].write(source / "labelsTr/seg_1.nii.gz", np.full_like(CASES["seg_1"][0].array, 2))
    alone = pseudo_label(source, "305", engine(whole_box), processes=1)
    assert not list(alone.folder.glob("splits_final*"))
    assert "fewer than two subjects are segmented" in alone.report()


def test_masks_of_a_subject_that_validates_do_not_train():
    cases = [f"patient{number}_frame{frame}" for number in range(1, 8) for frame in (1, 2)]
    segmented = [case for case in cases if case.endswith("1") and "patient7" not in case]
    folds = folds_of_segmented(subjects_of(cases), segmented)
    assert sorted(case for fold in folds for case in fold.val) == segmented
    assert len(folds) == 5
    for fold in folds:
        assert {"patient7_frame1", "patient7_frame2"} <= set(fold.train)
        subjects = {case.split("_")[0] for case in fold.val}
        assert set(fold.train) == {case for case in cases if case.split("_")[0] not in subjects}


def test_where_only_some_organs_have_a_mask_the_data_set_says_so(source):
    labels = {"background": 0, "box": 1, "other": 2, "ignore": 3}
    block = {
        **BLOCK,
        "spans": {"box": [["left", "right"]], "other": [["left", "gone"]]},
        "names": [*BLOCK["names"], "gone"],
    }
    describe(source, labels=labels, landmarks=block, annotated_labels={"seg_0": ["box"], "lm_1": []})
    for case in ("lm_0", "lm_1"):
        CASES[case][0].write(source / "labelsTr" / f"{case}.nii.gz", np.full_like(CASES[case][0].array, 3))
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    entry = annotated_labels(open_dataset(304).description)
    assert entry == {"seg_0": {"box"}, "lm_0": {"box"}, "lm_1": {"box"}}
    assert [verdict["other"].reasons for verdict in result.verdicts.values()] == [("no prompts",)] * 2
    assert "-tr nnUNetTrainerPartialLabels" in result.report()


def test_the_random_walker_on_boxes_in_several_processes_is_the_same(source):
    one = pseudo_label(source, "304", processes=1)
    two = pseudo_label(source, "305", processes=2)
    assert one.verdicts == two.verdicts
    for case in CASES:
        assert np.array_equal(labels_of(one.folder, case).array, labels_of(two.folder, case).array)
    for case in ("lm_0", "lm_1"):
        organ = json.loads((one.folder / "pseudo_labels" / f"{case}.json").read_text())["organs"]["box"]
        assert organ["foreground_inside"] == 1


def test_overlapping_masks_are_ignored_where_they_overlap():
    masks = {name: np.zeros((1, 4, 12), bool) for name in "ab"}
    masks["a"][:, :, 2:6], masks["b"][:, :, 5:8] = True, True
    labels = label_map(masks, {"a": 1, "b": 2}, 3, np.array([1.0, 1.0, 1.0]), 2.0)
    assert labels[0, 0].tolist() == [0, 0, 1, 1, 1, 3, 2, 2, 0, 0, 3, 3]
    assert set(np.unique(label_map(masks, {"a": 1, "b": 300}, 301, np.ones(3), 2.0))) == {0, 1, 300, 301}
    without = label_map(masks, {"a": 1, "b": 2}, 3, np.array([1.0, 1.0, 1.0]), 0.0)
    assert without[0, 0].tolist() == [3, 3, 1, 1, 1, 3, 2, 2, 3, 3, 3, 3]


def refused(source, said, options=None, out="304"):
    with pytest.raises(InputError, match=said):
        pseudo_label(source, out, options or engine(whole_box), processes=1)
    assert sorted(path.name for path in source.parent.iterdir()) == [source.name]


def test_what_cannot_be_done_is_said_in_a_sentence_and_nothing_is_left_behind(source):
    refused(source, "returned a mask of shape", engine(wrong_shape))
    refused(source, "There is no engine 'x'", Options(engine="x"))
    refused(source, "Number 204 is taken", out="204")
    on_one = {**BLOCK, "surface_of": {"top": ["box"]}}
    labels = {"background": 0, "box": 1, "other": 2, "ignore": 3}
    on_two = {**BLOCK, "surface_of": {"left": ["box", "other"], "right": ["box"], "top": ["other"]}}
    describe(source, labels=labels, landmarks=on_two)
    refused(source, "mark no organ")
    describe(source, landmarks=on_one)
    refused(source, r'mark no organ.*"spans": \{"femur".*surface_of for at least two')
    block = {**BLOCK, **SPANS}
    describe(source, landmarks=block, labels={"background": 0, "box": 1})
    refused(source, "has no ignore label")
    describe(
        source,
        landmarks=block,
        labels={"background": 0, "box": [1, 2], "x": 2, "ignore": 3},
        regions_class_order=[1, 2],
    )
    refused(source, "spans has the region box")
    describe(source, landmarks=block)
    for case in ("lm_0", "lm_1"):
        (source / "landmarksTr" / f"{case}.mrk.json").unlink()
    refused(source, "has no case with only landmarks")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shell_mm": -5.0}, "--shell -5 "),
        ({"shell_mm": float("nan")}, "--shell nan "),
        ({"shell_mm": float("inf")}, "--shell inf "),
        ({"seed": -1}, "--seed -1 is negative"),
    ],
)
def test_options_without_a_meaning_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Options(**wrong)


def test_a_landmark_far_from_the_mask_refuses_it(source):
    case = CASES["lm_0"][0]
    moved = {**case.landmarks, "top": present(np.add(case.landmarks["top"].position_mm, (0, 0, 8.0)))}
    write_markups(source / "landmarksTr" / "lm_0.mrk.json", moved)
    result = pseudo_label(source, "304", engine(whole_box), processes=1)
    assert result.verdicts["lm_0"]["box"].reasons == ("landmarks",)
    assert result.verdicts["lm_1"]["box"].accepted
