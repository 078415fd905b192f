"""Results of a toy: what each arm reached, and what must be true of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """One statement about the arms of a toy that is known to be right if the mechanism works.

    Attributes:
        task: what was trained or computed, such as ``2D``.
        measure: what the numbers are.
        arms: value of each arm, in the order of a table.
        known: the right value or relation, in words.
        right: whether the arms have it.
    """

    task: str
    measure: str
    arms: Mapping[str, float]
    known: str
    right: bool


def dice(found: Tensor, truth: Tensor) -> float:
    """Dice of two masks of the same shape, all images together."""
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def table(answers: Mapping[str, Sequence[Answer]]) -> str:
    """Return a Markdown table.

    Args:
        answers: by toy.
    """
    lines = ["| toy | task | measure | reached | known answer | right |", "|---|---|---|---|---|---|"]
    for toy, rows in answers.items():
        for row in rows:
            reached = ", ".join(f"{arm} {value:.3f}" for arm, value in row.arms.items())
            verdict = "yes" if row.right else "**no**"
            lines.append(f"| {toy} | {row.task} | {row.measure} | {reached} | {row.known} | {verdict} |")
    return "\n".join(lines)
