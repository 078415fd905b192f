"""Trainings by nnU-Net's own ``run_training``, each in a process of its own, which may be killed.

Importing nnU-Net takes longer than a training does here, so one process imports it and forks for each of them.

What makes two trainings comparable that nnU-Net has no setting for: the state of the random numbers is in no
checkpoint, and the loader, the augmentation, simulated clicks and masks all draw from it. So every epoch begins with a
seed of its own; then an epoch depends on nothing but the weights, the optimizer and what else the checkpoint must hold.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import tiny

FORKS = sys.platform == "linux"
PATIENCE = 600
"""Seconds after which a training is ended that hangs."""


@dataclass(frozen=True)
class Training:
    """One call of ``nnUNetv2_train``.

    Attributes:
        data: folder with ``raw`` and ``preprocessed``.
        results: folder, ``nnUNet_results``; what the training was in its last epoch is left in ``<report>.pt``.
        resume: ``--c``.
        killed_at: epoch and iteration, from 0, before which it is killed with SIGKILL.
        seed: of the initial weights.
        stopped: a file STOP is put into its folder in the first epoch.
        outlasts: the second epoch begins when the training with this report has ended.
    """

    trainer: str
    data: Path
    results: Path
    report: Path
    resume: bool = False
    killed_at: tuple[int, int] | None = None
    seed: int = 0
    fold: int = 0
    configuration: str = "2d"
    stopped: bool = False
    outlasts: Path | None = None


def prepare(template: Path, root: Path, declares: dict[str, Any], **schedule: int) -> Path:
    """A copy of a data set that :func:`tests.tiny.write_preprocessed` made, with a schedule in its plans."""
    shutil.copytree(template, root)
    tiny.declare(root, declares)
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"]["schedule"] = {"validation_iterations": 1, **schedule}
    (root / "preprocessed" / tiny.DATASET / "nnUNetPlans.json").write_text(json.dumps(plans))
    folds = [{"train": [f"tiny_{i}" for i in range(4)], "val": ["tiny_4", "tiny_5"]}] * 2
    (root / "preprocessed" / tiny.DATASET / "splits_final.json").write_text(json.dumps(folds))
    return root


def run_all(rounds: Sequence[Sequence[Training]]) -> list[list[int]]:
    """Start the trainings of a round together, one round after the other; returns their exit codes."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    nursery = spawn.Process(target=_nursery, args=(rounds, there))
    nursery.start()
    there.close()
    try:
        return here.recv()
    finally:
        nursery.join()


def _nursery(rounds: Sequence[Sequence[Training]], answer: Any) -> None:
    torch.set_num_threads(1)
    import nnunetv2.run.run_training
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_ext.discovery import discovery_folder

    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_extTrainer": str(discovery_folder())}
    for name in {training.trainer for together in rounds for training in together}:
        recursive_find_trainer_class_by_name(name)  # imports it
    assert nnunetv2.run.run_training
    tiny.shrink_transformers()
    fork = multiprocessing.get_context("fork")
    codes = []
    for together in rounds:
        processes = [fork.Process(target=_train, args=(training,)) for training in together]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        codes.append([process.exitcode for process in processes])
    answer.send(codes)


def _train(training: Training) -> None:
    """In a fork: one training; ``<report>.log`` has what it printed, its errors too."""
    training.report.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(training.report.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {f"nnUNet_{name}": str(training.data / name) for name in ("raw", "preprocessed")}
    os.environ["nnUNet_results"] = str(training.results)
    try:
        _run(training)
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    except Exception:
        sys.stdout.flush()  # first, so that the error is the end of the log
        traceback.print_exc()
        sys.stderr.flush()
        training.report.with_suffix(".ended").touch()
        os._exit(1)
    training.report.with_suffix(".ended").touch()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _run(training: Training) -> None:
    from nnunetv2.run.run_training import run_training
    from nnunetv2.training.logging.nnunet_logger import LocalLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_ext.catalogue import resolve

    seed_everything(training.seed)
    begin, end = nnUNetTrainer.on_epoch_start, nnUNetTrainer.on_epoch_end
    started: list[int] = []

    def on_epoch_start(trainer: Any) -> None:
        seed_everything(1000 + trainer.current_epoch)
        started.append(trainer.current_epoch)
        if training.stopped:
            (Path(trainer.output_folder) / "STOP").touch()
        if training.outlasts is not None and trainer.current_epoch == 1:
            patience = time.monotonic() + PATIENCE / 2
            while not training.outlasts.with_suffix(".ended").exists() and time.monotonic() < patience:
                time.sleep(0.05)
        begin(trainer)

    def on_epoch_end(trainer: Any) -> None:
        end(trainer)
        if trainer.current_epoch == trainer.num_epochs:  # later MedContext throws its teacher away
            torch.save({"started": started, **state_of(trainer)}, training.report.with_suffix(".pt"))

    nnUNetTrainer.on_epoch_start, nnUNetTrainer.on_epoch_end = on_epoch_start, on_epoch_end
    LocalLogger.plot_progress_png = lambda self, folder: None  # takes longer than the epoch
    trainer_class: Any = resolve(training.trainer)
    step, steps = trainer_class.train_step, [0]

    def train_step(trainer: Any, batch: dict) -> dict:
        iteration, steps[0] = steps[0] % trainer.num_iterations_per_epoch, steps[0] + 1
        if (trainer.current_epoch, iteration) == training.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, batch)

    trainer_class.train_step = train_step
    # a process of its own, and nothing that resuming a training could change
    trainer_class.perform_actual_validation = lambda self, save_probabilities=False: None
    run_training(
        "901",
        training.configuration,
        training.fold,
        training.trainer,
        continue_training=training.resume,
        device=torch.device("cpu"),
    )


def state_of(trainer: Any) -> dict[str, Any]:
    """All that a training consists of, and that an interruption must not change."""
    plain = {
        name: value
        for name, value in vars(trainer).items()
        if isinstance(value, int | float | bool | None) and name not in {"fold", "local_rank"}
    }
    network = unwrapped(trainer)
    log = trainer.logger.local_logger.my_fantastic_logging
    return {
        "network": {**network.state_dict(), **dict(network.named_buffers())},
        "aux": {**trainer.aux.state_dict(), **dict(trainer.aux.named_buffers())},
        "optimizer": trainer.optimizer.state_dict(),
        "log": {name: values for name, values in log.items() if "timestamps" not in name},
        "counters": plain,
        "best": torch.load(Path(trainer.output_folder) / "checkpoint_best.pth", weights_only=False)["current_epoch"],
    }


def unwrapped(trainer: Any) -> torch.nn.Module:
    from nnunet_ext.nnunet.pretrained import unwrap

    return unwrap(trainer.network)
