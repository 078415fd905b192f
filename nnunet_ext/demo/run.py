"""``nnunet-ext demo``: stock nnU-Net's own commands, from raw data to a table that compares two trainers.

Every step is a command that a user could type, run as a process of its own: nnU-Net's folders and variables are set for
these processes only. A step that is done is not done again; an interrupted training goes on with ``--c``.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nnunet_ext.demo import data, report
from nnunet_ext.demo.children import Progress, StepFailed, run_step
from nnunet_ext.demo.workspace import Workspace, digest, files_digest
from nnunet_ext.errors import InputError
from nnunet_ext.version import __version__

TRAINERS = ("nnUNetTrainerReference", "nnUNetTrainerPnPNet")
PLANS = "nnUNetPlans_demo"
EPOCHS, ITERATIONS = 8, 30
PATCH_VOXELS = 64**3
"""Patches of the user's own data are made smaller than this on a CPU, where an iteration would take minutes."""

# the console command named by the first argument, whether or not its script is on the PATH
CONSOLE_COMMAND = (
    "import sys; from importlib.metadata import entry_points; sys.argv.pop(0); "
    "sys.exit(next(iter(entry_points(group='console_scripts', name=sys.argv[0]))).load()())"
)


@dataclass(frozen=True)
class RawDataset:
    """A data set in nnU-Net's raw format."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def number(self) -> str:
        return str(int(self.name[7:10]))

    @property
    def description(self) -> dict[str, Any]:
        return json.loads((self.folder / "dataset.json").read_text())

    @property
    def ending(self) -> str:
        return self.description["file_ending"]

    def held_out(self) -> list[str]:
        """Names of the cases that have an image in ``imagesTs`` and a reference in ``labelsTs``."""
        names = sorted(path.name.removesuffix(self.ending) for path in (self.folder / "labelsTs").glob("*"))
        return [name for name in names if (self.folder / "imagesTs" / f"{name}_0000{self.ending}").is_file()]

    def training_image(self, case: str) -> Path:
        """The first channel; ``dataset.json`` may list files that lie elsewhere."""
        listed = self.description.get("dataset", {}).get(case)
        if listed is None:
            return self.folder / "imagesTr" / f"{case}_0000{self.ending}"
        return self.folder / listed["images"][0]


def run_demo(
    folder: str | Path, raw: str | Path | None = None, dataset: str | int | None = None, device: str = "cpu"
) -> int:
    """Train, predict and compare :data:`TRAINERS`; returns the exit code.

    Args:
        folder: where everything is written; reused by a second run.
        raw, dataset: the user's ``nnUNet_raw`` folder, only read, and number or name of a data set in it; without them
            the synthetic data set of :mod:`nnunet_ext.demo.data`.
        device: ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: the arguments do not fit, in one sentence.
    """
    if (raw is None) != (dataset is None):
        raise InputError("--raw and --dataset belong together: --raw names the folder, --dataset the data set in it.")
    workspace = Workspace(folder)
    own = None if raw is None or dataset is None else find_dataset(raw, dataset)
    if workspace.exists():
        print(f"continuing in {workspace.folder}")
    workspace.create()
    try:
        Demo(workspace, own or RawDataset(data.write_dataset(workspace.raw)), own is not None, device).run()
    except StepFailed as error:
        print(f"nnunet-ext demo: {error}", file=sys.stderr)
        return 1
    return 0


def find_dataset(raw: str | Path, dataset: str | int) -> RawDataset:
    """The data set with this number or name in the user's raw folder."""
    root = Path(raw).expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"--raw {root} is no folder; give the folder that holds Dataset…_… folders.")
    text = str(dataset)
    there = sorted(path for path in root.glob("Dataset[0-9][0-9][0-9]_*") if (path / "dataset.json").is_file())
    found = [path for path in there if path.name == text or (text.isdigit() and int(path.name[7:10]) == int(text))]
    if len(found) != 1:
        names = ", ".join(path.name for path in found or there) or "no data set with a dataset.json"
        raise InputError(
            f"--dataset {text} is {'ambiguous' if found else 'not'} in {root}; there {'match' if found else 'is'}: "
            f"{names}."
        )
    result = RawDataset(found[0])
    if (cases := result.description["numTraining"]) < 5:
        raise InputError(f"{result.name} has {cases} training cases, but nnU-Net's five folds need at least 5.")
    return result


