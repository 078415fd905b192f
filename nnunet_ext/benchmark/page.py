"""The page of a report and its tables: texts from results alone, without any image.

:func:`render` returns the same texts for the same results on every machine, byte for byte.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.benchmark import analysis, markdown
from nnunet_ext.benchmark.analysis import MEAN, Finding, Metric
from nnunet_ext.benchmark.cells import TABLE_DIGITS, as_csv
from nnunet_ext.benchmark.results import Results
from nnunet_ext.benchmark.tables import (
    Table,
    comparison_rows,
    comparison_table,
    cost_table,
    per_training_table,
    signed,
    summary_table,
)
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation import interfaces
from nnunet_ext.files import file_name

PAGE, COMPARISONS, COSTS, HTML = "report.md", "comparisons.csv", "costs.csv", "report.html"

RENDERED = (PAGE, COMPARISONS, COSTS)
"""Files that depend on the results alone."""

FIGURES = "figures"

WHAT_A_SEED_FIXES = (
    "A seed fixes the initial weights, and on a CPU the patches and their augmentation until a trainer draws random "
    "numbers of its own; with augmentation workers, which seed themselves, or on a GPU, whose kernels are chosen by "
    "timing, two trainings with the same seed differ. A difference between two single "
    "trainings says little about two trainers, so it gets no verdict; only several seeds show how much a training "
    "varies, and the intervals are over both, seeds and subjects."
)


@dataclass(frozen=True)
class Picture:
    """A PNG file, with its path relative to the report."""

    title: str
    file: str


@dataclass
class Section:
    """Part of the page about one group of trainings."""

    title: str
    sentences: list[str] = field(default_factory=list)
    main: Table | None = None
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """The content of the page; ``found`` holds all comparisons with the baseline, by group and metric."""

    results: Results
    found: Mapping[str, Mapping[Metric, list[Finding]]]
    sections: list[Section]

    @property
    def said(self) -> list[str]:
        """Sentences of all groups; with several groups each names its own."""
        several = len(self.sections) > 1
        return [f"{each.title}: {text}" if several else text for each in self.sections for text in each.sentences]


def page_of(results: Results) -> Page:
    """Compare all arms with the baseline and return the page.

    Raises:
        InputError: the baseline has no training in a group.
    """
    metrics = analysis.metrics_of(results.cases, results.interfaces)
    found = {}
    sections = []
    for group in results.groups:
        there = analysis.present(results, group.name)
        if results.baseline not in there:
            raise InputError(
                f"The baseline {results.baseline} has no finished training for {group.name}; wait for it, or choose "
                f"another with --baseline: {', '.join(there)}."
            )
        found[group.name] = {metric: analysis.findings(results, group.name, metric) for metric in metrics}
        sections.append(section(results, group.name, found[group.name]))
    return Page(results, found, sections)


def section(results: Results, group: str, found: Mapping[Metric, list[Finding]]) -> Section:
    """Tables and sentences about one group of trainings."""
    part = Section(group)
    if any(found.values()):
        part.sentences = sentences(found)
        part.main = summary_table(results, group, found)
        part.tables += [comparison_rows(results, group, metric, own) for metric, own in found.items() if own]
    part.tables.append(per_training_table(results, group))
    part.tables.append(cost_table(results, group))
    return part


def figure_files(results: Results, group: str) -> dict[str, str]:
    """Titles of all figures that a group may have, by file name and in order."""
    names = {
        "differences": "Paired differences to the baseline",
        "cases": "Every case",
        "ranks": "How stable the ranking is",
        "curves": "Training curves",
    }
    names |= {
        f"{file_name(arm)}_cases": f"{arm}: largest gains and losses in Dice"
        for arm in analysis.present(results, group)
        if arm != results.baseline
    }
    return {f"{FIGURES}/{file_name(group)}_{name}.png": title for name, title in names.items()}


def render(page: Page, figures: Collection[str]) -> dict[str, str]:
    """Return the texts of :data:`RENDERED`.

    Args:
        page: content of the page.
        figures: the files of :func:`figure_files` that exist.
    """
    results = page.results
    costs = [
        {"group": group.name, **row, "late_gain": analysis.late_gain(results, group.name, row["arm"])}
        for group in results.groups
        for row in analysis.costs(results, group.name)
    ]
    every = [finding for by_metric in page.found.values() for own in by_metric.values() for finding in own]
    return {
        PAGE: _filled("report.md.j2", page, figures),
        COMPARISONS: as_csv(comparison_table(every), TABLE_DIGITS),
        COSTS: as_csv(pd.DataFrame(costs), TABLE_DIGITS),
    }


def render_html(page: Page, folder: Path, figures: Collection[str]) -> str:
    """The page as one HTML file with all its figures, which are read from ``folder``."""

    def inlined(picture: Picture) -> str:
        return "data:image/png;base64," + base64.b64encode((folder / picture.file).read_bytes()).decode()

    return _filled("report.html.j2", page, figures, inlined=inlined)


# --- words ------------------------------------------------------------------------------------------------------------


def sentences(found: Mapping[Metric, Sequence[Finding]]) -> list[str]:
    """One sentence per arm about its mean over labels, for Dice and for HD95."""
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


def how_measured(results: Results) -> list[str]:
    """Sentences about the common and differing settings of the arms, and the definitions of the numbers."""
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
        machines = analysis.machines(results, group.name)
        if len({frozenset(own) for own in machines.values()}) > 1:
            each = "; ".join(f"{arm} on {' and '.join(sorted(own))}" for arm, own in machines.items())
            lines.append(f"{group.name}: times and memory of different machines are not compared: {each}")
    if interfaces.DEFINITION in results.definitions and not len(results.interfaces):
        lines.append("no two labels touch each other in any case")
    return [*lines, *(f"not known: {each}" for each in results.unknown), WHAT_A_SEED_FIXES]


def whether_flat(results: Results, group: str) -> str:
    """A sentence on whether the baseline was trained until it stopped improving."""
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
    """Lines with versions, hardware and commands, without duplicates."""
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


def _filled(template: str, page: Page, figures: Collection[str], **more: Any) -> str:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_ext.benchmark"),
        autoescape=lambda name: ".html" in (name or ""),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"md": markdown.escaped, "code": markdown.code}
    for each in page.sections:
        known = figure_files(page.results, each.title)
        each.pictures = [Picture(title, file) for file, title in known.items() if file in figures]
    text = templates.get_template(template).render(
        results=page.results,
        sections=page.sections,
        how=how_measured(page.results),
        environment=environment(page.results),
        **more,
    )
    return text.rstrip() + "\n"
