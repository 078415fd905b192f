"""``nnunet-ext benchmark report``: one page with tables and figures, and every number in files.

::

    report.html        everything in one file, readable without a network and when printed
    report.md          the same tables, for a README
    figures/*.png
    cases.csv          every training, case and label
    comparisons.csv    every difference, interval, test and verdict
    costs.csv          weights, time, memory
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.benchmark import analysis, figures, markdown
from nnunet_ext.benchmark.analysis import MEAN, Finding, Metric
from nnunet_ext.benchmark.folder import BenchmarkFolder, file_name
from nnunet_ext.benchmark.pictures import Picture, largest_differences
from nnunet_ext.benchmark.results import Group, Results, from_benchmark, from_models
from nnunet_ext.benchmark.tables import (
    Table,
    comparison_rows,
    comparison_table,
    cost_table,
    per_training_table,
    signed,
    summary_table,
    write_table,
)
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing, write_text
from nnunet_ext.version import __version__

WHAT_A_SEED_FIXES = (
    "A seed fixes the initial weights, and on a CPU the patches and their augmentation until a trainer draws random "
    "numbers of its own; with augmentation workers, which seed themselves, or on a GPU, whose kernels are chosen by "
    "timing, two trainings with the same seed differ. A difference between two single "
    "trainings says little about two trainers, so it gets no verdict; only several seeds show how much a training "
    "varies, and the intervals are over both, seeds and subjects."
)


@dataclass
class Section:
    """Part of the page about one group of trainings."""

    title: str
    sentences: list[str] = field(default_factory=list)
    main: Table | None = None
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def report_benchmark(folder: str | Path, out: str | Path | None = None, *, baseline: str | None = None) -> str:
    """Report what is done of a benchmark; returns the text to print.

    Args:
        folder: of the benchmark.
        out: where to write; ``report`` in ``folder`` by default.
        baseline: instead of the one the benchmark names.
    """
    benchmark = BenchmarkFolder(folder)
    return write_report(from_benchmark(benchmark, baseline), Path(out) if out else benchmark.folder / "report")


def report_results(
    models: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    baseline: str | None = None,
    reference: str | Path | None = None,
    folds: Sequence[int] | None = None,
) -> str:
    """Report models that nnU-Net trained; see :func:`nnunet_ext.benchmark.results.from_models`."""
    results = from_models(models, baseline, reference=reference, folds=folds)
    return write_report(results, Path(out) if out else Path("nnunet_ext_report"))


def write_report(results: Results, out: Path) -> str:
    """Write all files of the report into ``out`` and return the text to print."""
    import jinja2

    (out / "figures").mkdir(parents=True, exist_ok=True)
    metrics = analysis.metrics_of(results.cases)
    found: list[Finding] = []
    sections = []
    for group in results.groups:
        if results.baseline not in analysis.present(results, group.name):
            raise InputError(
                f"The baseline {results.baseline} has no finished training for {group.name}; wait for it, or choose "
                f"another with --baseline: {', '.join(analysis.present(results, group.name))}."
            )
        own = {metric: analysis.findings(results, group.name, metric) for metric in metrics}
        found += [finding for each in own.values() for finding in each]
        sections.append(section(results, group, own, out / "figures"))
    write_table(out / "cases.csv", results.cases)
    write_table(out / "comparisons.csv", comparison_table(found))
    costs = [
        {"group": group.name, **row, "late_gain": analysis.late_gain(results, group.name, row["arm"])}
        for group in results.groups
        for row in analysis.costs(results, group.name)
    ]
    write_table(out / "costs.csv", pd.DataFrame(costs))
    page = {
        "results": results,
        "sections": sections,
        "how": how_measured(results),
        "environment": environment(results),
        "version": __version__,
    }
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_ext.benchmark"),
        autoescape=lambda name: ".html" in (name or ""),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"md": markdown.escaped, "code": markdown.code}
    for kind in ("html", "md"):
        text = templates.get_template(f"report.{kind}.j2").render(page)
        write_text(out / f"report.{kind}", text.rstrip() + "\n")
    said = "\n".join(f"- {sentence}" for each in sections for sentence in each.sentences)
    return f"{said}\n\n{out / 'report.html'}\n{out / 'report.md'}, figures and CSV files beside it"


# --- one group --------------------------------------------------------------------------------------------------------


def section(results: Results, group: Group, found: Mapping[Metric, list[Finding]], folder: Path) -> Section:
    """Tables, figures and sentences about one group of trainings."""
    arms = analysis.present(results, group.name)
    by_arm = figures.styles(arms, results.baseline)
    page = Section(group.name)
    compared = any(found.values())
    if compared:
        page.sentences = sentences(found)
        page.main = summary_table(results, group.name, found)
        page.tables += [comparison_rows(results, group.name, metric, own) for metric, own in found.items()]
    page.tables.append(per_training_table(results, group.name))
    page.tables.append(cost_table(results, group.name))

    def add(title: str, name: str, draw: Callable[[], Any]) -> None:
        path = folder / f"{file_name(group.name)}_{name}.png"
        with replacing(path) as temporary:
            draw().savefig(temporary, dpi=110)
        page.pictures.append(Picture(title, path))

    shown = [metric for metric in found if metric.is_main]
    if compared:
        add(
            "Paired differences to the baseline",
            "differences",
            lambda: figures.differences({metric: found[metric] for metric in shown}, by_arm),
        )
    tables = {metric: analysis.values(results, group.name, arms, metric.column)[MEAN] for metric in shown}
    if all(len(table) for table in tables.values()):
        add("Every case", "cases", lambda: figures.distributions(tables, by_arm))
    ranked = {metric: table for metric in shown if (table := analysis.ranks(results, group.name, metric)) is not None}
    if ranked:
        add("How stable the ranking is", "ranks", lambda: figures.rank_bars(ranked, by_arm))
    trainings = [t for t in results.trainings if t.group == group.name and t.about.get("curves")]
    if trainings:
        add("Training curves", "curves", lambda: figures.curves(trainings, by_arm))
    for arm in arms:
        if arm != results.baseline:
            page.pictures += largest_differences(results, group, arm, folder)
    return page


def sentences(found: Mapping[Metric, Sequence[Finding]]) -> list[str]:
    """Say in words what is found of every arm for the mean over labels of Dice and HD95."""
    said = []
    for metric, own in found.items():
        for finding in own:
            c = finding.comparison
            if finding.label != MEAN or not metric.is_main:
                continue
            words = {
                "better": f"{c.arm} is better than {c.baseline}",
                "worse": f"{c.arm} is worse than {c.baseline}",
            }.get(finding.verdict, f"{c.arm} against {c.baseline}: {finding.verdict}")
            interval = "" if math.isnan(c.ci_low) else f" [{signed(c.ci_low, metric)}, {signed(c.ci_high, metric)}]"
            seeds = f"{c.seeds} seeds" if c.seeds > 1 else "one training each"
            tails = "; ".join(
                f"worst {100 * tail.share:g} % from {tail.candidate:.{metric.digits}f} against "
                f"{tail.baseline:.{metric.digits}f}"
                for tail in c.tails
            )
            seen = (
                ""
                if math.isnan(c.smallest_difference)
                else f"; {c.smallest_difference:.{metric.digits}f}{metric.unit} would have been seen"
            )
            cautions = "".join(f" Caution: {each}." for each in c.cautions)
            said.append(
                f"{metric.title}: {words}, {signed(c.mean_difference, metric)}{metric.unit}{interval}{seen}; "
                f"{c.counted}, {seeds}; {c.cases_better} cases better and {c.cases_worse} worse by more than "
                f"{c.point:g}{metric.unit}; {tails}{_p(c.p_corrected)}.{cautions}"
            )
    return said


# --- everything -------------------------------------------------------------------------------------------------------


def how_measured(results: Results) -> list[str]:
    """Say what was the same, what was not, and what the numbers mean."""
    lines = list(results.definitions)
    for group in results.groups:
        cases = results.cases[results.cases["group"] == group.name]
        folds = ", ".join(map(str, sorted(cases["fold"].unique())))
        seeds = cases["seed"].nunique()
        same = (
            "every training of a fold was validated on the same cases"
            if analysis.same_cases(results, group.name)
            else "NOT every training of a fold was validated on the same cases; only common cases are compared"
        )
        lines.append(
            f"{group.name}: fold {folds}, {seeds} seed{'s' * (seeds > 1)}, {cases['case'].nunique()} cases; {same}"
        )
        deviating = {arm: own for arm, own in analysis.deviations(results, group.name).items() if own}
        lines += [f"{arm} differs from the baseline in {'; '.join(own)}" for arm, own in deviating.items()]
        if not deviating:
            lines.append(f"{group.name}: all trainers had the same plans, schedule, patch and batch size")
        lines.append(f"{group.name}: {whether_flat(results, group.name)}")
    lines.append(WHAT_A_SEED_FIXES)
    return lines


def whether_flat(results: Results, group: str) -> str:
    """Say in words whether the baseline was trained until it learns nothing more."""
    gain = analysis.late_gain(results, group, results.baseline)
    if gain is None:
        return "whether the baseline still learns is not known: its curve of pseudo Dice is missing or too short"
    state = (
        "so it still learns, and a trainer that is ahead of it may only be faster: no verdict"
        if gain > analysis.FLAT
        else f"so it is flat (up to {100 * analysis.FLAT:g} points)"
    )
    return f"over the last quarter of its schedule the baseline gained {100 * gain:+.2f} points of pseudo Dice, {state}"


def environment(results: Results) -> list[str]:
    """Versions, hardware and commands; every different value once."""
    lines = []
    for key in ("versions", "hardware"):
        seen = dict.fromkeys(
            ", ".join(f"{name} {value}" for name, value in getattr(training, key).items() if value is not None)
            for training in results.trainings
        )
        lines += [f"{key}: {text}" for text in seen if text]
    return [*lines, *(command for command in dict.fromkeys(t.command for t in results.trainings) if command)]


def _p(value: float) -> str:
    return "" if math.isnan(value) else f", corrected p = {value:.2g}"
