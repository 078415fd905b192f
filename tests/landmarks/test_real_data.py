"""The commands on the hippocampus, half of whose cases have landmarks instead of labels."""

import json
import os
from pathlib import Path

import pytest

from nnunet_ext.landmarks.check import check_landmarks
from nnunet_ext.landmarks.evaluate import evaluate
from tests.real_data import DATA, needs

HIPPOCAMPUS = DATA / "Dataset204_HippoHetero"
ON = ["Anterior", "Posterior"]
SURFACES = {"anterior_tip": ON[:1], "posterior_tip": ON[1:], "border_superior": ON, "border_inferior": ON}
KEPT = 40

pytestmark = needs(HIPPOCAMPUS.name)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The first cases, with absolute paths and a prior."""
    folder = tmp_path / HIPPOCAMPUS.name
    (folder / "landmarksTr").mkdir(parents=True)
    content = json.loads((HIPPOCAMPUS / "dataset.json").read_text())
    names = content["landmarks"] if isinstance(content["landmarks"], list) else content["landmarks"]["names"]
    content["landmarks"] = {"names": names, "surface_of": SURFACES}
    content["dataset"] = {
        case: {
            "images": [os.path.abspath(HIPPOCAMPUS / image) for image in files["images"]],
            "label": os.path.abspath(HIPPOCAMPUS / files["label"]),
        }
        for case, files in sorted(content["dataset"].items())[:KEPT]
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    for case in content["dataset"]:
        file = HIPPOCAMPUS / "landmarksTr" / f"{case}.mrk.json"
        if file.is_file():
            (folder / "landmarksTr" / file.name).symlink_to(file)
    return folder


def of_landmarks(report):
    """The findings without those about keys: this data set names the organs under a key of its own."""
    return [found for found in report.findings if found.kind != "key"]


def test_landmarks_lie_on_their_organs(folder):
    report = check_landmarks(folder, labels=HIPPOCAMPUS / "oracle" / "labelsTr", processes=1)
    assert of_landmarks(report) == []
    assert not any(distance.across for distance in report.distances)
    assert max(abs(distance.mm) for distance in report.distances) < 1.05
    across = check_landmarks(folder, processes=1)
    assert across.exit_code == 0
    assert all(distance.across for distance in across.distances)


def test_a_wrong_prior_is_found_with_both_and_across(folder):
    content = json.loads((folder / "dataset.json").read_text())
    content["landmarks"]["surface_of"]["anterior_tip"] = ["Posterior"]
    (folder / "dataset.json").write_text(json.dumps(content))
    report = check_landmarks(folder, labels=HIPPOCAMPUS / "oracle" / "labelsTr", processes=1)
    assert [(found.kind, found.about) for found in of_landmarks(report)] == [("prior", "anterior_tip")]
    assert report.exit_code == 1
    across = check_landmarks(folder, processes=1)
    assert [(found.severity, found.about) for found in of_landmarks(across)] == [("warning", "anterior_tip")]


def test_references_are_perfect_predictions(folder):
    places = (folder / "landmarksTr", folder / "landmarksTr")
    labels, declared = HIPPOCAMPUS / "oracle" / "labelsTr", folder / "dataset.json"
    found = evaluate(*places, labels=labels, dataset_json=declared, processes=1).summaries()["all"]
    assert found.mre == 0
    assert found.sdr[1.0] == 1
    assert found.surface < 0.6
