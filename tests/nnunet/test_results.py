"""One sentence says what stands in the way of a training's results, and the checkpoint before stays."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.results import LOCK, alone_in
from nnunet_ext.processes.lock import held
from tests import tiny


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of so many KiB."""
    mounted = []

    def mount(kib, *options):
        folder = tmp_path / f"disk_{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kib}k", *options]), "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no command mount")
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def short(epochs=3):
    plans = tiny.plans()
    schedule = {"epochs": epochs, "iterations": 1, "validation_iterations": 1}
    plans["configurations"]["2d"]["nnunet_ext"] = {"schedule": schedule}
    return plans


def one_line(excinfo):
    message = str(excinfo.value)
    assert "\n" not in message
    assert isinstance(excinfo.value, InputError)
    return message


@pytest.mark.parametrize("name", ["nnUNetTrainerReference", "nnUNetTrainerMedContext"])
def test_a_full_disk_ends_a_training_with_one_sentence_and_a_whole_checkpoint(
    nnunet_folders, make_trainer, small_disk, monkeypatch, name
):
    nnunet_folders()
    results = small_disk(1024)
    monkeypatch.setenv("nnUNet_results", str(results))
    trainer = make_trainer(name, configuration="2d", plans=short())
    trainer.logger.plot_progress_png = lambda _: None
    end, filler = trainer.on_epoch_end, results / "filler"

    def on_epoch_end():
        if trainer.current_epoch == 1:
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(2**20))
            with filler.open("r+b") as file:  # room for a log, but not for a checkpoint
                file.truncate(filler.stat().st_size - 24 * 1024)
        end()

    trainer.on_epoch_end = on_epoch_end
    with pytest.raises(ValueError, match=f"no room left on the disk of {results}.* --c") as excinfo:
        trainer.run_training()
    one_line(excinfo)
    folder = results / tiny.DATASET / f"{name}__nnUNetPlans__2d" / "fold_0"
    left = torch.load(folder / "checkpoint_latest.pth", weights_only=False)
    assert left["current_epoch"] == 1
    assert not list(folder.glob(".checkpoint*"))
    filler.unlink()
    again = make_trainer(name, configuration="2d", plans=short(), seed=1)
    again.logger.plot_progress_png = lambda _: None
    again.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    again.run_training()
    assert (folder / "checkpoint_final.pth").is_file()


def test_results_that_must_not_be_written_are_one_sentence(make_trainer, small_disk, monkeypatch):
    results = small_disk(64, "ro")
    monkeypatch.setenv("nnUNet_results", str(results))
    with pytest.raises(ValueError, match=rf"^{results}\S* cannot be written \(Read-only.*nnUNet_results") as excinfo:
        make_trainer("nnUNetTrainerPnPNet", configuration="2d")
    one_line(excinfo)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_training_on_a_gpu_that_is_not_there_is_refused_in_one_sentence(tmp_path, monkeypatch):
    from nnunet_ext.catalogue import resolve

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    plans = {**tiny.plans(), "continue_training": False}
    with pytest.raises(ValueError, match="-device cuda is asked for, but PyTorch finds none") as excinfo:
        resolve("nnUNetTrainerPnPNet")(plans, "2d", 0, tiny.dataset_json(), torch.device("cuda"))
    one_line(excinfo)
    assert not list(tmp_path.iterdir())


HOLDER = """
import sys
from pathlib import Path
from nnunet_ext.files import replacing
from nnunet_ext.nnunet.results import alone_in
folder = Path(sys.argv[1])
with alone_in(folder), replacing(folder / "checkpoint_latest.pth") as half:
    half.touch()
    print(half, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which trains in a folder and writes a checkpoint: the folder, that process, the half file."""
    folder = tmp_path / "fold_0"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield folder, process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_a_fold_that_another_process_trains_is_refused_until_that_is_killed(other):
    folder, process, half = other
    with pytest.raises(ValueError, match=f"Another training is at work in {folder}, .* --c") as excinfo:
        alone_in(folder).__enter__()
    one_line(excinfo)
    assert half.exists()  # it is that one's
    process.kill()
    process.wait()
    with alone_in(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert (folder / LOCK).read_bytes() == b""
    with held(folder / LOCK) as free:
        assert free


def test_a_fold_that_another_process_trains_is_not_validated(other, make_trainer, monkeypatch):
    folder, process, _ = other
    trainer = make_trainer("nnUNetTrainerReference", configuration="2d")
    trainer.output_folder = str(folder)
    validated = []
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda self, npz: validated.append(npz))
    with pytest.raises(ValueError, match=f"Another training is at work in {folder}, or its validation") as excinfo:
        trainer.perform_actual_validation()
    one_line(excinfo)
    assert not validated
    process.kill()
    process.wait()
    trainer.perform_actual_validation(True)
    assert validated == [True]
