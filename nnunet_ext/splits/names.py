"""What the names of cases tell about subjects, where they have a usual form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TIME = "frame|fr|phase|time|timepoint|tp|t|session|ses|visit|v|scan|run|echo|acq|rep|day|week|month|year|slice|sl"
_STATE = "ed|es|pre|post|baseline|followup"
_SIDE = "left|right|lh|rh|l|r"

RULES = (
    ("sub-…, as in BIDS", r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+)", 0.0),
    ("the word patient or subject with its number", r"(?i)(?<![a-z])((?:patient|subject|subj|pat|pt)[-_]?\d+)", 0.0),
    (
        "what is before the frame, time point, session or side",
        rf"(?i)^(.+?)(?:[-_. ](?:(?:{_TIME})[-_]?\d+|{_STATE}|{_SIDE}))+$",
        0.1,
    ),
    ("what is before the second number", r"^(.*\d)[-_. ]\d+$", 0.1),
)
"""Description, expression whose group is the subject, and the least number of subjects as a share of the cases: fewer
are sites or studies rather than subjects (``site1_001``, ``BraTS2021_00012``). The first rule that fits is taken."""


@dataclass(frozen=True)
class NamedSubjects:
    """``rule``: in words; ``subject_of``: the subject of every case, which is the case where its name does not tell."""

    rule: str
    subject_of: Mapping[str, str]


def subjects_from_names(cases: Sequence[str]) -> NamedSubjects | None:
    """The subjects, if the names have a usual form in which at least two cases are one subject; otherwise None."""
    for rule, expression, share in RULES:
        subject_of = {case: match[1] if (match := re.search(expression, case)) else case for case in cases}
        subjects = len(set(subject_of.values()))
        if 1 < subjects < len(cases) and subjects >= share * len(cases):
            return NamedSubjects(rule, subject_of)
    return None
