"""Numbers that may not exist: NaN, as in :mod:`nnunet_ext.evaluation.metrics`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def mean(values: Iterable[float]) -> float:
    """Of those that exist; NaN if none does."""
    counted = [value for value in values if not math.isnan(value)]
    return float(np.mean(counted)) if counted else math.nan


def shown(value: float, digits: int) -> str:
    """As text; a dash if it does not exist."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
