"""``nnunet-ext landmarks evaluate``: predicted landmarks against references, in mm.

===================  =======================  ===================================================
reference            prediction               counts as
===================  =======================  ===================================================
present              present                  found: its radial error in mm
present              absent or unknown        missed
absent               present                  false
absent               absent or unknown        rejected
unknown              anything                 not scored
===================  =======================  ===================================================

The MRE (mean radial error) averages over the found landmarks. The SDR (successful detection rate) is the share of the
landmarks present in the reference whose error is at most the radius. A missed landmark fails at every radius, so
leaving out hard landmarks improves the MRE, but not the SDR.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.pairs import beside, matched
from nnunet_ext.data.raw import require_labels
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import ROUNDING_MM, mean, shown
from nnunet_ext.files import read_json, write_json, write_rows
from nnunet_ext.findings import aligned, some
from nnunet_ext.landmarks.dataset import Declaration, Organs
from nnunet_ext.landmarks.formats import read
from nnunet_ext.landmarks.points import UNKNOWN, Landmark, Landmarks, State
from nnunet_ext.partial_labels.declaration import annotated_labels
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.version import __version__

Outcome = Literal["found", "missed", "false", "rejected", "not scored"]

RADII_MM = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Radii of the SDR. BaBLoss uses 1.5 and 4, nnLandmark 2, 3 and 4, cephalometry 2, 2.5, 3 and 4."""


@dataclass(frozen=True)
class ScoredLandmark:
    """One landmark of one case.

    Attributes:
        case: name of the case.
        landmark: name of the landmark.
        outcome: see the table of the module.
        error_mm: radial error; nan unless found.
        confidence: confidence of the prediction; nan if it has none.
        surface_mm: mean distance of the prediction from the surfaces of its organs; nan if not measured.
        reference_surface_mm: the same for the reference.
    """

    case: str
    landmark: str
    outcome: Outcome
    error_mm: float = math.nan
    confidence: float = math.nan
    surface_mm: float = math.nan
    reference_surface_mm: float = math.nan


@dataclass(frozen=True)
class Summary:
    """Statistics of some landmarks; distances in mm, nan if there is nothing to average.

    Attributes:
        mre: mean of the radial errors.
        sd: standard deviation of the radial errors.
        median: median of the radial errors.
        maximum: largest radial error.
        sdr: successful detection rate by radius, from 0 to 1.
        surface: mean distance of the predictions from the surfaces of their organs.
        reference_surface: the same for the references.
        found: number of found landmarks.
        missed: number of missed landmarks.
        false: number of false landmarks.
        rejected: number of rejected landmarks.
    """

    mre: float
    sd: float
    median: float
    maximum: float
    sdr: dict[float, float]
    surface: float
    reference_surface: float
    found: int
    missed: int
    false: int
    rejected: int


