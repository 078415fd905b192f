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

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.benchmark import analysis, figures
from nnunet_ext.benchmark.analysis import MEAN, Finding, Metric
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.results import Group, Results, from_benchmark, from_models, image_of
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.overlay import OverlayCase, draw_overlay
from nnunet_ext.version import __version__

SHOWN_CASES = 2
"""Largest gains and largest losses, each."""

DIFFERENCE_COLUMNS = (
    *("trainer", "label", "mean", "baseline", "difference", "95 % CI", "by seed", "p (Holm)", "effect"),
    *("better / worse / equal", "n", "verdict"),
)

COMPARISON_COLUMNS = (
    *("arm", "baseline", "unit", "n", "dropped", "seeds", "mean_candidate", "mean_baseline", "mean_difference"),
    *("ci_low", "ci_high", "smallest_difference", "p_value", "p_interval", "p_corrected", "effect_size"),
    *(
        "better",
        "worse",
        "equal",
        "cases",
        "point",
        "cases_better",
        "cases_worse",
        "sd_between_subjects",
        "sd_between_seeds",
        "verdict",
    ),
)
"""Of ``comparisons.csv``, beside group, metric and label: attributes of ``Comparison``."""

WHAT_A_SEED_FIXES = (
    "A seed fixes the initial weights, and on a CPU the patches and their augmentation until a trainer draws random "
    "numbers of its own; with augmentation workers, which seed themselves, or on a GPU, whose kernels are chosen by "
    "timing, two trainings with the same seed differ. A difference between two single "
    "trainings says little about two trainers, so it gets no verdict; only several seeds show how much a training "
    "varies, and the intervals are over both, seeds and subjects."
)


