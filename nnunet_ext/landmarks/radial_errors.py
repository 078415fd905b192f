"""Errors of predicted landmarks, and what is counted when one of the two is absent or unknown.

===================  =======================  ===================================================
reference            prediction               counts as
===================  =======================  ===================================================
present              present                  found: its radial error in mm
present              absent or unknown        missed
absent               present                  false
absent               absent or unknown        rejected
unknown              anything                 not scored
===================  =======================  ===================================================

MRE, the mean radial error, is over the landmarks that were found. SDR, the successful detection rate, is the share of
the landmarks present in the reference whose error is at most (≤) the radius; one that was missed is a failure at every
radius, so staying silent about hard cases improves the MRE, but not the SDR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from nnunet_ext.landmarks.points import Landmark, State

Outcome = Literal["found", "missed", "false", "rejected", "not scored"]

RADII_MM = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Of the SDR: 1.5 and 4 in BaBLoss, 2, 3 and 4 in nnLandmark, 2, 2.5, 3 and 4 in cephalometry."""


ROUNDING_MM = 1e-6
"""What files round: an error of exactly 2 mm counts as one of at most 2 mm."""


@dataclass(frozen=True)
class ScoredLandmark:
    """One landmark of one case.

    Attributes:
        case, landmark: names.
        outcome: see the module.
        error_mm: nan unless found.
        confidence: of the prediction; nan if it has none.
        surface_mm: distance of the prediction from the surfaces of its organs, their mean; nan if not measured.
        reference_surface_mm: the same for the reference.
    """

    case: str
    landmark: str
    outcome: Outcome
    error_mm: float = np.nan
    confidence: float = np.nan
    surface_mm: float = np.nan
    reference_surface_mm: float = np.nan


@dataclass(frozen=True)
class Summary:
    """Of some landmarks; distances in mm, nan where nothing counts.

    Attributes:
        mre, sd, median, maximum: of the radial errors.
        sdr: by radius, from 0 to 1.
        surface, reference_surface: mean distance from the surfaces of their organs.
        found, missed, false, rejected: how many.
    """

    mre: float
    sd: float
    median: float
    maximum: float
    sdr: dict[float, float]
    surface: float
    reference_surface: float
    found: int
    missed: int
    false: int
    rejected: int


def outcome_of(reference: Landmark, prediction: Landmark) -> tuple[Outcome, float]:
    """What a prediction counts as, and its radial error in mm (nan unless found)."""
    if reference.state is State.UNKNOWN:
        return "not scored", np.nan
    if prediction.position_mm is None:
        return ("missed" if reference.state is State.PRESENT else "rejected"), np.nan
    if reference.position_mm is None:
        return "false", np.nan
    return "found", float(np.linalg.norm(np.subtract(reference.position_mm, prediction.position_mm)))


def summarise(scored: Sequence[ScoredLandmark], radii_mm: Sequence[float] = RADII_MM) -> Summary:
    """All of them together: every landmark of every case counts the same."""
    outcomes = Counter(one.outcome for one in scored)
    errors = np.array([one.error_mm for one in scored if one.outcome == "found"])
    present = outcomes["found"] + outcomes["missed"]
    return Summary(
        mre=_mean(errors),
        sd=float(errors.std(ddof=1)) if len(errors) > 1 else np.nan,
        median=float(np.median(errors)) if len(errors) else np.nan,
        maximum=float(errors.max()) if len(errors) else np.nan,
        sdr={
            radius: float((errors <= radius + ROUNDING_MM).sum() / present) if present else np.nan
            for radius in radii_mm
        },
        surface=_mean([one.surface_mm for one in scored]),
        reference_surface=_mean([one.reference_surface_mm for one in scored]),
        found=outcomes["found"],
        missed=outcomes["missed"],
        false=outcomes["false"],
        rejected=outcomes["rejected"],
    )


def _mean(values: ArrayLike) -> float:
    """Without nan; nan of nothing."""
    own = np.asarray(values, float)
    own = own[np.isfinite(own)]
    return float(own.mean()) if len(own) else np.nan
