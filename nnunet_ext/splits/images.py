"""Tests by grey values whether cases 2k−1 and 2k (or 2k and 2k+1) are one subject, for names that do not tell.

The scale of MR grey values differs from scan to scan, so two cases cut from one scan, such as the left and the right
hippocampus, have similar grey values. Neighbours may be similar for other reasons, such as a site that contributed a
block of cases. But then 2k and 2k+1 are as similar as 2k−1 and 2k: only pairs of one subject make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu, rankdata

from nnunet_ext.data.finite import not_finite, read_as_zero
from nnunet_ext.data.raw import RawDataset
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.splits.subjects import numbered

PERCENTILES = (25, 50, 75)
"""Percentiles of the first channel's grey values that are compared."""

LOOKED_AT = 100
"""Number of cases to read. On MSD hippocampus the pairs were found in all of 200 draws of 100 consecutive cases, in
74 % of draws of 60 and in 34 % of draws of 30."""

FEWEST = 7
"""Smallest number of pairs of either kind. With 6 no outcome of the test could be below :data:`P_VALUE`."""

P_VALUE, RATIO = 1e-3, 0.5
"""Upper limits of the p-value and of the ratio of the smaller to the larger median difference.

On 100 cases of MSD hippocampus p is 1e-6 and the ratio 0.19. With one case per subject of the same data, no pairs were
found in any of 3000 draws of 30 to 100 cases."""


@dataclass(frozen=True)
class Neighbours:
    """Difference between images of neighbouring numbers: the mean difference of their ranks among all cases, 0 to 1.

    Attributes:
        odd_even: median over the pairs 2k−1 and 2k.
        even_odd: median over the pairs 2k and 2k+1.
        p_value: p-value of a two-sided Mann-Whitney test of both kinds of pairs against each other.
        cases: number of cases compared.
        not_finite: description of the NaN and infinite voxels, by case.
    """

    odd_even: float
    even_odd: float
    p_value: float
    cases: int
    not_finite: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> int | None:
        """The number of the first case of a pair, 1 or 0; None if there seem to be no pairs of one subject."""
        low, high = sorted((self.odd_even, self.even_odd))
        if self.p_value >= P_VALUE or low >= RATIO * high:
            return None
        return int(self.odd_even < self.even_odd)


def look_at_neighbours(raw: RawDataset, processes: int | None = None) -> Neighbours | None:
    """Read the first :data:`LOOKED_AT` images with nnU-Net's reader and compare neighbours.

    Args:
        raw: data set.
        processes: images read in parallel; by default one per core.

    Returns:
        None if too few cases have neighbouring numbers.

    Raises:
        InputError: an image cannot be read.
    """
    cases = raw.cases[:LOOKED_AT]
    if _too_few(_neighbours([case.name for case in cases])):
        return None
    reader = raw.reader().name
    calls = [(case.images[0], reader) for case in cases]
    seen = dict(
        zip((case.name for case in cases), for_every_case(grey_levels, calls, processes, "images"), strict=True)
    )
    wrong = {case: found for case, found in seen.items() if isinstance(found, str)}
    result = compare_neighbours({case: found for case, found in seen.items() if not isinstance(found, str)})
    if result is None and wrong:
        raise InputError("; ".join(f"{case}: {text}" for case, text in wrong.items()))
    return None if result is None else replace(result, not_finite=wrong)


def grey_levels(image: Path, reader_name: str) -> NDArray[np.float64] | str:
    """The :data:`PERCENTILES` of the first channel of one image, or a description of its NaN and infinite voxels."""
    array = Reader(reader_name).image(image).array
    return not_finite(array[None]) or read_as_zero([image], reader_name) or np.percentile(array, PERCENTILES)


def compare_neighbours(levels: Mapping[str, ArrayLike]) -> Neighbours | None:
    """Compare cases that are neighbours by the last number of their name.

    Args:
        levels: percentiles by case, ``(n,)`` each.

    Returns:
        None if too few cases have neighbouring numbers.
    """
    neighbours = _neighbours(list(levels))
    if _too_few(neighbours):
        return None
    # ranks do not depend on the scale of grey values, which differs between CT and MR
    ranks = rankdata(np.array(list(levels.values())), axis=0) / len(levels)
    rank_of = dict(zip(levels, ranks, strict=True))
    odd_even, even_odd = (
        [float(np.abs(rank_of[one] - rank_of[other]).mean()) for one, other in pairs] for pairs in neighbours
    )
    p_value = float(mannwhitneyu(odd_even, even_odd).pvalue)
    return Neighbours(float(np.median(odd_even)), float(np.median(even_odd)), p_value, len(levels))


def _neighbours(cases: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The pairs of cases 2k−1 and 2k, and the pairs of cases 2k and 2k+1."""
    by_number = {}
    for case in sorted(cases):
        if parts := numbered(case):
            before, digits, after = parts
            by_number[before, int(digits), after] = case
    found: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for (before, number, after), case in by_number.items():
        if (before, number + 1, after) in by_number:
            found[(number + 1) % 2].append((case, by_number[before, number + 1, after]))
    return found


def _too_few(neighbours: Sequence[Sequence[tuple[str, str]]]) -> bool:
    return min(map(len, neighbours)) < FEWEST
