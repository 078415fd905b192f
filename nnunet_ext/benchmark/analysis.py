"""Comparisons from scores: which differences are shown, and which are not.

Every arm is compared with the baseline on the subjects, folds and seeds that both have. Each table of the report is one
family of tests: Holm's correction runs over all its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnunet_ext.benchmark.results import Results, Training
from nnunet_ext.evaluation.comparison import MIN_SUBJECTS, Comparison
from nnunet_ext.evaluation.ranks import rank_distribution
from nnunet_ext.evaluation.statistics import compare, correct
from nnunet_ext.nnunet.plans import KEY, NOTED

MEAN = "mean"
"""The label of the mean over the labels of a case."""

FLAT = 0.005
"""Largest gain of Dice over the last quarter of its schedule with which a baseline counts as fully trained."""

STILL_LEARNING = "still learning: no verdict"

NOT_KNOWN = "not known to be flat: no verdict"
"""Verdict if the curve of the baseline is missing or too short."""

KEYS = ["arm", "fold", "seed", "case", "label"]

COUNTED = {
    "betti_0_error": "Betti 0 error (components)",
    "betti_1_error": "Betti 1 error (holes, in 3D loops)",
    "betti_2_error": "Betti 2 error (cavities)",
}


@dataclass(frozen=True)
class Metric:
    """A column of ``metrics.csv`` or ``interfaces.csv``; ``unit`` is empty or begins with a blank."""

    column: str
    title: str
    higher_is_better: bool
    unit: str = ""
    digits: int = 4
    point: float = 0.01
    """A difference per case that is worth counting."""

    @property
    def heading(self) -> str:
        """The title with its unit: ``Dice``, ``HD95 (mm)``."""
        return f"{self.title} ({self.unit.strip()})" if self.unit else self.title

    @property
    def is_main(self) -> bool:
        """Whether sentences, verdicts and figures are about this metric; other metrics are only in tables."""
        return self.column in ("dice", "hd95_mm")


@dataclass(frozen=True)
class Finding:
    """One comparison of the report; ``no_verdict`` is the reason for giving none, if the baseline may still learn."""

    group: str
    metric: Metric
    label: str
    comparison: Comparison
    no_verdict: str = ""

    @property
    def verdict(self) -> str:
        """Verdict of the comparison, or the reason for giving none."""
        tested = self.comparison.n >= MIN_SUBJECTS
        return self.no_verdict if self.no_verdict and tested else self.comparison.verdict


def metrics_of(cases: pd.DataFrame, interfaces: pd.DataFrame | None = None) -> list[Metric]:
    """The metrics of the report, in order; IoU is a function of Dice and stays in the CSV file.

    Args:
        cases: scores of labels.
        interfaces: scores of pairs of labels, if they were measured.
    """
    betti = [column for column in cases.columns if column.startswith("betti_")]
    touching = list(interfaces.columns) if interfaces is not None and len(interfaces) else []
    return [
        Metric("dice", "Dice", True),
        Metric("hd95_mm", "HD95", False, " mm", 3, 1.0),
        Metric("assd_mm", "ASSD", False, " mm", 3, 1.0),
        *(Metric(c, f"NSD at {_tolerance(c)} mm", True) for c in cases.columns if c.startswith("nsd_")),
        *(Metric(c, COUNTED[c], False, "", 3, 0.5) for c in betti),
        *(Metric(c, "Error of slice consistency", False) for c in cases.columns if c == "consistency_error"),
        *(Metric(c, f"Interface NSD at {_tolerance(c)} mm", True) for c in touching if c.startswith("interface_nsd_")),
        *(Metric(c, "Interface HD95", False, " mm", 3, 1.0) for c in touching if c == "interface_hd95_mm"),
        *(Metric(c, "Confusion near the interface", False) for c in touching if c == "interface_confusion"),
    ]


def values(results: Results, group: str, arms: Sequence[str], column: str) -> dict[str, pd.DataFrame]:
    """One metric of these arms on their common trainings and cases, by label, with the mean over labels first.

    A label of a case counts only if all these arms have a value for it, so that all are judged on the same data. For
    metrics of an interface the labels are pairs of labels.

    Returns:
        For every label a table ``arm, case, seed, value`` for :func:`~nnunet_ext.evaluation.statistics.compare`, with
        the column ``subject`` if the subject of every case is known.
    """
    cases = results.scores_of(column)
    own = cases[(cases["group"] == group) & cases["arm"].isin(arms)]
    own = _common_cases(_common_trainings(own, arms))
    counted = own.groupby(["case", "label"])[column].transform(lambda column: column.notna().all())
    subjects = own.drop_duplicates("case").set_index("case")["subject"] if "subject" in own.columns else None
    own = own.assign(value=own[column].where(counted))[[*KEYS, "value"]]
    if own.groupby("case")["fold"].nunique().max() > 1:
        # Folds with the same validation cases are repeats on other training subsets, so they count as seeds. The seeds
        # of a subset are one repeat: what is special about the subset is in all of them.
        own = own.groupby(["arm", "fold", "case", "label"], as_index=False, sort=False)["value"].mean()
        own = own.assign(seed=own["fold"])
    mean = own.groupby(["arm", "fold", "seed", "case"], as_index=False)["value"].mean().assign(label=MEAN)
    tables = {MEAN: mean, **{label: own[own["label"] == label] for label in own["label"].unique()}}
    columns = ["arm", "case", "seed", "value"]
    if subjects is not None and subjects.notna().all():
        tables = {label: table.assign(subject=table["case"].map(subjects)) for label, table in tables.items()}
        columns = ["subject", *columns]
    return {label: table[columns].reset_index(drop=True) for label, table in tables.items()}


def findings(results: Results, group: str, metric: Metric) -> list[Finding]:
    """Compare every other arm with the baseline, for the mean and every label, with Holm's correction over all."""
    found: list[tuple[str, Comparison]] = []
    for arm in present(results, group):
        if arm == results.baseline:
            continue
        tables = values(results, group, [results.baseline, arm], metric.column)
        if not len(tables[MEAN]):
            continue
        for label, table in tables.items():
            [comparison] = compare(
                table,
                results.baseline,
                higher_is_better=metric.higher_is_better,
                point=metric.point,
                few_subjects="describe",
            )
            found.append((label, comparison))
    corrected = correct(comparison for _, comparison in found)
    gain = late_gain(results, group, results.baseline)
    no_verdict = NOT_KNOWN if gain is None else STILL_LEARNING if gain > FLAT else ""
    return [Finding(group, metric, label, c, no_verdict) for (label, _), c in zip(found, corrected, strict=True)]


