"""Compare a session with methods that need no training, from the same automatic result and the same clicks.

::

    python benchmarks/click_baselines.py MODEL_FOLDER --fold 0 --images imagesTr --labels labelsTr --out clicks

The user is that of ``nnunet-ext s2v evaluate-clicks``. Ways to correct:

- *session*: the default.
- *clicked slice*: the session with ``propagation=False``.
- *nearby only*: clicks do not move the centres; only what looks like the clicked voxel nearby follows.
- *random walker* (scikit-image) on the image, within a ball around the click. Seeds are all clicks in the ball, and the
  shown labels outside of it.
- *graph cut* (maximum flow of SciPy) of the clicked label from the others within the ball. A voxel costs the negative
  logarithm of the automatic probability of its side, and a cut between neighbours costs less where the image changes.
  Seeds as above. A voxel that loses the label gets its second most probable one.

The ball, the walker's β and the cut's weight are options; choose them on other cases than those that you report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch.nn.functional import interpolate

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.interactive.click_cases import ClickCases
from nnunet_ext.interactive.evaluate_clicks import Clicked, ClickEvaluation, click_through
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.nnunet.models import validation_cases

CAPACITY = 1000
"""SciPy's capacities are integers: this number for a cost of 1."""

CERTAIN = 1e4
"""Cost of a seed on the wrong side."""


class NearbyOnly(S2VSession):
    """A session whose clicks do not move centres."""

    def _use(self, case: Any) -> None:
        super()._use(case)
        engine = self._require_image()[0].engine
        engine.after_marks = lambda tile, known, *others: (known, set())  # type: ignore[method-assign]


