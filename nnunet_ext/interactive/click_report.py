"""Results of a simulated user in all cases: the parts of text, files and figure that all protocols share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.files import replacing, write_json, write_rows
from nnunet_ext.interactive.click_cases import way_name
from nnunet_ext.interactive.click_effects import Click
from nnunet_ext.interactive.click_figure import clicks_figure
from nnunet_ext.version import __version__


class ClickedCase(Protocol):
    """The results of one case, with propagation or without."""

    @property
    def case(self) -> str:
        """Name of the case."""

    @property
    def propagation(self) -> bool:
        """Whether clicks propagated."""


Case = TypeVar("Case", bound=ClickedCase)


class ClickReport(ABC, Generic[Case]):
    """Results of all cases, with propagation and without.

    Attributes:
        labels: the scored labels.
        device: device of the session.
        threads: number of PyTorch's threads.
        cases: results so far.
        peak_mib: peak memory of the process after the last case; None if it cannot be measured.
        peak_gpu_mib: peak of the memory allocated on the GPU.
    """

    across = "clicks"
    """Name of the horizontal axis of the figure."""

    labels: ScoredLabels
    device: str
    threads: int
    cases: list[Case]
    peak_mib: float | None
    peak_gpu_mib: float | None

    @property
    def ways(self) -> list[bool]:
        """The ways that were evaluated: with propagation (True), without, or both."""
        return sorted({case.propagation for case in self.cases}, reverse=True)

    @property
    def number_of_cases(self) -> int:
        """Number of cases; a case evaluated in both ways counts once."""
        return len({case.case for case in self.cases})

    def of(self, way: bool) -> list[Case]:
        """The results of one way."""
        return [case for case in self.cases if case.propagation == way]

    def summary(self) -> dict[str, Any]:
        """Content of ``clicks.json``: settings and means, without the single clicks."""
        return {
            "nnunet_ext": __version__,
            **self.protocol(),
            "device": self.device,
            "threads": self.threads,
            "peak_memory_mib": self.peak_mib,
            "peak_gpu_memory_mib": self.peak_gpu_mib,
            "cases": self.number_of_cases,
            **{f"propagation {way_name(way)}": self.means(way) for way in self.ways},
        }

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Settings of the clicks and of the scores."""

    @abstractmethod
    def means(self, way: bool) -> dict[str, Any]:
        """The means of one way."""

    @abstractmethod
    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per case, way, number of clicks and label."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """The means, line by line."""

    @abstractmethod
    def panels(self) -> Mapping[str, Mapping[tuple[str, str], Sequence[float]]]:
        """Curves of the figure, as :func:`clicks_figure` takes them."""

    def report(self) -> str:
        """The text to print: the means, and the peak memory."""
        memory = [] if self.peak_mib is None else [f"peak memory of the process: {self.peak_mib:.0f} MiB"]
        return "\n".join([*self.lines(), *memory])

    def write(self, folder: str | Path) -> None:
        """Write ``clicks.csv``, ``clicks.json`` and ``clicks.png``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(self.rows())
        write_rows(folder / "clicks.csv", rows[0], rows)
        write_json(folder / "clicks.json", self.summary())
        figure = clicks_figure(self.panels(), self.across)
        with replacing(folder / "clicks.png") as temporary:
            figure.savefig(temporary, format="png", dpi=120)


def click_cells(click: Click | None) -> dict[str, Any]:
    """Cells of a row about its click; empty if there was none."""
    return {
        "clicked_label": click.label if click else "",
        "clicked_z_y_x": " ".join(map(str, click.voxel)) if click else "",
        "wrong_region": click.region if click else "",
    }
