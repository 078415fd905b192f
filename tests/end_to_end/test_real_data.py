"""From raw files to predictions with the commands a user types, on the hippocampus data set."""

import json
import shutil

import pytest

from nnunet_ext.discovery import discovery_folder
from tests.end_to_end.test_training import run
from tests.real_data import DATA, needs

HIPPOCAMPUS = DATA / "Dataset004_Hippocampus"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real data"), *needs(HIPPOCAMPUS.name)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight cases, planned and preprocessed by nnU-Net for both kinds of networks."""
    root = tmp_path_factory.mktemp("real")
    raw = root / "raw" / HIPPOCAMPUS.name
    for sub in ("imagesTr", "labelsTr"):
        (raw / sub).mkdir(parents=True)
    description = json.loads((HIPPOCAMPUS / "dataset.json").read_text())
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (HIPPOCAMPUS / "labelsTr").glob("*.nii.gz"))[:8]
    for case in cases:
        shutil.copy(HIPPOCAMPUS / "labelsTr" / f"{case}.nii.gz", raw / "labelsTr")
        shutil.copy(HIPPOCAMPUS / "imagesTr" / f"{case}_0000.nii.gz", raw / "imagesTr")
    (raw / "dataset.json").write_text(json.dumps({**description, "numTraining": len(cases)}))
    environment = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    environment["nnUNet_extTrainer"] = str(discovery_folder())
    # 0 workers for augmentation is fine for training, but planning needs one
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "nnUNet_n_proc_DA": "1"}.items():
            patch.setenv(name, value)
        plan = ["-d", "4", "-c", "2d", "3d_fullres", "-np", "1", "-npfp", "1"]
        run("nnUNetv2_plan_and_preprocess", *plan, "--verify_dataset_integrity")
        run("nnUNetv2_plan_experiment", "-d", "4", "-pl", "nnUNetPlannerResEncM")
        splits = [{"train": cases[:6], "val": cases[6:]}]
        (root / "preprocessed" / HIPPOCAMPUS.name / "splits_final.json").write_text(json.dumps(splits))
    return root, environment


@pytest.mark.parametrize(("plans", "configuration"), [("nnUNetPlans", "3d_fullres"), ("nnUNetResEncUNetMPlans", "2d")])
def test_from_raw_files_to_a_prediction(folders, monkeypatch, plans, configuration):
    root, environment = folders
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    schedule = ["--epochs", "1", "--iterations", "2", "--batch-size", "2", "--features", "4", "8", "8", "8"]
    run(
        "nnunet-ext",
        "plans",
        "4",
        "--plans",
        plans,
        "--configuration",
        configuration,
        *schedule,
        "--name",
        "short",
        "--force",
    )
    model = ["-tr", "nnUNetTrainerPnPNet", "-p", "short"]
    trained = run("nnUNetv2_train", "4", configuration, "0", *model, "-device", "cpu")
    assert "Mean Validation Dice" in trained
    output = root / f"predicted_{configuration}"
    files = ["-i", str(root / "raw" / HIPPOCAMPUS.name / "imagesTr"), "-o", str(output)]
    predict = ["-d", "4", "-c", configuration, "-f", "0", "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta"]
    run("nnUNetv2_predict", *files, *predict, *model)
    assert len(list(output.glob("*.nii.gz"))) == 8