def late_gain(results: Results, group: str, arm: str) -> float | None:
    """Gain of an arm over the last quarter of its schedule, a mean over trainings; see :func:`.records.late_gain`."""
    own = [t.about.get("late_gain") for t in results.trainings if (t.arm, t.group) == (arm, group)]
    known = [gain for gain in own if gain is not None]
    return float(np.mean(known)) if known else None


def ranks(results: Results, group: str, metric: Metric) -> pd.DataFrame | None:
    """The distribution of all arms' ranks by the mean over labels; None if too few subjects are common."""
    arms = present(results, group)
    tables = values(results, group, arms, metric.column)
    table = tables[MEAN]
    counted = table[table.groupby("case")["value"].transform(lambda column: column.notna().all()).astype(bool)]
    if len(arms) < 2 or counted["subject" if "subject" in counted.columns else "case"].nunique() < MIN_SUBJECTS:
        return None
    return rank_distribution(table, higher_is_better=metric.higher_is_better)


def per_case(results: Results, group: str, arm: str, column: str) -> pd.DataFrame:
    """Means over labels and seeds of every case, for one arm and the baseline, and their difference."""
    table = values(results, group, [results.baseline, arm], column)[MEAN]
    wide = table.groupby(["case", "arm"])["value"].mean().unstack()
    return wide.assign(difference=wide[arm] - wide[results.baseline])


def present(results: Results, group: str) -> list[str]:
    """The arms with at least one training in a group, in the order of the benchmark."""
    there = set(results.cases.loc[results.cases["group"] == group, "arm"])
    return [arm for arm in results.arms if arm in there]


def per_training(results: Results, group: str, column: str) -> pd.DataFrame:
    """The mean over cases of every training; rows are ``fold, seed``, columns are arms."""
    scores = results.scores_of(column)
    own = scores[scores["group"] == group]
    case = own.groupby(["arm", "fold", "seed", "case"])[column].mean()
    table = case.groupby(["arm", "fold", "seed"]).mean().unstack("arm")
    return table[present(results, group)]


