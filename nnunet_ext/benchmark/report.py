"""``nnunet-ext benchmark report``: one page with tables and figures, and files with every number.

The report is a package, see :mod:`.package`: its tables are computed from the files beside them, and
``nnunet-ext benchmark verify`` computes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark import analysis, figures
from nnunet_ext.benchmark.analysis import MEAN
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.manifest import files_in, install, write_manifest
from nnunet_ext.benchmark.package import RECORDS, read, write_content
from nnunet_ext.benchmark.page import FIGURES, HTML, PAGE, Page, figure_files, page_of, render, render_html
from nnunet_ext.benchmark.pictures import largest_differences
from nnunet_ext.benchmark.results import Results, from_benchmark, from_models
from nnunet_ext.beside import beside
from nnunet_ext.errors import InputError
from nnunet_ext.files import require_folder, write_text


def report_benchmark(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    baseline: str | None = None,
    html: bool = True,
    drawn: bool = True,
) -> str:
    """Report the finished jobs of a benchmark, and return the text to print.

    Args:
        folder: folder of a benchmark, or of a report, whose pages and tables are then recomputed from its scores and
            records.
        out: folder to write to; ``report`` in ``folder`` by default.
        baseline: baseline to use instead of the benchmark's.
        html: also write ``report.html``; of a report it is only kept or removed.
        drawn: whether to draw figures.

    Raises:
        InputError: there is nothing to report, or ``out``, ``baseline`` or ``drawn`` was given for a report.
    """
    if (Path(folder) / RECORDS).is_file():
        if out or baseline or not drawn:
            raise InputError(
                f"{folder} is a report, whose pages and tables are only written anew in its place; leave --out, "
                "--baseline and --no-figures out."
            )
        return _anew(Path(folder), html)
    benchmark = BenchmarkFolder(folder)
    place = Path(out) if out else benchmark.folder / "report"
    require_folder(place)
    return write_report(from_benchmark(benchmark, baseline), place, html=html, drawn=drawn)


def report_results(
    models: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    baseline: str | None = None,
    reference: str | Path | None = None,
    folds: Sequence[int] | None = None,
    html: bool = True,
    drawn: bool = True,
) -> str:
    """Report models that nnU-Net trained; see :func:`nnunet_ext.benchmark.results.from_models`."""
    place = Path(out) if out else Path("nnunet_ext_report")
    require_folder(place)
    results = from_models(models, baseline, reference=reference, folds=folds)
    return write_report(results, place, html=html, drawn=drawn)


def write_report(results: Results, out: Path, *, html: bool = True, drawn: bool = True) -> str:
    """Write all files of the report into ``out`` and return the text to print.

    A killed process leaves the old report. If it is killed in the last moment, it leaves files of the old and the new
    report; :mod:`.verify` names them, and the next report replaces them.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as new:
        new.mkdir()
        write_content(results, new)
        page = page_of(read(new))  # exactly the data that others will read
        if drawn:
            _draw(page, results, new)
        _write_pages(page, new, html)
        write_manifest(new)
        install(new, out)
    return _said(page, out, html)


# --- parts ------------------------------------------------------------------------------------------------------------


def _anew(folder: Path, html: bool) -> str:
    page = page_of(read(folder))
    html = html and (folder / HTML).is_file()
    if not html:
        (folder / HTML).unlink(missing_ok=True)
    _write_pages(page, folder, html)
    write_manifest(folder)
    return _said(page, folder, html)


def _write_pages(page: Page, folder: Path, html: bool) -> None:
    drawn = [name for name in files_in(folder) if name.startswith(f"{FIGURES}/")]
    texts = render(page, drawn)
    if html:
        texts[HTML] = render_html(page, folder, drawn)
    for name, text in texts.items():
        write_text(folder / name, text)


def _said(page: Page, folder: Path, html: bool) -> str:
    said = "\n".join(f"- {sentence}" for sentence in page.said)
    files = [folder / PAGE, *([folder / HTML] if html else [])]
    return f"{said}\n\n{', '.join(map(str, files))}; figures, CSV files and records beside it"


def _draw(page: Page, results: Results, folder: Path) -> None:
    """Draw the figures of all groups.

    Args:
        page: source of the numbers.
        results: source of predictions and images.
        folder: folder of the report; ``figures`` is written in it.
    """
    (folder / FIGURES).mkdir()
    for group in results.groups:
        found, known = page.found[group.name], page.results
        arms = analysis.present(known, group.name)
        by_arm = figures.styles(arms, results.baseline)
        files = list(figure_files(known, group.name))
        differences, every_case, ranks, curves = files[:4]

        def save(file: str, draw: Callable[[], Any]) -> None:
            draw().savefig(folder / file, dpi=110)

        shown = [metric for metric in found if metric.is_main]
        if any(found.values()):
            by_metric = {metric: found[metric] for metric in shown}
            save(differences, lambda: figures.differences(by_metric, by_arm))  # noqa: B023
        tables = {metric: analysis.values(known, group.name, arms, metric.column)[MEAN] for metric in shown}
        if all(len(table) for table in tables.values()):
            save(every_case, lambda: figures.distributions(tables, by_arm))  # noqa: B023
        ranked = {m: table for m in shown if (table := analysis.ranks(known, group.name, m)) is not None}
        if ranked:
            save(ranks, lambda: figures.rank_bars(ranked, by_arm))  # noqa: B023
        trainings = [t for t in results.trainings if t.group == group.name and t.about.get("curves")]
        if trainings:
            save(curves, lambda: figures.curves(trainings, by_arm))  # noqa: B023
        for arm, file in zip([arm for arm in arms if arm != results.baseline], files[4:], strict=True):
            largest_differences(results, group, arm, folder / file)
