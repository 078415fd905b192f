"""Mutated files of landmarks, of subjects and of labels: ``python -m tests.landmarks.fuzz_tables [COUNT] [FORMAT …]``.

Prints how many of COUNT files of a format were refused in one sentence and how many were read, to finite positions; any
other outcome is a bug.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nnunet_ext.data.label_definitions import declared_labels
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.landmarks.formats import read_file
from nnunet_ext.landmarks.leftover import leftover
from nnunet_ext.splits.subjects import group
from tests.data.fuzz_readers import mutated

POINTS = [
    {"id": "1", "label": "tip", "position": [1.5, -2, 3], "positionStatus": "defined", "description": "by A"},
    {"id": "2", "label": "end", "position": [4, 5, 6], "positionStatus": "preview", "confidence": 0.5},
]
NODE = {"type": "Fiducial", "coordinateSystem": "RAS", "coordinateUnits": ["mm"], "controlPoints": POINTS}
NODE |= {"measurements": [{"name": "length", "enabled": True}], "display": {"visibility": True}}


def landmarks(file: Path) -> None:
    for found in read_file(file).values():
        for landmark in found.values():
            assert landmark.position_mm is None or all(map(math.isfinite, landmark.position_mm))
    assert all(isinstance(text, str) for text in leftover(file))


def subjects(file: Path) -> None:
    assert set(group(["a", "b"], str(file)).subject_of) == {"a", "b"}


def labels(file: Path) -> None:
    assert declared_labels(read_json(file), str(file))["background"] == 0


FORMATS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "mrk.json": ("a.mrk.json", json.dumps({"markups": [NODE]}), landmarks),
    "json": (
        "a.json",
        json.dumps({"coordinateSystem": "LPS", "landmarks": {"tip": [1, 2, 3], "end": None}}),
        landmarks,
    ),
    "fcsv": (
        "a.fcsv",
        "# Markups fiducial file version = 5.0\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,1.5,2,3,0,0,0,1,1,1,0,tip,by A,,2,0\n2,0,0,0,0,0,0,1,1,1,0,end,,,3,0\n",
        landmarks,
    ),
    "csv": ("a.csv", "case,landmark,x,y,z,state\na,tip,1,2.5,3,present\na,end,,,,absent\n", landmarks),
    "subjects.csv": ("who.csv", "case,subject\r\na,1\r\nb,2\r\n", subjects),
    "subjects.json": ("who.json", '{"a": "1", "b": 2}', subjects),
    "dataset.json": ("dataset.json", json.dumps({"labels": {"background": 0, "a": "1", "b": 2.0, "c": [3]}}), labels),
}


ODD: tuple[Any, ...] = (None, [], {}, "", "x", "RAS", -1, 0.5, 1e999, True, [1, 2], {"label": 3}, [[None]], 10**400)


def other_values(content: Any, random: np.random.Generator) -> Any:
    """JSON whose form is whole, with something else at a random place."""
    if random.random() < 0.3 or not isinstance(content, dict | list) or not content:
        return ODD[random.integers(0, len(ODD))]
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    chosen = keys[random.integers(0, len(keys))]
    new = content.copy()
    if random.random() < 0.1:
        del new[chosen]
    else:
        new[chosen] = other_values(content[chosen], random)
    return new


def fuzz(name: str, count: int) -> Counter[str]:
    """Outcomes of one format."""
    file, content, read = FORMATS[name]
    random, found = np.random.default_rng(0), Counter[str]()
    with TemporaryDirectory() as folder:
        path = Path(folder) / file
        for _ in range(count):
            if file.endswith(".json") and random.random() < 0.5:
                path.write_text(json.dumps(other_values(json.loads(content), random)))
            else:
                path.write_bytes(mutated(content.encode(), random))
            try:
                read(path)
                found["read"] += 1
            except InputError as error:
                found["refused" if "\n" not in str(error) and file in str(error) else f"BAD SENTENCE: {error}"] += 1
            except BaseException as error:
                found[f"TRACEBACK: {type(error).__name__}: {error}"] += 1
    return found


if __name__ == "__main__":
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for one in sys.argv[2:] or FORMATS:
        print(one, dict(fuzz(one, how_many).most_common(20)), flush=True)
