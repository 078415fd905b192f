"""``nnunet-ext demo``: stock nnU-Net's own commands, from raw data to a table that compares two trainers.

Every step is a command that a user could type, run as a process of its own: nnU-Net's folders and variables are set for
these processes only. A step that is done is not done again; an interrupted training goes on with ``--c``.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from nnunet_ext.data.raw import RawDataset, open_dataset
from nnunet_ext.data.reading import Reader
from nnunet_ext.demo import data, report
from nnunet_ext.demo.raw import find_dataset, held_out, number
from nnunet_ext.demo.workspace import Workspace, digest, files_digest
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.folders import Evaluation, evaluate_folders
from nnunet_ext.evaluation.overlay import OverlayCase, draw_overlay
from nnunet_ext.processes import progress
from nnunet_ext.processes.children import Progress, StepFailed, run_step
from nnunet_ext.processes.commands import console, continuation
from nnunet_ext.version import __version__

TRAINERS = ("nnUNetTrainerReference", "nnUNetTrainerPnPNet")
PLANS = "nnUNetPlans_demo"
EPOCHS, ITERATIONS = 8, 40
PATCH_VOXELS = 64**3
"""Patches of the user's own data are made smaller than this on a CPU, where an iteration would take minutes."""

SUMMARY = """
Mean over {count} {kind}:

{table}

{definitions}

A demo of this size ({iterations} small iterations, {count} cases) proves that everything works, not that one trainer is
better than the other.

{folder}
  results.json, results.csv  every case and class
  overlay.png                image, reference and both predictions
  nnUNet_results             the trained models
  logs                       everything that nnU-Net printed

Your own data, the same way:
  nnunet-ext demo --raw FOLDER --dataset ID
Your own data, for results:
  export nnUNet_extTrainer="$(nnunet-ext path)"
  nnUNetv2_train {number} {configuration} 0 -tr nnUNetTrainerPnPNet
"""


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
        _say(f"continuing in {workspace.folder}")
    workspace.create()
    try:
        Demo(workspace, own or open_dataset(data.write_dataset(workspace.raw)), own is not None, device).run()
    except StepFailed as error:
        _say(f"nnunet-ext demo: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("nothing is running any more; the same command continues where this one was", sys.stderr)
        raise
    return 0


def _say(text: str, file: TextIO | None = None) -> None:
    """Print at once, on any terminal; names may hold what its encoding does not know."""
    encoding = getattr(file or sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


class Demo:
    """The steps, in order."""

    def __init__(self, workspace: Workspace, dataset: RawDataset, own_data: bool, device: str) -> None:
        self.workspace = workspace
        self.dataset = dataset
        self.number = number(dataset)
        self.held_out = held_out(dataset)
        self.own_data = own_data
        self.device = device
        self.environment = workspace.environment(dataset.folder.parent)
        self.workers = self.environment["nnUNet_def_n_proc"]
        self.preprocessed = workspace.preprocessed / dataset.name

    def run(self) -> None:
        begin = time.monotonic()
        _say(f"data: {self.dataset.folder}")
        key, configuration = self.preprocess()
        key = self.plan(key, configuration)
        predictions = {}
        for trainer in TRAINERS:
            trained, model = self.train(key, configuration, trainer)
            predictions[trainer] = model / "validation"
            if number_of_cases := len(self.held_out):
                predictions[trainer] = self.predict(trained, configuration, trainer, number_of_cases)
        evaluations = self.evaluate(self.held_out, predictions)
        if self.held_out:
            images = self.dataset.folder / "imagesTs"
            self.compare(evaluations, "held-out cases", lambda name: images / f"{name}_0000{self.dataset.ending}")
        else:
            first_channels = {case.name: case.images[0] for case in self.dataset.cases}
            self.compare(evaluations, "validation cases of fold 0", first_channels.__getitem__)
        _say(f"this run took {(time.monotonic() - begin) / 60:.1f} minutes")

    # -- steps -----------------------------------------------------------------------------------------------------

    def preprocess(self) -> tuple[str, str]:
        """Fingerprint, plans, preprocessed data; returns the key and the configuration: 3D where nnU-Net plans it."""
        key = digest(
            self.dataset.description,
            files_digest(self.dataset.folder, "imagesTr", "labelsTr"),
            metadata.version("nnunetv2"),
        )

        def work(_: bool) -> None:
            shutil.rmtree(self.preprocessed, ignore_errors=True)
            command = ["nnUNetv2_plan_and_preprocess", "-d", self.number, "-np", self.workers]
            command += ["-npfp", self.workers, "-c", "3d_fullres"]
            if self.own_data:
                command.append("--verify_dataset_integrity")
            self._console("preprocess", command, progress.preprocessing())
            if self._configuration() == "2d":
                command = ["nnUNetv2_preprocess", "-d", self.number, "-np", self.workers, "-c", "2d"]
                self._console("preprocess", command, progress.preprocessing())

        self._step("preprocess", key, work, "plans and preprocessed data")
        return key, self._configuration()

    def _configuration(self) -> str:
        plans = json.loads((self.preprocessed / "nnUNetPlans.json").read_text())
        return "3d_fullres" if "3d_fullres" in plans["configurations"] else "2d"

    def plan(self, key: str, configuration: str) -> str:
        """Plans with a schedule for a CPU; returns a key that changes with them."""
        planned = json.loads((self.preprocessed / "nnUNetPlans.json").read_text())["configurations"][configuration]
        command = ["plans", self.dataset.name, "--preset", "cpu", "--configuration", configuration]
        command += ["--epochs", str(EPOCHS), "--iterations", str(ITERATIONS), "--name", PLANS, "--force"]
        patch_size = small_patch(planned) if self.device == "cpu" else planned["patch_size"]
        if patch_size != planned["patch_size"]:
            command += ["--patch-size", *map(str, patch_size)]
        file = self.preprocessed / f"{PLANS}.json"

        def work(_: bool) -> None:
            python = [sys.executable, "-m", "nnunet_ext", *command]
            self._run("plans", python, f"nnunet-ext {shlex.join(command)}", progress.none())

        self._step("plans", digest(key, command, __version__), work, str(file), there=file.is_file())
        return digest(key, file.read_text(), __version__)

    def train(self, key: str, configuration: str, trainer: str) -> tuple[str, Path]:
        """Train fold 0; returns the key and the folder of the fold."""
        key = digest(key, trainer)
        step = f"train {trainer}"
        model = self.workspace.results / self.dataset.name / f"{trainer}__{PLANS}__{configuration}"
        fold = model / "fold_0"
        command = ["nnUNetv2_train", self.number, configuration, "0", "-tr", trainer, "-p", PLANS]
        command += ["-device", self.device]

        def work(interrupted: bool) -> None:
            if not interrupted:
                shutil.rmtree(model, ignore_errors=True)
            # an interrupted step whose training is done was interrupted before that was noted: validating is cheap
            flag = "--val" if (how := continuation(fold)) is None else how
            if flag == "--val":
                _say(f"reusing the finished training of {trainer}; its validation was interrupted and is done again")
            elif flag:
                _say(f"continuing the interrupted training of {trainer} from its last checkpoint")
            self._console(step, [*command, flag] if flag else command, progress.training(EPOCHS))

        self._step(step, key, work, f"the training in {fold}", there=continuation(fold) is None)
        return key, fold

    def predict(self, key: str, configuration: str, trainer: str, cases: int) -> Path:
        """Predict the held-out cases; returns the folder of the predictions."""
        images = self.dataset.folder / "imagesTs"
        output = self.workspace.predictions / self.dataset.name / trainer
        command = ["nnUNetv2_predict", "-d", self.number, "-i", str(images), "-o", str(output), "-f", "0"]
        command += ["-tr", trainer, "-p", PLANS, "-c", configuration, "-device", self.device, "-npp", "0", "-nps", "0"]

        def work(_: bool) -> None:
            shutil.rmtree(output, ignore_errors=True)
            self._console(f"predict {trainer}", command, progress.prediction(cases))

        key = digest(key, files_digest(self.dataset.folder, "imagesTs"))
        there = all((output / f"{name}{self.dataset.ending}").is_file() for name in self.held_out)
        self._step(f"predict {trainer}", key, work, f"the predictions in {output}", there=there)
        return output

    def evaluate(self, held_out: Sequence[str], predictions: Mapping[str, Path]) -> dict[str, Evaluation]:
        """Every trainer on the held-out cases, or without any on the validation cases of fold 0."""
        names = held_out or json.loads((self.preprocessed / "splits_final.json").read_text())[0]["val"]
        return {
            trainer: evaluate_folders(
                self.dataset.folder / "labelsTs" if held_out else self.preprocessed / "gt_segmentations",
                folder,
                dataset_json=self.dataset.folder / "dataset.json",
                plans=self.preprocessed / f"{PLANS}.json",
                cases=names,
                processes=1,
            )
            for trainer, folder in predictions.items()
        }

    def compare(self, evaluations: Mapping[str, Evaluation], kind: str, image: Callable[[str], Path]) -> None:
        """Table, files and picture; ``image`` gives the first channel of a case."""
        folder = self.workspace.folder
        plans = json.loads((self.preprocessed / f"{PLANS}.json").read_text())
        first = next(iter(evaluations.values()))
        count = len(first.cases)
        report.write_results(
            folder, evaluations, dataset=self.dataset.name, evaluated=f"{count} {kind}", device=self.device
        )
        draw_overlay(
            folder / "overlay.png",
            [self.pictured(evaluations, index, image) for index in range(min(3, count))],
            first.settings.labels,
            Reader(first.settings.reader),
            f"{self.dataset.name}: {kind}, the slice with the longest border between structures",
            "interface",
        )
        _say(
            SUMMARY.format(
                count=count,
                kind=kind,
                table=report.table(evaluations),
                definitions="\n".join(first.definitions),
                iterations=EPOCHS * ITERATIONS,
                folder=folder,
                number=self.number if self.own_data else "ID",
                configuration=next(iter(plans["configurations"])),
            )
        )

    @staticmethod
    def pictured(evaluations: Mapping[str, Evaluation], index: int, image: Callable[[str], Path]) -> OverlayCase:
        """One row of the picture."""
        cases = {trainer: evaluation.cases[index] for trainer, evaluation in evaluations.items()}
        one = next(iter(cases.values()))
        return OverlayCase(
            name=one.name,
            image=image(one.name),
            reference=one.reference,
            predictions={trainer: case.prediction for trainer, case in cases.items()},
            notes={trainer: f"Dice {case.mean_dice():.3f} (whole case)" for trainer, case in cases.items()},
        )

    # -- how a step is done ----------------------------------------------------------------------------------------

    def _step(self, step: str, key: str, work: Callable[[bool], None], what: str, there: bool = True) -> None:
        """Do ``work`` unless it is done with this key and its result is ``there``.

        ``work`` is told whether the same step, with the same key, was interrupted before.
        """
        name = f"{self.dataset.name}: {step}"
        state = self.workspace.state(name, key)
        if state == "done" and there:
            _say(f"reusing {what}")
            return
        begin = time.monotonic()
        self.workspace.started(name, key)
        work(state == "interrupted")
        self.workspace.finished(name, time.monotonic() - begin)

    def _console(self, step: str, command: Sequence[str], reader: Progress) -> None:
        """Run one of nnU-Net's console commands."""
        self._run(step, console(command), shlex.join(command), reader)

    def _run(self, step: str, command: Sequence[str], shown: str, reader: Progress) -> None:
        _say(f"$ {shown}")
        log = self.workspace.logs / f"{step.replace(' ', '_')}.log"
        run_step(step, command, shown=shown, log=log, env=self.environment, progress=reader)


def small_patch(configuration: Mapping[str, Any]) -> list[int]:
    """The planned patch size, halved along its longest axes until it has at most :data:`PATCH_VOXELS`.

    Every axis stays divisible by the strides, with at least two voxels at the bottleneck.
    """
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    size = list(configuration["patch_size"])
    divisors = [math.prod(stride[axis] for stride in strides) for axis in range(len(size))]
    while math.prod(size) > PATCH_VOXELS:
        halves = [max(2, n // divisor // 2) * divisor for n, divisor in zip(size, divisors, strict=True)]
        smaller = [axis for axis in range(len(size)) if halves[axis] < size[axis]]
        if not smaller:
            break
        longest = max(smaller, key=lambda axis: size[axis])
        size[longest] = halves[longest]
    return size
