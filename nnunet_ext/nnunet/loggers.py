"""TensorBoard and MLflow beside nnU-Net's own log and W&B: ``NNUNET_EXT_LOGGERS=tensorboard,mlflow``.

nnU-Net passes every number that it logs to a list of loggers, by epoch: losses, pseudo Dice by class, learning rate,
and every loss term and statistic of our trainers. W&B, which comes with nnU-Net (``nnUNet_wandb_enabled=1``), gets all
of them too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_text

VARIABLE = "NNUNET_EXT_LOGGERS"


class EpochLogger(Protocol):
    """The methods that nnU-Net's ``MetaLogger`` calls."""

    def update_config(self, config: Mapping[str, Any]) -> None: ...

    def log(self, key: str, value: Any, step: int) -> None: ...

    def log_summary(self, key: str, value: Any) -> None: ...


class TensorBoardLogger:
    """Event files in ``tensorboard`` in the folder of the fold; a continued training adds to them."""

    def __init__(self, folder: Path, name: str, resume: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not resume:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Nothing: plans and dataset.json lie beside the fold."""

    def log(self, key: str, value: Any, step: int) -> None:
        self.writer.add_scalar(key, float(value), step)
        self.writer.flush()  # a killed training has written what it logged

    def log_summary(self, key: str, value: Any) -> None:
        self.writer.add_scalar(key, float(value))
        self.writer.flush()


class MLflowLogger:
    """One run per fold, at ``MLFLOW_TRACKING_URI``; its number is kept beside the fold, so ``--c`` adds to it."""

    def __init__(self, folder: Path, name: str, resume: bool) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        file = folder / "mlflow_run.txt"
        if resume and file.is_file():
            self.run = file.read_text().strip()
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nnunet")
        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self.client.create_experiment(experiment)
        self.run = self.client.create_run(number, run_name=name).info.run_id
        write_text(file, self.run)

    def update_config(self, config: Mapping[str, Any]) -> None:
        for key, value in config.items():
            if not isinstance(value, Mapping):  # plans and dataset.json are longer than a parameter may be
                self.client.set_tag(self.run, key, str(value))

    def log(self, key: str, value: Any, step: int) -> None:
        self.client.log_metric(self.run, _allowed(key), float(value), step=step)

    def log_summary(self, key: str, value: Any) -> None:
        self.client.log_metric(self.run, _allowed(key), float(value))


def _allowed(key: str) -> str:
    """A name that MLflow takes; nnU-Net calls the Dice of a region ``class_(1, 2)_dice``."""
    return re.sub(r"[^/\w.\- ]", "_", key)


KINDS: Mapping[str, tuple[str, Callable[[Path, str, bool], EpochLogger]]] = {
    "tensorboard": ("tensorboard", TensorBoardLogger),
    "mlflow": ("mlflow", MLflowLogger),
}
"""Package and class by the word in :data:`VARIABLE`."""


def wanted_loggers() -> list[str]:
    """Words of :data:`VARIABLE`.

    Raises:
        InputError: a word that is not known, or a package that is not installed.
    """
    words = [word for word in os.environ.get(VARIABLE, "").replace(" ", "").split(",") if word]
    for word in words:
        if word not in KINDS:
            raise InputError(f"{VARIABLE} has {word!r}; there are {' and '.join(KINDS)}, separated by commas.")
        package, _ = KINDS[word]
        if find_spec(package) is None:
            raise InputError(f"{VARIABLE} has {word!r}, but {package} is not installed; run: pip install {package}.")
    return words


def loggers(words: list[str], folder: Path, name: str, *, resume: bool) -> list[EpochLogger]:
    """Make the loggers of a training.

    Args:
        words: see :func:`wanted_loggers`.
        folder: of the fold.
        name: of the run.
        resume: add to what an earlier part of this training logged, instead of replacing it.
    """
    return [KINDS[word][1](folder, name, resume) for word in words]