def costs(results: Results, group: str) -> list[dict[str, Any]]:
    """Weights, time and memory of every arm (medians over its trainings), and their ratios to the baseline.

    Times and memory of different machines have no ratio.
    """
    rows: list[dict[str, Any]] = []
    for arm in present(results, group):
        own = [training for training in results.trainings if (training.arm, training.group) == (arm, group)]
        rows.append(
            {
                "arm": arm,
                "weights": _median(t.about.get("weights") for t in own),
                "epoch_seconds": _median(_median(t.about.get("epoch_seconds", [])) for t in own),
                "training_hours": _median(math.fsum(t.about.get("epoch_seconds", [])) / 3600 or None for t in own),
                "host_mib": _median(t.memory.get("host_mib") for t in own),
                "gpu_mib": _median(t.memory.get("gpu_allocated_mib") for t in own),
            }
        )
    [base] = [row for row in rows if row["arm"] == results.baseline] or [{}]
    machine = machines(results, group)
    for row in rows:
        same = machine[row["arm"]] == machine.get(results.baseline)
        for key in [key for key in row if key != "arm"]:
            known = base.get(key) and row[key] and (same or key == "weights")
            row[f"{key}_ratio"] = row[key] / base[key] if known else float("nan")
    return rows


def machines(results: Results, group: str) -> dict[str, set[str]]:
    """The machines that trained each arm: processor, whether it lacks bfloat16, number of cores and GPU in words."""
    found: dict[str, set[str]] = {}
    for training in results.trainings:
        if training.group == group:
            cores = f"{training.hardware['cores']} cores" if training.hardware.get("cores") else None
            bfloat16 = "no bfloat16" if training.hardware.get("bfloat16") is False else None
            parts = (training.hardware.get("processor"), bfloat16, cores, training.hardware.get("gpu"))
            found.setdefault(training.arm, set()).add(", ".join(str(part) for part in parts if part))
    return found


def deviations(results: Results, group: str) -> dict[str, list[str]]:
    """By arm, the settings of its configuration that differ from the baseline's, as texts."""
    settings = {t.arm: _chosen(t.about.get("settings", {})) for t in results.trainings if t.group == group}
    base = settings.get(results.baseline, {})
    return {
        arm: [
            f"{key}: {own.get(key, 'not set')} (baseline: {base.get(key, 'not set')})"
            for key in sorted({*own, *base})
            if own.get(key) != base.get(key)
        ]
        for arm, own in settings.items()
    }


def same_cases(results: Results, group: str) -> bool:
    """Whether all trainings of each fold were validated on the same cases."""
    own = results.cases[results.cases["group"] == group]
    sets = own.groupby(["fold", "arm", "seed"])["case"].agg(frozenset)
    return all(len(set(fold)) == 1 for _, fold in sets.groupby("fold"))


# --- parts ------------------------------------------------------------------------------------------------------------


def _common_trainings(own: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The rows of folds and seeds that all arms have; balanced, with as many trainings as possible."""
    there = own[["arm", "fold", "seed"]].drop_duplicates().groupby(["fold", "seed"])["arm"].nunique()
    common = [key for key, count in there.items() if count == len(set(arms))]
    seeds = sorted({seed for _, seed in common})
    folds_of = {seed: {fold for fold, one in common if one == seed} for seed in seeds}
    best: tuple[int, set, set] = (0, set(), set())
    for folds in folds_of.values():
        complete = {seed for seed in seeds if folds_of[seed] >= folds}
        if len(complete) * len(folds) > best[0]:
            best = (len(complete) * len(folds), folds, complete)
    return own[own["fold"].isin(best[1]) & own["seed"].isin(best[2])]


def _common_cases(own: pd.DataFrame) -> pd.DataFrame:
    """The rows of cases that all trainings of their fold have."""
    each = own[["arm", "fold", "seed", "case"]].drop_duplicates()
    trainings = each[["arm", "fold", "seed"]].drop_duplicates().groupby("fold").size()
    having = each.groupby(["fold", "case"]).size()
    lacking = having[having.to_numpy() < trainings.loc[having.index.get_level_values("fold")].to_numpy()]
    return own[~own["case"].isin(lacking.index.get_level_values("case"))]


def _tolerance(column: str) -> str:
    return column.rpartition("nsd_")[2].removesuffix("mm")


def _median(numbers: Iterable[float | None]) -> float:
    known = [number for number in numbers if number is not None and not np.isnan(number)]
    return float(np.median(known)) if known else float("nan")


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, without the defaults that a training noted for its network."""
    return {name: value for name, value in _flat(settings).items() if not name.startswith(f"{KEY}.{NOTED}.")}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def training_of(results: Results, group: str, arm: str, fold: int, seed: int) -> Training:
    """The training with these names and numbers."""
    [found] = [t for t in results.trainings if (t.group, t.arm, t.fold, t.seed) == (group, arm, fold, seed)]
    return found