class Demo:
    """The steps, in order."""

    def __init__(self, workspace: Workspace, dataset: RawDataset, own_data: bool, device: str) -> None:
        self.workspace = workspace
        self.dataset = dataset
        self.own_data = own_data
        self.device = device
        self.environment = workspace.environment(dataset.folder.parent)
        self.workers = self.environment["nnUNet_def_n_proc"]
        self.preprocessed = workspace.preprocessed / dataset.name

    def run(self) -> None:
        begin = time.monotonic()
        held_out = self.dataset.held_out()
        print(f"data: {self.dataset.folder}")
        key, configuration = self.preprocess()
        key = self.plan(key, configuration)
        predictions = {}
        for trainer in TRAINERS:
            trained, model = self.train(key, configuration, trainer)
            predictions[trainer] = (
                self.predict(trained, configuration, trainer, len(held_out)) if held_out else model / "validation"
            )
        cases = self.cases(held_out, predictions)
        self.compare(cases, "held-out cases" if held_out else "validation cases of fold 0")
        print(f"this run took {(time.monotonic() - begin) / 60:.1f} minutes")

    # -- steps -----------------------------------------------------------------------------------------------------

    def preprocess(self) -> tuple[str, str]:
        """Fingerprint, plans, preprocessed data; returns the key and the configuration: 3D where nnU-Net plans it."""
        key = digest(
            self.dataset.description,
            files_digest(self.dataset.folder, "imagesTr", "labelsTr"),
            metadata.version("nnunetv2"),
        )

        def work() -> None:
            shutil.rmtree(self.preprocessed, ignore_errors=True)
            command = ["nnUNetv2_plan_and_preprocess", "-d", self.dataset.number, "-np", self.workers]
            command += ["-npfp", self.workers, "-c", "3d_fullres"]
            if self.own_data:
                command.append("--verify_dataset_integrity")
            self._command("preprocess", command, preprocessing_progress())
            if self._configuration() == "2d":
                command = ["nnUNetv2_preprocess", "-d", self.dataset.number, "-np", self.workers, "-c", "2d"]
                self._command("preprocess", command, preprocessing_progress())

        self._step("preprocess", key, work, "plans and preprocessed data")
        return key, self._configuration()

    def _configuration(self) -> str:
        plans = json.loads((self.preprocessed / "nnUNetPlans.json").read_text())
        return "3d_fullres" if "3d_fullres" in plans["configurations"] else "2d"

    def plan(self, key: str, configuration: str) -> str:
        """Plans with a schedule for a CPU; returns a key that changes with them."""
        planned = json.loads((self.preprocessed / "nnUNetPlans.json").read_text())["configurations"][configuration]
        command = ["plans", self.dataset.name, "--preset", "cpu", "--configuration", configuration]
        command += ["--epochs", str(EPOCHS), "--iterations", str(ITERATIONS), "--out", PLANS, "--force"]
        patch_size = small_patch(planned) if self.device == "cpu" else planned["patch_size"]
        if patch_size != planned["patch_size"]:
            command += ["--patch-size", *map(str, patch_size)]
        file = self.preprocessed / f"{PLANS}.json"

        def work() -> None:
            python = [sys.executable, "-m", "nnunet_ext", *command]
            run_step(
                "plans", python, log=self.workspace.logs / "plans.log", env=self.environment, progress=no_progress
            )

        self._step("plans", digest(key, command, __version__), work, str(file), there=file.is_file())
        return digest(key, file.read_text(), __version__)

    def train(self, key: str, configuration: str, trainer: str) -> tuple[str, Path]:
        """Train fold 0; returns the key and the folder of the fold."""
        key = digest(key, trainer)
        step = f"train {trainer}"
        model = self.workspace.results / self.dataset.name / f"{trainer}__{PLANS}__{configuration}"
        fold = model / "fold_0"
        command = ["nnUNetv2_train", self.dataset.number, configuration, "0", "-tr", trainer, "-p", PLANS]
        command += ["-device", self.device]

        def work(interrupted: bool) -> None:
            if not interrupted:
                shutil.rmtree(model, ignore_errors=True)
            elif (fold / "checkpoint_final.pth").is_file():
                print(f"reusing the finished training of {trainer}; its validation was interrupted and is done again")
                command.append("--val")
            elif any(fold.glob("checkpoint_*.pth")):
                print(f"continuing the interrupted training of {trainer} from its last checkpoint")
                command.append("--c")
            self._command(step, command, training_progress(EPOCHS))

        there = (fold / "checkpoint_final.pth").is_file() and (fold / "validation" / "summary.json").is_file()
        self._step(step, key, work, f"the training in {fold}", there=there)
        return key, fold

    def predict(self, key: str, configuration: str, trainer: str, cases: int) -> Path:
        """Predict the held-out cases; returns the folder of the predictions."""
        images = self.dataset.folder / "imagesTs"
        output = self.workspace.predictions / self.dataset.name / trainer
        command = ["nnUNetv2_predict", "-d", self.dataset.number, "-i", str(images), "-o", str(output), "-f", "0"]
        command += ["-tr", trainer, "-p", PLANS, "-c", configuration, "-device", self.device, "-npp", "0", "-nps", "0"]

        def work() -> None:
            shutil.rmtree(output, ignore_errors=True)
            self._command(f"predict {trainer}", command, prediction_progress(cases))

        key = digest(key, files_digest(self.dataset.folder, "imagesTs"))
        there = all((output / f"{name}{self.dataset.ending}").is_file() for name in self.dataset.held_out())
        self._step(f"predict {trainer}", key, work, f"the predictions in {output}", there=there)
        return output

    def cases(self, held_out: Sequence[str], predictions: Mapping[str, Path]) -> list[report.EvaluationCase]:
        """The held-out cases, or without any the validation cases of fold 0."""
        ending = self.dataset.ending
        names = held_out or json.loads((self.preprocessed / "splits_final.json").read_text())[0]["val"]
        references = self.dataset.folder / "labelsTs" if held_out else self.preprocessed / "gt_segmentations"
        return [
            report.EvaluationCase(
                name=name,
                image=self.dataset.folder / "imagesTs" / f"{name}_0000{ending}"
                if held_out
                else self.dataset.training_image(name),
                reference=references / f"{name}{ending}",
                predictions={trainer: folder / f"{name}{ending}" for trainer, folder in predictions.items()},
            )
            for name in sorted(names)
        ]

    def compare(self, cases: Sequence[report.EvaluationCase], kind: str) -> None:
        """Table, files and picture."""
        folder = self.workspace.folder
        plans = json.loads((self.preprocessed / f"{PLANS}.json").read_text())
        reader = report.Reader(plans["image_reader_writer"])
        classes = report.Classes(self.dataset.description["labels"])
        scores = report.evaluate(cases, classes, reader)
        report.write_results(
            folder, scores, dataset=self.dataset.name, evaluated=f"{len(cases)} {kind}", device=self.device
        )
        report.draw_overlay(folder / "overlay.png", cases[:3], classes, reader, f"{self.dataset.name}: {kind}")
        print(SUMMARY.format(
            cases=len(cases), kind=kind, table=report.table(scores), dice=report.DICE_DEFINITION,
            hd95=report.HD95_DEFINITION, folder=folder, iterations=EPOCHS * ITERATIONS,
        ))  # fmt: skip

    # -- how a step is done ----------------------------------------------------------------------------------------

    def _step(self, step: str, key: str, work: Callable[..., None], what: str, there: bool = True) -> None:
        """Do ``work`` unless it is done with this key and its result is ``there``.

        ``work`` may take one argument: whether the same step was interrupted before.
        """
        name = f"{self.dataset.name}: {step}"
        state = self.workspace.state(name, key)
        if state == "done" and there:
            print(f"reusing {what}")
            return
        begin = time.monotonic()
        self.workspace.started(name, key)
        if work.__code__.co_argcount:
            work(state == "interrupted")
        else:
            work()
        self.workspace.finished(name, time.monotonic() - begin)

    def _command(self, step: str, command: Sequence[str], progress: Progress) -> None:
        """Run one of nnU-Net's console commands."""
        python = [sys.executable, "-c", CONSOLE_COMMAND, *command]
        log = self.workspace.logs / f"{step.replace(' ', '_')}.log"
        run_step(step, python, log=log, env=self.environment, progress=progress)
