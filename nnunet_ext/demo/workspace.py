"""The folder of a demo: what lies where, which steps are done, and the environment in which nnU-Net works there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.processes import commands

RECORD = "nnunet_ext_demo.json"

State = Literal["new", "interrupted", "done"]


class Workspace:
    """One folder that holds nothing but demos.

    ``nnunet_ext_demo.json`` marks it and records the steps: a step is known by its name and by a key that changes with
    everything the step depends on, so that a second run reuses what is still true and nothing else.

    Raises:
        InputError: the folder holds something and is not marked, so that no folder of the user is ever written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self._record = self.folder / RECORD
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; choose another --folder.")
        if self.folder.is_dir() and not self._record.is_file() and any(self.folder.iterdir()):
            raise InputError(
                f"{self.folder} is not empty and was not written by nnunet-ext demo; choose another --folder."
            )
        try:
            self._steps: dict[str, dict[str, Any]] = json.loads(self._record.read_text()) if self.exists() else {}
        except ValueError:
            raise InputError(f"{self._record} cannot be read; choose another --folder.") from None
        self.raw = self.folder / "nnUNet_raw"
        self.preprocessed = self.folder / "nnUNet_preprocessed"
        self.results = self.folder / "nnUNet_results"
        self.predictions = self.folder / "predictions"
        self.logs = self.folder / "logs"

    def exists(self) -> bool:
        return self._record.is_file()

    def create(self) -> None:
        """Make the folder and mark it."""
        for folder in (self.raw, self.preprocessed, self.results, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
            self._save()

    def state(self, step: str, key: str) -> State:
        """``interrupted``: the same step, with the same key, was started and not finished."""
        recorded = self._steps.get(step, {})
        if recorded.get("key") != key:
            return "new"
        return "done" if recorded["done"] else "interrupted"

    def started(self, step: str, key: str) -> None:
        self._steps[step] = {"key": key, "done": False}
        self._save()

    def finished(self, step: str, seconds: float) -> None:
        self._steps[step].update(done=True, seconds=round(seconds, 1))
        self._save()

    def _save(self) -> None:
        write_json(self._record, self._steps)

    def environment(self, raw: Path) -> dict[str, str]:
        """The environment of every command: the caller's, with nnU-Net's folders pointing in here.

        Args:
            raw: ``nnUNet_raw``, which nnU-Net only reads.
        """
        own = commands.environment(raw=raw, preprocessed=self.preprocessed, results=self.results)
        return commands.for_planner(own)


def digest(*parts: object) -> str:
    """A short key that changes with every part."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def files_digest(folder: Path, *subfolders: str) -> str:
    """Changes when a file in one of ``subfolders`` of ``folder`` is added, removed, or written to."""
    entries = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for name in subfolders
        for path in sorted((folder / name).glob("*"))
    ]
    return digest(entries)
