"""TensorBoard and MLflow beside nnU-Net's own log and W&B: ``NNUNET_EXT_LOGGERS=tensorboard,mlflow``.

nnU-Net passes every number that it logs to a list of loggers, by epoch: losses, pseudo Dice by class, learning rate,
and every loss term and statistic of our trainers. W&B, which comes with nnU-Net (``nnUNet_wandb_enabled=1``), gets all
of them too. A server that is away for an hour must not end a training of two days, so :class:`Forgiving` stands before
each of ours.
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
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        file = folder / "mlflow_run.txt"
        if resume and file.is_file():
            self.run = file.read_text().strip()
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nnunet")
        try:
            found = self.client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self.client.create_experiment(experiment)
            self.run = self.client.create_run(number, run_name=name).info.run_id
        except MlflowException as error:
            raise InputError(
                f"{VARIABLE} has 'mlflow', but a run of experiment {experiment!r} cannot be made there "
                f"({_first_line(error)}); check MLFLOW_TRACKING_URI and the server, or leave the word out."
            ) from None
        write_text(file, self.run)

    def update_config(self, config: Mapping[str, Any]) -> None:
        for key, value in config.items():
            if not isinstance(value, Mapping):  # plans and dataset.json are longer than a parameter may be
                self.client.set_tag(self.run, key, str(value))

    def log(self, key: str, value: Any, step: int) -> None:
        self.client.log_metric(self.run, _allowed(key), float(value), step=step)

    def log_summary(self, key: str, value: Any) -> None:
        self.client.log_metric(self.run, _allowed(key), float(value))


class Forgiving:
    """A logger whose failures do not end the training; numbers are left out until it takes them again.

    After a failure nothing more of that epoch is tried, because a client may take minutes to give up.

    Args:
        logger: that may fail.
        word: its name, for messages.
        say: writes a line to the log of the training.
    """

    def __init__(self, logger: EpochLogger, word: str, say: Callable[[str], None]) -> None:
        self.logger, self.word, self.say = logger, word, say
        self.failed_in: object = None
        """Epoch of the last failure, or another thing that stands for its time; None while all is well."""
        self.since: object = None

    def update_config(self, config: Mapping[str, Any]) -> None:
        self._tried("the start", lambda: self.logger.update_config(config))

    def log(self, key: str, value: Any, step: int) -> None:
        self._tried(f"epoch {step}", lambda: self.logger.log(key, value, step))

    def log_summary(self, key: str, value: Any) -> None:
        self._tried("the end", lambda: self.logger.log_summary(key, value))

    def _tried(self, time: str, call: Callable[[], None]) -> None:
        if time == self.failed_in:
            return
        try:
            call()
        except Exception as error:
            if self.since is None:
                self.since = time
                self.say(
                    f"WARNING: {self.word} does not take the numbers of this training ({_first_line(error)}). The "
                    "training goes on; they are in this log and in the checkpoints."
                )
            self.failed_in = time
            return
        if self.since is not None:
            self.say(f"{self.word} takes numbers again; those from {self.since} to {self.failed_in} are missing there.")
            self.failed_in = self.since = None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


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


def loggers(
    words: list[str], folder: Path, name: str, *, resume: bool, say: Callable[[str], None]
) -> list[EpochLogger]:
    """Make the loggers of a training.

    Args:
        words: see :func:`wanted_loggers`.
        folder: of the fold.
        name: of the run.
        resume: add to what an earlier part of this training logged, instead of replacing it.
        say: writes a line to the log of the training.

    Raises:
        InputError: one of them cannot begin.
    """
    return [Forgiving(KINDS[word][1](folder, name, resume), word, say) for word in words]
