"""The pictures of a report that need images: cases drawn with their predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_ext.benchmark import analysis
from nnunet_ext.benchmark.results import Group, Results, image_of
from nnunet_ext.data.reading import Reader
from nnunet_ext.evaluation.overlay import OverlayCase, draw_overlay

SHOWN_CASES = 2
"""Number of cases with the largest gains, and with the largest losses."""


def largest_differences(results: Results, group: Group, arm: str, file: Path) -> None:
    """Draw the cases with the largest gains and losses of Dice into ``file``; without images nothing is drawn."""
    cases = analysis.per_case(results, group.name, arm, "dice")["difference"].dropna().sort_values()
    chosen = dict.fromkeys([*cases.index[::-1][:SHOWN_CASES], *cases.index[:SHOWN_CASES]])

    def drawn(case: str, difference: float) -> OverlayCase | None:
        def note(name: str, dice: float, seed: int) -> str:
            return f"Dice {dice:.3f} (seed {seed})" + (f", mean difference {difference:+.3f}" if name == arm else "")

        return overlay_case(results, group, (results.baseline, arm), case, note)

    rows = [row for case in chosen if (row := drawn(str(case), cases[case]))]
    if rows:
        title = f"largest gains, then largest losses of {arm}; the slice where the two differ most"
        draw_overlay(file, rows, group.labels, Reader(group.reader), title, "disagreement")


def overlay_case(
    results: Results, group: Group, arms: Sequence[str], case: str, note: Callable[[str, float, int], str]
) -> OverlayCase | None:
    """One case with the predictions of ``arms``, all of the same fold and seed; None if a file is missing.

    Args:
        results: all results.
        group: group of the case.
        arms: arms in the order of the columns.
        case: name of the case.
        note: function from arm, mean Dice over labels, and seed to the text below the prediction.
    """
    image = image_of(group, case)
    if image is None:
        return None
    own = results.cases[(results.cases["group"] == group.name) & (results.cases["case"] == case)]
    shared = own.groupby(["fold", "seed"])["arm"].agg(set)
    fold, seed = next(key for key, there in shared.items() if set(arms) <= there)
    predictions, notes = {}, {}
    for name in arms:
        training = analysis.training_of(results, group.name, name, int(fold), int(seed))
        predictions[name] = training.predictions / f"{case}{group.description['file_ending']}"
        dice = own[(own["arm"] == name) & (own["fold"] == fold) & (own["seed"] == seed)]["dice"].mean()
        notes[name] = note(name, dice, int(seed))
    if not all(file.is_file() for file in predictions.values()):
        return None
    reference = group.references / f"{case}{group.description['file_ending']}"
    return OverlayCase(case, image, reference, predictions, notes)