@dataclass
class Table:
    """``rows`` are texts; the first column is a name, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Picture:
    """A PNG file in ``figures/``."""

    title: str
    path: Path

    @property
    def inlined(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass
class Section:
    """What the page says about one group of trainings."""

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
    results.cases.to_csv(out / "cases.csv", index=False)
    comparison_table(found).to_csv(out / "comparisons.csv", index=False)
    costs = [{"group": group.name, **row} for group in results.groups for row in analysis.costs(results, group.name)]
    pd.DataFrame(costs).to_csv(out / "costs.csv", index=False)
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
    for kind in ("html", "md"):
        text = templates.get_template(f"report.{kind}.j2").render(page)
        (out / f"report.{kind}").write_text(text.rstrip() + "\n", encoding="utf-8")
    said = "\n".join(f"- {sentence}" for each in sections for sentence in each.sentences)
    return f"{said}\n\n{out / 'report.html'}\n{out / 'report.md'}, figures and CSV files beside it"


# --- one group --------------------------------------------------------------------------------------------------------


def section(results: Results, group: Group, found: Mapping[Metric, list[Finding]], folder: Path) -> Section:
    """Tables, figures and sentences about one group of trainings."""
    arms = analysis.present(results, group.name)
    colours = figures.palette(arms, results.baseline)
    page = Section(group.name)
    compared = any(found.values())
    if compared:
        page.sentences = sentences(found)
        page.main = summary_table(results, group.name, found)
        page.tables += [comparison_rows(results, group.name, metric, own) for metric, own in found.items()]
    page.tables.append(per_training_table(results, group.name))
    page.tables.append(cost_table(results, group.name))

    def add(title: str, name: str, draw: Callable[[], Any]) -> None:
        path = folder / f"{_file_name(group.name)}_{name}.png"
        draw().savefig(path, dpi=110)
        page.pictures.append(Picture(title, path))

    shown = [metric for metric in found if metric.is_main]
    if compared:
        add(
            "Paired differences to the baseline",
            "differences",
            lambda: figures.differences({metric: found[metric] for metric in shown}, colours),
        )
    tables = {metric: analysis.values(results, group.name, arms, metric.column)[MEAN] for metric in shown}
    if all(len(table) for table in tables.values()):
        add("Every case", "cases", lambda: figures.distributions(tables, colours))
    ranked = {metric: table for metric in shown if (table := analysis.ranks(results, group.name, metric)) is not None}
    if ranked:
        add("How stable the ranking is", "ranks", lambda: figures.rank_bars(ranked, colours))
    trainings = [t for t in results.trainings if t.group == group.name and t.about.get("curves")]
    if trainings:
        add("Training curves", "curves", lambda: figures.curves(trainings, colours))
    for arm in arms:
        if arm != results.baseline:
            page.pictures += montage(results, group, arm, folder)
    return page


def sentences(found: Mapping[Metric, Sequence[Finding]]) -> list[str]:
    """What can be said, in words: the mean over labels of Dice and HD95, for every arm."""
    said = []
    for metric, own in found.items():
        for finding in own:
            c = finding.comparison
            if finding.label != MEAN or not metric.is_main:
                continue
            words = {
                "better": f"{c.arm} is better than {c.baseline}",
                "worse": f"{c.arm} is worse than {c.baseline}",
            }.get(c.verdict, f"{c.arm} against {c.baseline}: {c.verdict}")
            interval = "" if math.isnan(c.ci_low) else f" [{_signed(c.ci_low, metric)}, {_signed(c.ci_high, metric)}]"
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
                f"{metric.title}: {words}, {_signed(c.mean_difference, metric)}{metric.unit}{interval}{seen}; "
                f"{c.counted}, {seeds}; {c.cases_better} cases better and {c.cases_worse} worse by more than "
                f"{c.point:g}{metric.unit}; {tails}{_p(c.p_corrected)}.{cautions}"
            )
    return said


def summary_table(results: Results, group: str, found: Mapping[Metric, Sequence[Finding]]) -> Table:
    """One row per arm: the mean over cases and labels of every metric, and the verdicts."""
    arms = analysis.present(results, group)
    header = ["trainer", "trainings", *(metric.heading for metric in found)]
    shown = [metric for metric in found if metric.is_main]
    header += [f"{metric.title}: verdict" for metric in shown]
    rows = []
    for arm in arms:
        trainings = sum((training.arm, training.group) == (arm, group) for training in results.trainings)
        cells = [arm + (" (baseline)" if arm == results.baseline else ""), str(trainings)]
        for metric in found:
            per_case = analysis.values(results, group, [arm], metric.column)[MEAN].groupby("case")["value"].mean()
            cells.append(f"{per_case.mean():.{metric.digits}f}")
        for metric in shown:
            verdicts = [f.comparison.verdict for f in found[metric] if f.comparison.arm == arm and f.label == MEAN]
            cells.append(verdicts[0] if verdicts else "–")
        rows.append(cells)
    return Table(
        "Means",
        header,
        rows,
        "Mean over cases of the mean over labels, seeds averaged per case, over all trainings of a trainer. The "
        "verdicts come from the tables below, which compare only folds and seeds that both have.",
    )


def comparison_rows(results: Results, group: str, metric: Metric, found: Sequence[Finding]) -> Table:
    """Differences to the baseline for one metric: the mean over labels and every label."""
    rows = []
    for finding in found:
        c = finding.comparison
        interval = "–" if math.isnan(c.ci_low) else f"{_signed(c.ci_low, metric)} to {_signed(c.ci_high, metric)}"
        rows.append(
            [
                c.arm,
                finding.label,
                f"{c.mean_candidate:.{metric.digits}f}",
                f"{c.mean_baseline:.{metric.digits}f}",
                _signed(c.mean_difference, metric),
                interval,
                " ".join(_signed(value, metric) for value in c.per_seed.values()),
                "–" if math.isnan(c.p_corrected) else f"{c.p_corrected:.2g}",
                f"{c.effect_size:+.2f}",
                f"{c.better} / {c.worse} / {c.equal}",
                f"{c.n}" + (f" (−{c.dropped})" if c.dropped else ""),
                c.verdict,
            ]
        )
    seeds = sorted({finding.comparison.seeds for finding in found})
    direction = "higher is better" if metric.higher_is_better else "lower is better"
    return Table(
        f"{metric.heading}: differences to {results.baseline}",
        [*DIFFERENCE_COLUMNS],
        rows,
        f"{direction}. n: {' or '.join(sorted({f'{finding.comparison.unit}s' for finding in found}))} that count for "
        "both (in brackets the cases that do not); cases of one subject averaged. CI: over seeds "
        f"({' or '.join(map(str, seeds))} per trainer) and {'subjects' if seeds != [1] else 'subjects only'}. p: "
        "the larger of Wilcoxon's signed-rank test on the means over seeds and the interval's, two-sided, corrected by "
        f"Holm over the {len(rows)} rows of this table. effect: matched-pairs rank-biserial correlation.",
    )


def per_training_table(results: Results, group: str) -> Table:
    """Mean Dice of every training: how much folds and seeds differ."""
    table = analysis.per_training(results, group, "dice")
    rows = [
        [f"fold {fold}, seed {seed}", *("–" if math.isnan(value) else f"{value:.4f}" for value in row)]
        for (fold, seed), row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return Table("Dice of every training", ["", *table.columns], rows, "Mean over the cases of the fold.")


def cost_table(results: Results, group: str) -> Table:
    """Weights, time per epoch and memory, with their ratios to the baseline."""

    def cell(row: Mapping[str, Any], key: str, shown: Callable[[float], str]) -> str:
        if math.isnan(row[key]):
            return "–"
        return shown(row[key]) + ("" if math.isnan(row[f"{key}_ratio"]) else f" ({row[f'{key}_ratio']:.2f}×)")

    rows = [
        [
            row["arm"],
            cell(row, "weights", lambda n: f"{n / 1e6:.2f}"),
            cell(row, "epoch_seconds", lambda s: f"{s:.1f}"),
            cell(row, "training_hours", lambda h: f"{h:.2f}"),
            cell(row, "host_mib", lambda m: f"{m / 1024:.2f}"),
            cell(row, "gpu_mib", lambda m: f"{m / 1024:.2f}"),
        ]
        for row in analysis.costs(results, group)
    ]
    header = ["trainer", "weights (M)", "seconds per epoch", "training (h)", "peak host memory (GiB)"]
    return Table(
        "Cost",
        [*header, "peak GPU memory (GiB)"],
        rows,
        "In brackets: ratio to the baseline. Seconds per epoch: median over epochs and trainings, as they ran, so "
        "whatever else the machine did is part of it. Host memory: of the training process, without its workers.",
    )


def montage(results: Results, group: Group, arm: str, folder: Path) -> list[Picture]:
    """The cases with the largest gain and the largest loss of Dice, as pictures; none without the images."""
    cases = analysis.per_case(results, group.name, arm, "dice")["difference"].dropna().sort_values()
    chosen = dict.fromkeys([*cases.index[::-1][:SHOWN_CASES], *cases.index[:SHOWN_CASES]])
    rows = []
    for case in chosen:
        image = image_of(group, case)
        row = _overlay_row(results, group, arm, str(case), image, cases[case]) if image else None
        if row:
            rows.append(row)
    if not rows:
        return []
    path = folder / f"{_file_name(group.name)}_{_file_name(arm)}_cases.png"
    title = f"largest gains, then largest losses of {arm}; the slice where the two differ most"
    draw_overlay(path, rows, group.labels, Reader(group.reader), title, "disagreement")
    return [Picture(f"{arm}: largest gains and losses in Dice", path)]


def _overlay_row(
    results: Results, group: Group, arm: str, case: str, image: Path, difference: float
) -> OverlayCase | None:
    ending = group.description["file_ending"]
    own = results.cases[(results.cases["group"] == group.name) & (results.cases["case"] == case)]
    shared = own.groupby(["fold", "seed"])["arm"].agg(set)
    fold, seed = next(key for key, arms in shared.items() if {arm, results.baseline} <= arms)
    predictions, notes = {}, {}
    for name in (results.baseline, arm):
        training = analysis.training_of(results, group.name, name, int(fold), int(seed))
        predictions[name] = training.predictions / f"{case}{ending}"
        score = own[(own["arm"] == name) & (own["fold"] == fold) & (own["seed"] == seed)]["dice"].mean()
        notes[name] = f"Dice {score:.3f} (seed {seed})"
    notes[arm] += f", mean difference {difference:+.3f}"
    if not all(file.is_file() for file in predictions.values()):
        return None
    return OverlayCase(case, image, group.references / f"{case}{ending}", predictions, notes)


# --- everything -------------------------------------------------------------------------------------------------------


def comparison_table(found: Sequence[Finding]) -> pd.DataFrame:
    """Every comparison as a row."""
    return pd.DataFrame(
        [
            {
                "group": finding.group,
                "metric": finding.metric.column,
                "label": finding.label,
                **{key: getattr(finding.comparison, key) for key in COMPARISON_COLUMNS},
            }
            for finding in found
        ]
    )


def how_measured(results: Results) -> list[str]:
    """What was the same, what was not, and what the numbers mean."""
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
    lines.append(WHAT_A_SEED_FIXES)
    return lines


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


def _signed(value: float, metric: Metric) -> str:
    return "–" if math.isnan(value) else f"{value:+.{metric.digits}f}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else f", corrected p = {value:.2g}"


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)
