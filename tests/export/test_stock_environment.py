"""Exported models in an environment without this package: nnU-Net's own commands, bit for bit our predictions."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ext.export.write import export_model
from tests import tiny
from tests.end_to_end.test_training import declare, short_plans
from tests.export import slicer

pytestmark = pytest.mark.xdist_group("stock environment")

# where this package lies as plain files among the heavy packages, leaving out their .pth files does not hide it
BLOCK = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "nnunet_ext":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
# as many threads as here: with another number, other kernels may round differently in the last bit
RUN = """
import multiprocessing, os, sys
from importlib.metadata import entry_points
multiprocessing.cpu_count = lambda: int(os.environ["OMP_NUM_THREADS"])  # what nnU-Net asks
(command,) = entry_points(group="console_scripts", name=sys.argv[1])
del sys.argv[0]
command.load()()
"""


@pytest.fixture(scope="session")
def stock_python(tmp_path_factory):
    """A Python that has nnU-Net and not this package."""
    folder = tmp_path_factory.mktemp("stock") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(subprocess.check_output([str(python), "-c", query], text=True).strip())
    (site / "heavy.pth").write_text("\n".join({sysconfig.get_paths()[key] for key in ("purelib", "platlib")}))
    (site / "sitecustomize.py").write_text(BLOCK)
    return python


@pytest.fixture
def stock(stock_python, tmp_path):
    """``stock(code, *arguments)`` runs Python code there; ``stock.results`` are its own nnUNet_results."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        # nnU-Net exports with this many threads, which round differently in the last bit
        "nnUNet_def_n_proc": str(default_num_processes),
        **{f"nnUNet_{name}": str(tmp_path / "elsewhere" / name) for name in ("raw", "preprocessed", "results")},
    }

    def run(code, *arguments, **variables):
        result = subprocess.run(
            [str(stock_python), "-c", code, *map(str, arguments)],
            env={**environment, **variables},
            cwd=tmp_path / "elsewhere",
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    run.results = tmp_path / "elsewhere" / "results"
    return run


def our_prediction(model, images, out):
    """With the trainer that trained it, mirroring included."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    out.mkdir()
    predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=True)


def assert_same_predictions(ours, theirs):
    cases = sorted(path.name for path in ours.glob("*.npz"))
    assert len(cases) == 2
    for case in cases:
        with np.load(ours / case) as a, np.load(theirs / case) as b:
            assert a["probabilities"].std() > 0
            assert np.array_equal(a["probabilities"], b["probabilities"])
        a, b = (sitk.ReadImage(str(folder / case.replace(".npz", ".nii.gz"))) for folder in (ours, theirs))
        assert np.array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b))
        assert a.GetOrigin() == b.GetOrigin()


def test_the_environment_does_not_have_this_package(stock):
    code = "import nnunetv2\ntry:\n    import nnunet_ext\nexcept ModuleNotFoundError:\n    print('not here')"
    assert stock(code).strip() == "not here"


FINE_TUNE = """
import json, sys, torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

manager = PlansManager(json.load(open(sys.argv[1])))
network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("2d"), 1, 3)
load_pretrained_weights(network, sys.argv[2])
torch.save(network.state_dict(), sys.argv[3])
"""


@pytest.mark.slow
def test_stock_nnunet_starts_from_a_checkpoint_of_ours_as_it_is(trained, stock, tmp_path):
    folder, trainers = trained("nnUNetTrainerMedContextPnPNet")
    stock(FINE_TUNE, folder / "plans.json", folder / "fold_0" / "checkpoint_final.pth", tmp_path / "started.pth")
    started, own = torch.load(tmp_path / "started.pth"), trainers[0].network.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in started.items() if ".seg_layers." not in key)


def train(nnunet_folders, make_trainer, monkeypatch, name, configuration, kind, declared=None):
    """A trained model, two images, and what our environment predicts."""
    root = nnunet_folders(kind)
    declare(root, monkeypatch, declared or {})
    trainer = make_trainer(name, configuration=configuration, kind=kind, plans=short_plans())
    trainer.run_training()
    images = root / "images"
    images.mkdir()
    for case in ("tiny_4", "tiny_5"):
        shutil.copy(root / "raw" / tiny.DATASET / "imagesTr" / f"{case}_0000.nii.gz", images)
    model = Path(trainer.output_folder_base)
    our_prediction(model, images, root / "ours")
    return model, images, root / "ours"


FLAGS = ("-device", "cpu", "--save_probabilities", "--disable_progress_bar")


def test_a_zip_file_is_installed_and_predicted_with(nnunet_folders, make_trainer, monkeypatch, stock, tmp_path):
    model, images, ours = train(
        nnunet_folders, make_trainer, monkeypatch, "nnUNetTrainerMedContext", "3d_fullres", "classes"
    )
    export_model(model, tmp_path / "medcontext.zip")
    stock(RUN, "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "medcontext.zip")
    assert [path.name for path in (stock.results / tiny.DATASET).iterdir()] == [model.name]
    chosen = ("-d", "901", "-c", "3d_fullres", "-tr", "nnUNetTrainerMedContext", "-f", "0")
    stock(RUN, "nnUNetv2_predict", "-i", images, "-o", tmp_path / "theirs", *chosen, *FLAGS, "-npp", "0", "-nps", "0")
    assert_same_predictions(ours, tmp_path / "theirs")


@pytest.mark.slow
def test_a_folder_is_predicted_with_where_it_is(nnunet_folders, make_trainer, monkeypatch, stock, tmp_path):
    declared = {"landmarks": {"names": ["tip"], "surface_of": {"tip": ["left"]}}}
    model, images, ours = train(
        nnunet_folders, make_trainer, monkeypatch, "nnUNetTrainerBaBLoss", "2d", "ignore", declared
    )
    export_model(model, tmp_path / "model")
    chosen = ("-m", tmp_path / "model", "-f", "0", *FLAGS, "-npp", "1", "-nps", "1")  # this command cannot do with 0
    stock(RUN, "nnUNetv2_predict_from_modelfolder", "-i", images, "-o", tmp_path / "theirs", *chosen)
    assert_same_predictions(ours, tmp_path / "theirs")


@pytest.mark.slow
def test_what_3d_slicer_runs_predicts_with_an_unpacked_zip_file(nnunet_folders, trained, stock, tmp_path):
    root = nnunet_folders("classes")
    images, out = root / "images", root / "out"
    images.mkdir()
    out.mkdir()
    shutil.copy(root / "raw" / tiny.DATASET / "imagesTr" / "tiny_4_0000.nii.gz", images / "volume_0000.nii.gz")
    folder, _ = trained("nnUNetTrainerMedContext", "3d_fullres")
    export_model(folder, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    arguments, results = slicer.command(tmp_path / "unpacked", images, out)
    variables = {f"nnUNet_{name}": str(results) for name in ("raw", "preprocessed", "results")}
    stock(RUN, "nnUNetv2_predict", *arguments, **variables)
    image, found = (sitk.ReadImage(str(file)) for file in (images / "volume_0000.nii.gz", out / "volume.nii.gz"))
    assert found.GetSize() == image.GetSize()
    assert found.GetSpacing() == pytest.approx(image.GetSpacing())
    assert set(np.unique(sitk.GetArrayFromImage(found))) <= {0, 1, 2}