Measured = dict[tuple[str, str], float]
"""Distance in mm by landmark and side (``reference`` or ``prediction``)."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of every landmark of every case.

    Attributes:
        scored: every landmark of every case.
        names: names of the landmarks, in the order of the table.
        left_out: cases with only a reference or only a prediction.
        labels: folder of the label maps, if distances from surfaces were measured.
        one_sided: sentences about landmarks that only one side names.
    """

    scored: tuple[ScoredLandmark, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    labels: str | None = None
    one_sided: tuple[str, ...] = ()

    def summaries(self) -> dict[str, Summary]:
        """Statistics by landmark, and of ``all`` landmarks together."""
        own = {name: summarise([s for s in self.scored if s.landmark == name]) for name in self.names}
        return {**own, "all": summarise(self.scored)}

    def mean_of_landmarks(self) -> float:
        """Mean of the landmarks' MREs; every landmark has the same weight, however often it was found."""
        return mean(summary.mre for name, summary in self.summaries().items() if name != "all")

    def table(self) -> list[list[str]]:
        """Table with a header, one row per landmark; distances in mm, SDR in percent."""
        surface = self.labels is not None
        header = ["landmark", "MRE", "SD", "median", "max", *(f"≤{radius:g}" for radius in RADII_MM)]
        rows = [[*header, *(["surface", "reference"] if surface else []), "found", "missed", "false"]]
        for name, s in self.summaries().items():
            distances = [s.mre, s.sd, s.median, s.maximum]
            rates = [shown(100 * rate, 1) for rate in s.sdr.values()]
            to_organs = [shown(s.surface, 2), shown(s.reference_surface, 2)] if surface else []
            counts = [str(count) for count in (s.found, s.missed, s.false)]
            rows.append([name, *(shown(mm, 2) for mm in distances), *rates, *to_organs, *counts])
        return rows

    def report(self) -> str:
        """The text to print: the table, and the definitions of its numbers."""
        cases = len({one.case for one in self.scored})
        lines = [
            *aligned(self.table()),
            "",
            f"{cases} cases; mean of the MREs of the landmarks {shown(self.mean_of_landmarks(), 2)} mm",
            *self.definitions,
        ]
        if self.left_out:
            lines.append(f"left out, because they are on one side only: {some(self.left_out)}")
        lines += self.one_sided
        return "\n".join(lines)

    @property
    def definitions(self) -> list[str]:
        """Definitions of the numbers; every output quotes them."""
        sentences = [
            "MRE: mean radial error in mm over the landmarks that were found",
            "≤ r: SDR, % of the landmarks present in the reference with an error of at most r mm; missed: a failure",
        ]
        if self.labels is not None:
            whose = "mm from the predictions (reference: from the references)"
            sentences.append(f"surface: {whose} to the surfaces of their organs in {self.labels}")
        return sentences

    def write(self, folder: str | Path) -> None:
        """Write ``landmarks_metrics.csv``, one row per case and landmark, and ``landmarks_summary.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = [field.name for field in fields(ScoredLandmark)]
        write_rows(folder / "landmarks_metrics.csv", columns, map(asdict, self.scored))
        content = {
            "nnunet_ext": __version__,
            "definitions": self.definitions,
            "landmarks": {name: _as_json(s) for name, s in self.summaries().items() if name != "all"},
            "all": _as_json(self.summaries()["all"]),
            "mean_of_landmarks_mm": _or_none(self.mean_of_landmarks()),
            "left_out": list(self.left_out),
            "one_sided": list(self.one_sided),
        }
        write_json(folder / "landmarks_summary.json", content)


def evaluate(
    references: str | Path,
    predictions: str | Path,
    *,
    labels: str | Path | None = None,
    dataset_json: str | Path | None = None,
    common: bool = False,
    processes: int | None = None,
) -> Evaluation:
    """Score every case of ``references``.

    Args:
        references: folder of files of landmarks, or one table of all cases.
        predictions: folder or table like the references.
        labels: folder of label maps, true or predicted, to measure distances from the surfaces of organs in.
        dataset_json: file that declares the landmarks; by default it is searched up to two folders above references
            and predictions. Only distances from surfaces need it. Without it all landmarks of the references are
            scored.
        common: score the cases that both have, instead of refusing a missing prediction or reference.
        processes: cases in parallel; by default one per core.

    Raises:
        InputError: a file cannot be read, or the two do not fit together.
    """
    truth, predicted = read(references), read(predictions)
    cases, left_out = matched(truth, predicted, references, predictions, common)
    source = beside(dataset_json, "dataset.json", Path(references), Path(predictions))
    content = read_json(source) if source else {}
    declaration = Declaration.from_dataset_json(content, str(source)) if "landmarks" in content else None
    names = declaration.names if declaration else tuple(dict.fromkeys(n for case in cases for n in truth[case]))
    if not any(set(truth[case]) & set(names) for case in cases):
        found = sorted({name for case in cases for name in truth[case]})
        raise InputError(f"{references} names the landmarks {found}, but {source} declares {list(names)}.")
    one_sided = _one_sided([truth[case] for case in cases], [predicted[case] for case in cases], names)
    scored = [
        _score(case, name, truth[case].get(name, UNKNOWN), predicted[case].get(name, UNKNOWN))
        for case in cases
        for name in names
    ]
    if labels is None:
        return Evaluation(tuple(scored), names, left_out, one_sided=one_sided)
    if declaration is None or source is None:
        raise InputError("Distances from surfaces need a dataset.json with landmarks and surface_of: --dataset-json.")
    defined = ScoredLabels.from_dataset_json(content, str(source))
    organs = Organs(defined.values, defined.ignore, annotated_labels(content, str(source)))
    organs = organs.at(Path(labels), source.parent / "labelsTr")
    files = _label_files(Path(labels), cases, content, source)
    reader = Reader.for_file(files[cases[0]], content["file_ending"], content).name
    calls = [(case, files[case], truth[case], predicted[case], declaration, organs, reader) for case in cases]
    measured = dict(zip(cases, for_every_case(surface_distances, calls, processes, "surfaces"), strict=True))
    return Evaluation(
        tuple(
            replace(
                one,
                surface_mm=measured[one.case].get((one.landmark, "prediction"), math.nan),
                reference_surface_mm=measured[one.case].get((one.landmark, "reference"), math.nan),
            )
            for one in scored
        ),
        names,
        left_out,
        str(labels),
        one_sided,
    )


def surface_distances(
    case: str,
    label_file: Path,
    reference: Landmarks,
    prediction: Landmarks,
    declaration: Declaration,
    organs: Organs,
    reader_name: str,
) -> Measured:
    """Unsigned distances of one case's landmarks from the surfaces of their organs, averaged over the organs.

    Args:
        case: name of the case.
        label_file: its label map.
        reference: its reference landmarks.
        prediction: its predicted landmarks.
        declaration: declares the organs on which landmarks lie.
        organs: the labels of the data set.
        reader_name: name of nnU-Net's reader.

    Raises:
        InputError: the label map cannot be read, or holds values that the data set does not have.
    """
    labels = Reader(reader_name).labels(label_file)
    require_labels(labels.array, organs.known, label_file)
    geometry = Geometry.from_volume(labels)
    needed = {organ for on in declaration.surface_of.values() for organ in on}
    surfaces = {organ: organs.surface(case, organ, labels) for organ in needed}
    measured: Measured = {}
    for name, on in declaration.surface_of.items():
        own = [surface for organ in on if (surface := surfaces[organ]) is not None]
        for whose, landmarks in (("reference", reference), ("prediction", prediction)):
            position = landmarks.get(name, UNKNOWN).position_mm
            if own and position is not None:
                index = geometry.to_index(position)
                measured[name, whose] = float(np.mean([abs(s.signed_distances_mm(index)[0]) for s in own]))
    return measured


def outcome_of(reference: Landmark, prediction: Landmark) -> tuple[Outcome, float]:
    """The outcome of a prediction, and its radial error in mm (nan unless found)."""
    if reference.state is State.UNKNOWN:
        return "not scored", math.nan
    if prediction.position_mm is None:
        return ("missed" if reference.state is State.PRESENT else "rejected"), math.nan
    if reference.position_mm is None:
        return "false", math.nan
    return "found", float(np.linalg.norm(np.subtract(reference.position_mm, prediction.position_mm)))


def summarise(scored: Sequence[ScoredLandmark], radii_mm: Sequence[float] = RADII_MM) -> Summary:
    """Statistics of all these landmarks together; every landmark of every case has the same weight."""
    outcomes = Counter(one.outcome for one in scored)
    errors = np.array([one.error_mm for one in scored if one.outcome == "found"])
    present = outcomes["found"] + outcomes["missed"]
    return Summary(
        mre=mean(errors),
        sd=float(errors.std(ddof=1)) if len(errors) > 1 else math.nan,
        median=float(np.median(errors)) if len(errors) else math.nan,
        maximum=float(errors.max()) if len(errors) else math.nan,
        sdr={
            radius: float((errors <= radius + ROUNDING_MM).sum() / present) if present else math.nan
            for radius in radii_mm
        },
        surface=mean([one.surface_mm for one in scored]),
        reference_surface=mean([one.reference_surface_mm for one in scored]),
        found=outcomes["found"],
        missed=outcomes["missed"],
        false=outcomes["false"],
        rejected=outcomes["rejected"],
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _score(case: str, name: str, reference: Landmark, prediction: Landmark) -> ScoredLandmark:
    outcome, error = outcome_of(reference, prediction)
    confidence = math.nan if prediction.confidence is None else prediction.confidence
    return ScoredLandmark(case, name, outcome, error, confidence)


def _one_sided(truth: Sequence[Landmarks], predicted: Sequence[Landmarks], names: Sequence[str]) -> tuple[str, ...]:
    """Sentences about landmarks that only one side names, and about landmarks that are not scored."""
    ours, theirs = ({name for landmarks in side for name in landmarks} for side in (truth, predicted))
    found = (
        ("only the references name", sorted(ours - theirs)),
        ("only the predictions name", sorted(theirs - ours)),
        (
            "not scored, because dataset.json does not declare them:",
            sorted((ours | theirs) - set(names) - (theirs - ours)),
        ),
    )
    return tuple(f"{what} {', '.join(some_names)}" for what, some_names in found if some_names)


def _label_files(folder: Path, cases: Sequence[str], content: Mapping[str, Any], source: Path) -> dict[str, Path]:
    if "file_ending" not in content:
        raise InputError(f"{source} has no 'file_ending', which nnU-Net's format requires; add it.")
    files = {case: folder / f"{case}{content['file_ending']}" for case in cases}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise InputError(f"There is no label map {missing[0]}; correct --labels.")
    return files


def _as_json(summary: Summary) -> dict[str, Any]:
    values = asdict(summary)
    sdr = {f"sdr_{radius:g}mm": _or_none(rate) for radius, rate in values.pop("sdr").items()}
    counts = {key: values.pop(key) for key in ("found", "missed", "false", "rejected")}
    return {**{f"{key}_mm": _or_none(value) for key, value in values.items()}, **sdr, **counts}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
