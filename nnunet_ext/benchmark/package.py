"""A finished report as a package: all data that its tables are computed from, and a manifest.

::

    manifest.json      SHA-256 and size of every other file, written last
    cases.csv          scores of every training, case and label
    interfaces.csv     scores of every training, case and pair of labels, if interfaces were measured
    records.json       trainings (times, curves, weights, memory, versions, hardware, commands), jobs without a result
    specification.yaml the specification of the benchmark
    prepared.json      folds, subsets and iterations, as found when it was prepared
    plans/, logs/      plans and logs of the trainings; logs are shortened
    report.md, report.html, comparisons.csv, costs.csv, figures/

:func:`read` reads only scores and records: no folder of nnU-Net, no image, no environment variable. Texts contain no
folder of the machine; scores have eight digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nnunet_ext.benchmark.cells import read_scores, write_scores
from nnunet_ext.benchmark.portable import Folders, shortened
from nnunet_ext.benchmark.results import Group, Results, Training, Unfinished
from nnunet_ext.errors import InputError
from nnunet_ext.files import file_name, read_json, write_json, write_text
from nnunet_ext.refusals import sentence

CASES, INTERFACES, RECORDS = "cases.csv", "interfaces.csv", "records.json"
SPECIFICATION, PREPARED = "specification.yaml", "prepared.json"

SOURCES = (CASES, INTERFACES, RECORDS)
"""Files that the tables are computed from."""


class _Training(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    arm: str
    group: str
    fold: int
    seed: int
    about: dict[str, Any]
    memory: dict[str, Any]
    versions: dict[str, Any]
    hardware: dict[str, Any]
    command: str
    plans: str | None
    log: str | None


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    dataset: str
    scored: str


class _Unfinished(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    reason: str
    log: str | None


class _Records(BaseModel):
    """Content of ``records.json``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    nnunet_ext: str
    name: str
    description: str
    baseline: str
    arms: list[str]
    definitions: list[str]
    unknown: list[str]
    groups: list[_Group]
    unfinished: list[_Unfinished]
    trainings: list[_Training]


# --- writing ----------------------------------------------------------------------------------------------------------


def write_content(results: Results, folder: Path) -> None:
    """Write the sources of the tables, the specification, plans and logs into an empty folder."""
    write_scores(folder / CASES, results.cases)
    if len(results.interfaces):
        write_scores(folder / INTERFACES, results.interfaces)
    _write_records(results, folder)
    if results.specification:
        content = results.folders.everywhere(results.specification)
        write_text(folder / SPECIFICATION, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))
    if results.prepared:
        write_json(folder / PREPARED, results.folders.everywhere(results.prepared))


# --- reading ----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Results:
    """Read the results of a package, as far as its tables need them.

    Raises:
        InputError: a file is missing or damaged.
    """
    path = folder / RECORDS
    content = read_json(path)
    try:
        records = _Records.model_validate(content)
    except ValidationError as error:
        raise InputError(sentence(error, _Records, str(path))) from None

    def file(name: str | None) -> Path | None:
        return folder / name if name else None

    results = Results(
        name=records.name,
        description=records.description,
        baseline=records.baseline,
        arms=tuple(records.arms),
        groups=tuple(Group(g.name, g.dataset, Path(), {}, "") for g in records.groups),
        cases=read_scores(folder / CASES),
        trainings=tuple(
            Training(
                **{key: getattr(one, key) for key in type(one).model_fields if key not in ("plans", "log")},
                predictions=Path(),
                plans=file(one.plans),
                log=file(one.log),
            )
            for one in records.trainings
        ),
        definitions=tuple(records.definitions),
        unfinished=tuple(Unfinished(one.title, one.reason, file(one.log)) for one in records.unfinished),
        unknown=tuple(records.unknown),
        version=records.nnunet_ext,
    )
    if (folder / INTERFACES).is_file():
        return replace(results, interfaces=read_scores(folder / INTERFACES))
    return results


# --- parts ------------------------------------------------------------------------------------------------------------


def _write_records(results: Results, folder: Path) -> None:
    texts = _Texts(folder, results.folders)
    clean = results.folders.everywhere
    content: dict[str, Any] = {
        "nnunet_ext": results.version,
        "name": results.name,
        "description": clean(results.description),
        "baseline": results.baseline,
        "arms": list(results.arms),
        "definitions": list(results.definitions),
        "unknown": clean(results.unknown),
        "groups": [{"name": g.name, "dataset": g.dataset, "scored": g.scored} for g in results.groups],
        "unfinished": [
            {"title": one.title, "reason": clean(one.reason), "log": texts.log(one.log, one.title)}
            for one in results.unfinished
        ],
        "trainings": [
            {
                "arm": t.arm,
                "group": t.group,
                "fold": t.fold,
                "seed": t.seed,
                "plans": texts.plans(t.plans),
                "log": texts.log(t.log, f"{t.group}.{t.arm}.fold_{t.fold}.seed_{t.seed}"),
                "command": clean(t.command),
                **{key: clean(_plain(getattr(t, key))) for key in ("versions", "hardware", "memory", "about")},
            }
            for t in results.trainings
        ],
    }
    lines = [f"  {json.dumps(key)}: {_json(value)}" for key, value in content.items()]
    write_text(folder / RECORDS, "{\n" + ",\n".join(lines) + "\n}\n")


class _Texts:
    """Writes plans and logs into the package; equal plans share a file, different texts never share a name."""

    def __init__(self, folder: Path, folders: Folders) -> None:
        self.folder, self.folders = folder, folders
        self.written: dict[str, str] = {}

    def plans(self, file: Path | None) -> str | None:
        if file is None or not file.is_file():
            return None
        content = json.dumps(self.folders.everywhere(read_json(file)), indent=1, ensure_ascii=False) + "\n"
        return self._write(f"plans/{file_name(file.parent.name)}.{file.stem}", ".json", content)

    def log(self, file: Path | None, title: str) -> str | None:
        if file is None or not file.is_file():
            return None
        text = self.folders.without(file.read_text(encoding="utf-8", errors="replace"))
        return self._write("logs/" + ".".join(map(file_name, title.split("."))), ".txt", shortened(text))

    def _write(self, stem: str, ending: str, content: str) -> str:
        name, number = stem + ending, 1
        while self.written.get(name, content) != content:
            number += 1
            name = f"{stem}_{number}{ending}"
        if name not in self.written:
            (self.folder / name).parent.mkdir(exist_ok=True)
            write_text(self.folder / name, content)
            self.written[name] = content
        return name


def _plain(value: Any, key: str = "") -> Any:
    """The value as JSON: undefined numbers become null, and curves have five digits."""
    if isinstance(value, Mapping):
        return {name: _plain(entry, "curves" if "curves" in (name, key) else name) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, key) for entry in value]
    if isinstance(value, float):
        return None if not math.isfinite(value) else float(f"{value:.5g}") if key == "curves" else value
    return value


def _json(value: Any) -> str:
    """JSON text with one line per entry of a list, so that a curve stays on one line."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n    " + ",\n    ".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "\n  ]"