class InBall(S2VSession):
    """A session that changes voxels within a ball around each click, without a network.

    Args:
        reach_mm: radius of the ball.
        options: options of the session.
    """

    def __init__(self, reach_mm: float, **options: Any) -> None:
        super().__init__(**options)
        self.reach_mm = reach_mm
        self.clicked: list[tuple[tuple[int, ...], int]] = []

    def _use(self, case: Any) -> None:
        super()._use(case)
        self.clicked = []

    def set_image_from_files(self, files: Sequence[str | Path]) -> None:
        """Read one file per channel; the first channel is the image of these methods."""
        super().set_image_from_files(files)
        reader = self.model.plans_manager.image_reader_writer_class()
        image = reader.read_images([str(files[0])])[0][0].astype(float)
        low, high = np.percentile(image, [1, 99])
        self.volume = np.clip((image - low) / max(high - low, 1e-6), 0, 1)

    def add_point_interaction(self, coordinates: Sequence[float], *flags: Any, label: Any = None, **more: Any) -> None:
        """Add a click on a whole voxel."""
        voxel = tuple(int(place) for place in coordinates)
        self.clicked = [(place, value) for place, value in self.clicked if place != voxel] + [(voxel, int(label))]
        spacing = np.asarray(self.case.properties["spacing"], float)
        steps = np.ceil(self.reach_mm / spacing).astype(int) + 1
        box = tuple(slice(max(0, at - n), at + n + 1) for at, n in zip(voxel, steps, strict=True))
        labels = self.target_buffer[box]
        indices = np.moveaxis(np.indices(labels.shape), 0, -1) + [part.start for part in box]
        free = (((indices - voxel) * spacing) ** 2).sum(-1) <= self.reach_mm**2
        seeds = np.where(free, -1, labels.astype(int))
        for place, value in self.clicked:
            within = tuple(at - part.start for at, part in zip(place, box, strict=True))
            if all(0 <= at < size for at, size in zip(within, seeds.shape, strict=True)):
                seeds[within] = value
        self.target_buffer[box] = self.answered(box, seeds, int(label), spacing)

    def answered(
        self, box: tuple[slice, ...], seeds: NDArray[np.int64], label: int, spacing: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Labels in a box.

        Args:
            box: the box.
            seeds: labels that are known, −1 where they are not.
            label: label of the click.
            spacing: mm of the axes.
        """
        raise NotImplementedError


class RandomWalker(InBall):
    """The random walker of Grady (2006).

    Args:
        beta: how much harder it is to walk over an edge of the image.
        options: options of :class:`InBall`.
    """

    def __init__(self, beta: float, **options: Any) -> None:
        super().__init__(**options)
        self.beta = beta

    def answered(
        self, box: tuple[slice, ...], seeds: NDArray[np.int64], label: int, spacing: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        from skimage.segmentation import random_walker

        known, places = np.unique(seeds[seeds >= 0], return_inverse=True)
        if len(known) < 2:
            return np.full_like(seeds, known[0])
        numbered = np.zeros_like(seeds)
        numbered[seeds >= 0] = places + 1
        found = random_walker(
            self.volume[box], numbered, beta=self.beta, mode="cg_j", tol=1e-3, spacing=spacing / spacing.min()
        )
        return known[np.clip(found, 1, len(known)) - 1]


class GraphCut(InBall):
    """The graph cut of Boykov and Jolly (2001), with the network's automatic probabilities.

    Args:
        weight: of a cut between two voxels of the same intensity.
        doubt: smallest probability; networks are surer than they should be, and a cut could not change anything.
        width: difference of intensities, as a share of the image's range, at which a cut costs exp(−½) of that.
        options: options of :class:`InBall`.
    """

    def __init__(self, weight: float, doubt: float, width: float = 0.05, **options: Any) -> None:
        super().__init__(**options)
        self.weight, self.doubt, self.width = weight, doubt, width

    def predict_automatic(self) -> Any:
        changed = super().predict_automatic()
        self.probabilities = probabilities(self)
        return changed

    def answered(
        self, box: tuple[slice, ...], seeds: NDArray[np.int64], label: int, spacing: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        there = self.probabilities[(slice(None), *box)].astype(float)
        own = np.clip(there[label], self.doubt, 1 - self.doubt)
        costs = -np.log(np.stack([own, 1 - own]))  # of having the label, of not having it
        costs[0][(seeds >= 0) & (seeds != label)] = CERTAIN
        costs[1][seeds == label] = CERTAIN
        inside = cut(costs, self.volume[box], self.weight, self.width, spacing)
        there[label] = -1
        others = there.argmax(0)
        answer = np.where(seeds >= 0, seeds, self.target_buffer[box])
        answer = np.where((answer == label) & ~inside & (seeds < 0), others, answer)
        return np.where(inside & (seeds < 0), label, answer)


def cut(
    costs: NDArray[np.float64],
    image: NDArray[np.float64],
    weight: float,
    width: float,
    spacing: Sequence[float] | NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return where the cheapest cut lies on the first side.

    Args:
        costs: of every voxel on the first and on the second side, ``(2, …)``.
        image: intensities in [0, 1].
        weight: see :class:`GraphCut`.
        width: see :class:`GraphCut`.
        spacing: mm of the axes; neighbours that are twice as far away cost half as much.
    """
    number = np.arange(image.size).reshape(image.shape)
    source, sink = image.size, image.size + 1
    rows, columns, values = [], [], []
    for axis, mm in enumerate(spacing):
        size = image.shape[axis]
        a, b = (number.take(part, axis).ravel() for part in (range(size - 1), range(1, size)))
        difference = image.ravel()[a] - image.ravel()[b]
        price = weight * np.min(spacing) / mm * np.exp(-(difference**2) / (2 * width**2))
        rows += [a, b]
        columns += [b, a]
        values += [price, price]
    every = number.ravel()
    rows += [np.full(image.size, source), every]
    columns += [every, np.full(image.size, sink)]
    values += [costs[1].ravel(), costs[0].ravel()]
    capacities = np.rint(CAPACITY * np.concatenate(values)).astype(np.int32)
    graph = coo_matrix((capacities, (np.concatenate(rows), np.concatenate(columns))), (sink + 1, sink + 1)).tocsr()
    left = graph - maximum_flow(graph, source, sink).flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    inside = np.zeros(sink + 1, bool)
    inside[reached] = True
    return inside[: image.size].reshape(image.shape)


def probabilities(session: S2VSession) -> NDArray[np.float32]:
    """Automatic probabilities of the labels on the grid of the image, ``(L, z, y, x)``; background where it is cropped.

    Raises:
        InputError: the model has regions.
    """
    correction, case = session._require_image()[0], session.case
    tiles, _ = correction._start(None)
    if case.model.label_manager.has_regions:
        raise InputError("The graph cut needs a probability of every label, but the heads of this model are regions.")
    found = np.zeros((len(session.labels), *case.shape), np.float32)
    found[0] = 1
    with correction._computing(None):
        for index in range(case.depth):
            terms = ((x.cpu() for x in correction.engine.logits(t, known, index)) for t, known in enumerate(tiles))
            logits = case.tiling.blended(terms)
            size = case.grid.cropped[1:]
            there = interpolate(logits.softmax(0)[None], size, mode="bilinear", align_corners=False)[0].numpy()
            for label, one in enumerate(there):
                case.cropped_view(found[label])[index] = one
    return found


WAYS: dict[str, Callable[[argparse.Namespace], S2VSession]] = {
    "session": lambda given: S2VSession(**of_session(given)),
    "clicked slice": lambda given: S2VSession(**of_session(given), propagation=False),
    "nearby only": lambda given: NearbyOnly(**of_session(given)),
    "random walker": lambda given: RandomWalker(given.beta, reach_mm=given.reach_mm, **of_session(given)),
    "graph cut": lambda given: GraphCut(given.weight, given.doubt, reach_mm=given.reach_mm, **of_session(given)),
}
"""The ways to correct: functions from the arguments of the command to a session."""

OPTIONS = ("fold", "clicks", "reach_mm", "beta", "weight", "doubt", "threads")
"""Arguments that are written beside the results."""


def of_session(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of all sessions."""
    return {"device": "cpu", "torch_n_threads": arguments.threads}


def measured(cases: ClickCases, most: int, threads: int) -> ClickEvaluation:
    """Every case after every number of clicks."""
    session, tolerance = cases.session, 1.0
    found = ClickEvaluation(cases.labels, tolerance, most, str(session.device), threads)
    for name, way, truth in cases.each([session.propagation]):
        moments = click_through(session, truth, cases.labels, most, tolerance)
        found.cases.append(Clicked(name, way, tuple(moments)))
    return found


def row(name: str, found: ClickEvaluation) -> str:
    """One way as a line of the table."""
    [way] = found.ways
    curve, own = found.curve(way, "dice"), found.means(way)
    effects, seconds = own["effects"], own["seconds_per_click"]["median"]
    cells: Iterable[str] = [
        *(f"{curve[n]:.3f}" for n in found.shown),
        f"{effects['obeyed_percent']:.0f} %",
        f"{effects['harmful_percent']:.1f} %",
        f"{100 * effects['broken'] / max(1, effects['fixed']):.0f} %",
        f"{effects['fixed']}",
        f"{effects['slices']['mean']:.1f}",
        f"{seconds:.2f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of nnUNetTrainerS2VNet")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their label maps")
    parser.add_argument("--cases", nargs="+", help="cases; by default the validation cases of the fold")
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help="some of the ways; by default all")
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--reach-mm", type=float, default=20.0, help="radius of the ball around a click")
    parser.add_argument("--beta", type=float, default=130.0, help="β of the random walker")
    parser.add_argument("--weight", type=float, default=1.0, help="weight of a cut between equal neighbours")
    parser.add_argument("--doubt", type=float, default=0.2, help="smallest probability of the graph cut")
    parser.add_argument("--out", type=Path, help="folder with a CSV and a JSON file of each way")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        names = arguments.cases
        if names is None:
            names = validation_cases(arguments.model, arguments.fold)
        cases = ClickCases.opened(arguments.images, arguments.labels, arguments.model, names, arguments.fold)
        for number, name in enumerate(arguments.ways or WAYS):
            session = WAYS[name](arguments)
            session.initialize_from_predictor(cases.session.model)
            found = measured(replace(cases, session=session), arguments.clicks, arguments.threads)
            if number == 0:
                shown = " | ".join(map(str, found.shown))
                print(f"| way | {shown} | obeyed | harmful | broken/fixed | fixed | slices | seconds |")
                print("|---|" + "---:|" * (len(found.shown) + 6))
            print(row(name, found), flush=True)
            if arguments.out:
                folder = arguments.out / name.replace(" ", "_")
                found.write(folder)
                write_json(folder / "options.json", {option: getattr(arguments, option) for option in OPTIONS})
    except InputError as error:
        parser.exit(1, f"{error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
