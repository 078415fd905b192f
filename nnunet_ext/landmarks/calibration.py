"""Below which confidence is a landmark absent? Found on the validation cases of a fold, kept beside its checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from nnunet_ext.files import read_json, replacing
from nnunet_ext.landmarks.points import Landmark, Landmarks, State

DEFAULT_THRESHOLD = 0.1
"""Where validation says nothing: of landmarks that are there a trained network is surer than that."""

NAME = "landmark_thresholds.json"


def threshold(confidences: ArrayLike, states: ArrayLike) -> float | None:
    """The confidence that separates present from absent best: the mean of both rates of correct answers is highest.

    Of several that are equally good the one in the middle; None unless there are both present and absent landmarks.

    Args:
        confidences: ``(N,)``, of one landmark in N cases.
        states: ``(N,)``, what is known; values of ``State``.
    """
    confidences, states = np.asarray(confidences, float), np.asarray(states)
    there, absent = confidences[states == State.PRESENT], confidences[states == State.ABSENT]
    if not len(there) or not len(absent):
        return None
    ends = np.unique(np.concatenate([there, absent, [0.0, 1.0]]))
    candidates = (ends[:-1] + ends[1:]) / 2
    correct = np.array([(there >= c).mean() + (absent < c).mean() for c in candidates])
    best = candidates[np.isclose(correct, correct.max())]
    return float(best[len(best) // 2])


def write_thresholds(folder: Path, names: Sequence[str], found: Sequence[float | None]) -> None:
    """``found``: by landmark, None where validation says nothing."""
    with replacing(folder / NAME) as temporary:
        temporary.write_text(json.dumps(dict(zip(names, found, strict=True)), indent=1), encoding="utf-8")


def read_thresholds(folders: Sequence[Path], names: Sequence[str]) -> list[float]:
    """By landmark, the mean over the folds that found one; :data:`DEFAULT_THRESHOLD` without any."""
    contents = [read_json(folder / NAME) for folder in folders if (folder / NAME).is_file()]
    means = []
    for name in names:
        known = [content[name] for content in contents if content.get(name) is not None]
        means.append(math.fsum(known) / len(known) if known else DEFAULT_THRESHOLD)
    return means


def sure_enough(landmarks: Landmarks, thresholds: Mapping[str, float]) -> dict[str, Landmark]:
    """Predicted landmarks; those whose confidence is below the threshold are absent."""
    return {
        name: Landmark(State.ABSENT, None, found.confidence)
        if found.confidence is not None and found.confidence < thresholds[name]
        else found
        for name, found in landmarks.items()
    }
