"""Findings in images without labels: every kind once, and none in sound ones."""

import json

import numpy as np
import pytest

from nnunet_ext.data.raw import open_dataset
from nnunet_ext.errors import InputError
from nnunet_ext.unlabelled.check import check_images
from nnunet_ext.unlabelled.found import find_images
from tests import tiny
from tests.unlabelled.raw import labelled_image, write_image, write_images

FINGERPRINT = {
    "spacings": [[1.0, 1.0, 1.0], [1.5, 1.0, 1.0]],
    "foreground_intensity_properties_per_channel": {"0": {"percentile_00_5": 0.5, "percentile_99_5": 2.5}},
}


@pytest.fixture
def root(nnunet_folders):
    return nnunet_folders()


def checked(root, fingerprint=FINGERPRINT, scheme="ZScoreNormalization", validates=None):
    raw = open_dataset(tiny.DATASET)
    return check_images(find_images(raw), raw, fingerprint, [scheme], validates or {}, processes=1)


def found(report):
    return [(finding.severity, finding.kind, finding.case) for finding in report.findings]


def test_sound_images_have_no_findings(root):
    write_images(root)
    report = checked(root)
    assert report.findings == ()
    assert report.same_as == {"new_0": (), "new_1": (), "new_2": ()}


def test_what_cannot_be_preprocessed_is_fatal_and_named(root):
    place = write_images(root, ["good"])
    write_image(place / "flat_0000.nii.gz", np.full((4, 5, 6), 3.0))
    holes = np.ones((4, 5, 6))
    holes[0, 0, 0], holes[0, 0, 1] = np.nan, 2
    write_image(place / "holes_0000.nii.gz", holes)
    (place / "torn_0000.nii.gz").write_bytes((place / "good_0000.nii.gz").read_bytes()[:200])
    write_image(place / "second_0001.nii.gz", np.random.default_rng(0).normal(size=(4, 5, 6)))
    report = checked(root)
    kinds = {"flat": "constant", "holes": "not finite", "torn": "unreadable", "second": "channels"}
    assert sorted(found(report)) == sorted(("fatal", kind, case) for case, kind in kinds.items())
    text = {finding.case: finding.text for finding in report.findings}
    assert text["flat"] == "all voxels of channel 0 are 3"
    assert "has no second_0000.nii.gz" in text["second"]
    assert "1 NaN" in text["holes"]


def test_files_with_other_names_are_named(root):
    place = write_images(root, ["good"])
    (place / "good_0000.nii.gz").rename(place / "other.nii.gz")
    write_images(root, ["new"])
    (place / ".hidden").touch()
    report = checked(root)
    assert found(report) == [("warning", "name", None)]
    assert report.findings[0].text == "another file is left out, other.nii.gz: images are named CASE_0000.nii.gz"
    (place / "notes.txt").touch()
    assert checked(root).findings[0].text.startswith("2 other files are left out, such as notes.txt: images")


def test_another_spacing_and_another_unit_are_warned_of(root):
    place = write_images(root, ["near"])
    noise = np.random.default_rng(0).normal(1, 0.5, (6, 7, 8))
    write_image(place / "far_0000.nii.gz", noise, spacing=(1.0, 1.0, 5.0))
    write_image(place / "edge_0000.nii.gz", noise + 0.1, spacing=(1.0, 1.0, 2.9))
    write_image(place / "unit_0000.nii.gz", 1000 + noise)
    report = checked(root, scheme="CTNormalization")
    assert found(report) == [("warning", "spacing", "far"), ("warning", "grey values", "unit")]
    spacing, grey = (finding.text for finding in report.findings)
    assert spacing == (
        "a spacing of 5 × 1 × 1 mm is far from that of the labelled images, 1 to 1.5 × 1 × 1 mm; is it the same kind "
        "of scan?"
    )
    assert grey.startswith("channel 0 has grey values of ")
    assert grey.endswith(
        "the labelled structures have 0.5 to 2.5; they are normalised by the labelled images, so is the unit another "
        "one?"
    )
    # an image that is normalised by itself may have any unit
    for scheme in ("ZScoreNormalization", "RescaleTo01Normalization"):
        assert found(checked(root, scheme=scheme))[1] == ("note", "grey values", "unit")
    assert (
        checked(root, scheme="NoNormalization").findings[1].text.endswith("have 0.5 to 2.5; is the unit another one?")
    )


def test_without_a_fingerprint_it_says_so(root):
    write_images(root)
    assert found(checked(root, fingerprint={})) == [("note", "spacing", None)]


def test_copies_are_found_by_their_voxels_whatever_they_are_called_and_wherever_they_lie(root):
    place = write_images(root)
    write_image(place / "other_name_0000.nii.gz", labelled_image(root, "tiny_4"), spacing=(1.0, 1.0, 1.4))
    write_image(place / "trained_0000.nii.gz", labelled_image(root, "tiny_0"))
    (place / "twin_0000.nii.gz").write_bytes((place / "new_1_0000.nii.gz").read_bytes())
    report = checked(root, validates={"tiny_4": [0, 2]})
    assert found(report) == [("warning", "copy", name) for name in ("other_name", "trained", "twin")]
    texts = [finding.text for finding in report.findings]
    assert texts == [
        "it has the voxels of the labelled case tiny_4; it is left out of fold 0, 2, which it validates",
        "it has the voxels of the labelled case tiny_0",
        "it has the voxels of new_1; remove one of them",
    ]
    assert report.same_as["other_name"] == ("tiny_4",)
    assert report.same_as["new_0"] == ()


def test_channels_in_several_files_are_one_image(root):
    for folder in ("raw", "preprocessed"):
        file = root / folder / tiny.DATASET / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "channel_names": {"0": "T1", "1": "T2"}}))
    labelled = root / "raw" / tiny.DATASET / "imagesTr"
    for image in list(labelled.glob("*_0000.nii.gz")):
        (labelled / image.name.replace("_0000", "_0001")).write_bytes(image.read_bytes())
    place = write_images(root, ["both", "one"])
    (place / "both_0001.nii.gz").write_bytes((place / "one_0000.nii.gz").read_bytes())
    report = checked(root, fingerprint={"spacings": [[1.0, 1.0, 1.0]]})
    assert found(report) == [("fatal", "channels", "one")]


@pytest.mark.parametrize("made", [False, True])
def test_no_folder_and_no_images_are_refused(root, made):
    place = root / "raw" / tiny.DATASET / "imagesUn"
    if made:
        place.mkdir()
        (place / "scan.nii.gz").touch()  # has no number of a channel
    sentence = "holds no images named like CASE_0000.nii.gz" if made else "There is no folder .*imagesUn; put the"
    with pytest.raises(InputError, match=sentence):
        find_images(open_dataset(tiny.DATASET))
