"""``nnunet-ext landmarks pseudo-label``: masks of organs for cases that have only landmarks, as a new data set.

::

    Dataset304_KneePseudo/
        dataset.json        refers to the images of the source, which are not copied
        labelsTr/           segmented cases as they are; in the other cases the organs that passed the filters
        landmarksTr/        as in the source
        pseudo_labels/      CASE.json: engine, prompts, measurements of the filters, reasons for refusing a mask;
                            for segmented cases with landmarks, Dice with the true mask, and what the filters say of it
        splits_final.json   folds that validate on segmented cases alone, to be copied to nnUNet_preprocessed

In a case with an accepted mask, the label map holds the organ, a shell of background around it, and "ignore" everywhere
else and where two accepted masks overlap. Without the shell, a mask would teach that the organ has no end. Background
in the shell means "none of the organs with a mask": other organs of the data set may lie there, and
``annotated_labels`` of ``dataset.json`` says so. Trainers with partial labels (:mod:`nnunet_ext.partial_labels`)
understand that, stock nnU-Net does not. A case whose masks were all refused stays as it was.

The pipeline follows BaBLoss (Gong et al., IEEE TMI 2025). The paper does not publish the number of prompts, the filters
and the tool that makes the masks; ours are our own choice.
"""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_ext.data.derived import derived_description, new_dataset_folder
from nnunet_ext.data.geometry import Floats
from nnunet_ext.data.raw import copy_label_map, write_label_map
from nnunet_ext.data.reading import Reader
from nnunet_ext.files import write_json, written_as_a_whole
from nnunet_ext.findings import aligned
from nnunet_ext.landmarks.dataset import FOLDER, RawLandmarkDataset, open_landmarks
from nnunet_ext.landmarks.pseudo.candidates import (
    Candidate,
    Check,
    LandmarkCase,
    Options,
    candidates_of,
    cases_to_label,
    check_of,
)
from nnunet_ext.landmarks.pseudo.engines import load_engine, runs_in_parallel
from nnunet_ext.landmarks.pseudo.prompts import Verdict
from nnunet_ext.partial_labels.declaration import KEY as ANNOTATED
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.splits.files import NAME, write_folds
from nnunet_ext.splits.folds import Fold, cross_validation
from nnunet_ext.splits.subjects import Grouping, group, subjects_from_names
from nnunet_ext.version import __version__

PROVENANCE = "pseudo_labels"


@dataclass(frozen=True)
class PseudoLabelled:
    """The data set that :func:`pseudo_label` wrote.

    Attributes:
        folder: folder of the data set.
        verdicts: verdict of the filters by case and organ.
        checks: comparison with true masks by segmented case and organ.
        partial: whether some case has masks of some organs only.
        compared: whether volumes were compared with those of labelled cases.
        folds: whether folds that validate on segmented cases alone were written.
    """

    folder: Path
    verdicts: Mapping[str, Mapping[str, Verdict]]
    checks: Mapping[str, Mapping[str, Check]]
    partial: bool
    compared: bool
    folds: bool

    def report(self) -> str:
        """The text to print: numbers of accepted masks, reasons for refusing others, and the commands to type next."""
        organs = list(next(iter(self.verdicts.values())))
        rows = [("organ", "accepted", "refused because of (a mask may fail several)")]
        for organ in organs:
            verdicts = [case[organ] for case in self.verdicts.values()]
            rows.append((organ, *_counted(verdicts)))
        number = int(self.folder.name[7:10])
        lines = aligned(rows)
        if not self.compared:
            lines.append("No case has labels, so the volumes were not compared with anything.")
        lines += self._of_checks(organs)
        if not any(verdict.accepted for case in self.verdicts.values() for verdict in case.values()):
            lines.append(
                f"\nNo mask passed, so a training with {self.folder.name} learns nothing that one with the original "
                f"data set would not. {PROVENANCE}/CASE.json has the measurements; try another --engine."
            )
            return "\n".join(lines)
        lines += [
            f"\n{self.folder}: look at some masks before you train; {PROVENANCE}/CASE.json says how each was made.",
            f"  nnUNetv2_plan_and_preprocess -d {number}",
            *self._of_folds(),
        ]
        if self.partial:
            lines += [
                f"  nnUNetv2_train {number} CONFIGURATION FOLD -tr nnUNetTrainerPartialLabels",
                "Where only some organs have a mask, background means 'none of these' (annotated_labels), which stock "
                "nnU-Net does not know.",
            ]
        return "\n".join(lines)

    def _of_folds(self) -> list[str]:
        mixed = "pseudo Dice, checkpoint_best and summary.json take masks by the engine for true ones"
        if not self.folds:
            return [f"In a training {mixed}, because fewer than two subjects are segmented to train and validate on."]
        return [
            f"  cp {shlex.quote(str(self.folder))}/splits_final*.json $nnUNet_preprocessed/{self.folder.name}/",
            f"Without this copy, {mixed}. Its folds validate on segmented cases alone.",
        ]

    def _of_checks(self, organs: Sequence[str]) -> list[str]:
        if not self.checks:
            return ["No segmented case has landmarks, so neither the engine nor the filters could be checked."]
        lines = [f"\n{len(self.checks)} segmented cases with landmarks, as a check:"]
        rows = [("organ", "Dice of the engine's masks", "true masks accepted", "refused because of")]
        refused = []
        for organ in organs:
            checks = [case[organ] for case in self.checks.values() if organ in case]
            dice, verdicts = [check.dice for check in checks], [check.verdict for check in checks]
            measured = f"{np.mean(dice):.2f} ({min(dice):.2f} to {max(dice):.2f})" if dice else "-"
            rows.append((organ, measured, *_counted(verdicts)))
            if 2 * sum(verdict.accepted for verdict in verdicts) < len(verdicts):
                refused.append(organ)
        lines += aligned(rows)
        if refused:
            lines.append(
                f"The filters refuse most true masks of {', '.join(refused)}, so they select wrong ones: do the "
                "foreground prompts lie in the organ?"
            )
        return lines


def pseudo_label(
    dataset: str | int | Path, out: str | int, options: Options | None = None, *, processes: int | None = None
) -> PseudoLabelled:
    """Write a data set with masks for landmark-only cases into ``nnUNet_raw``; after an error nothing is left behind.

    Args:
        dataset: number or name of a data set with landmarks, or a folder.
        out: number of the new data set, or its whole name.
        options: engine, filters and shell.
        processes: cases in parallel; by default one per core, or one at all for an engine with a GPU. The result does
            not depend on it.

    Raises:
        InputError: the landmarks mark no organ, the data set has no ignore label or no case with only landmarks, the
            engine cannot be used, or the number of the new data set is taken.
    """
    options = options or Options()
    found = open_landmarks(dataset)
    target = new_dataset_folder(found.raw, str(out), "Pseudo")
    load_engine(options.engine, options.model)  # fail early, before anything is read
    processes = processes or (None if runs_in_parallel(options.engine) else 1)
    chosen = cases_to_label(found, options, processes)
    with written_as_a_whole(target) as folder:
        for name in ("labelsTr", FOLDER, PROVENANCE):
            (folder / name).mkdir()
        for case in found.raw.cases:
            copy_label_map(case.label, folder / "labelsTr")
        for file in found.files:
            shutil.copyfile(file, folder / FOLDER / file.name)
        labelled = for_every_case(label_case, [(each, folder) for each in chosen.to_label], processes, "masks")
        verdicts = dict(zip([each.case.name for each in chosen.to_label], labelled, strict=True))
        checked = for_every_case(check_case, [(each, folder) for each in chosen.to_check], processes, "checks")
        names = [each.case.name for each in chosen.to_check]
        checks = dict(zip(names, checked, strict=True)) if names else {}
        annotated = _annotated(found, verdicts)
        text = f"{found.raw.name} with masks by {options.engine} from landmarks, by nnunet-ext {__version__}"
        # also if it is empty now, because that of the source would stay
        entry = {ANNOTATED: annotated} if annotated or found.organs.annotated else {}
        write_json(folder / "dataset.json", {**derived_description(found.raw, target, text), **entry})
        grouping = subjects_of([case.name for case in found.raw.cases])
        if folds := folds_of_segmented(grouping, chosen.segmented):
            write_folds(folder / NAME, folds, target.name, grouping, "segmented cases alone, no pseudo-labels")
    compared = any(chosen.to_label[0].labelled_mm3.values())
    return PseudoLabelled(target, verdicts, checks, bool(annotated), compared, bool(folds))


def label_case(work: LandmarkCase, folder: Path) -> dict[str, Verdict]:
    """Write the label map and the provenance of one case, and return the verdict on every organ.

    Args:
        work: the case.
        folder: folder of the new data set.

    Raises:
        InputError: a file cannot be read, or the engine's mask does not have the shape of the image.
    """
    found, geometry = candidates_of(work)
    case, organs, options = work.case, work.organs, work.options
    masks = {organ: each.mask for organ, each in found.items() if each.mask is not None and each.verdict.accepted}
    if masks:
        assert organs.ignore is not None  # checked at the start
        values = {organ: organs.values[organ] for organ in masks}
        labels = label_map(masks, values, organs.ignore, geometry.spacing_mm, options.shell_mm)
        write_label_map(Reader(work.reader_name), labels, case.label, folder / "labelsTr" / case.label.name)
    _write_provenance(work, folder, {organ: _provenance(each) for organ, each in found.items()})
    return {organ: each.verdict for organ, each in found.items()}


def check_case(work: LandmarkCase, folder: Path) -> dict[str, Check]:
    """Write the provenance of one segmented case, and return the comparison with its true masks; see :func:`check_of`.

    Args:
        work: the case.
        folder: folder of the new data set.
    """
    checks = check_of(work)
    organs = {
        organ: {"dice": check.dice, "true_mask_refused_because_of": check.verdict.reasons, **check.verdict.values}
        for organ, check in checks.items()
    }
    _write_provenance(work, folder, organs)
    return checks


def label_map(
    masks: Mapping[str, NDArray[np.bool_]],
    values: Mapping[str, Any],
    ignore: int,
    spacing_mm: Floats,
    shell_mm: float,
) -> NDArray[np.int32]:
    """Label map ``(z, y, x)``: organs, a shell of background around them, ignore elsewhere and where masks overlap.

    Args:
        masks: masks ``(z, y, x)`` by organ; at least one.
        values: labels by organ.
        ignore: the ignore label.
        spacing_mm: spacing of the axes.
        shell_mm: thickness of the shell.
    """
    covered = np.sum(list(masks.values()), axis=0)
    shell = distance_transform_edt(covered == 0, sampling=spacing_mm) <= shell_mm
    labels = np.where(shell, 0, ignore).astype(np.int32)  # labels above 255 exist; writing picks the type
    for organ, mask in masks.items():
        labels[mask] = values[organ]
    labels[covered > 1] = ignore
    return labels


def subjects_of(cases: Sequence[str]) -> Grouping:
    """The subjects of cases, if their names tell; otherwise every case is its own, as in nnU-Net's folds."""
    return group(cases, "subject" if subjects_from_names(cases) else "case")


def folds_of_segmented(grouping: Grouping, segmented: Sequence[str]) -> list[Fold]:
    """Up to 5 folds that validate on segmented cases; all other subjects train. None with fewer than two subjects.

    Args:
        grouping: subjects of all cases.
        segmented: the segmented cases.
    """
    subject_of = {case: grouping.subject_of[case] for case in segmented}
    if (subjects := len(set(subject_of.values()))) < 2:
        return []
    folds = []
    for fold in cross_validation(subject_of, min(5, subjects)):
        validating = {subject_of[case] for case in fold.val}
        train = sorted(case for case, subject in grouping.subject_of.items() if subject not in validating)
        folds.append(Fold(tuple(train), fold.val))
    return folds


# --- parts ------------------------------------------------------------------------------------------------------------


def _counted(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """How many masks are accepted, and how often each filter refuses one."""
    reasons = Counter(reason for verdict in verdicts for reason in verdict.reasons)
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return f"{sum(verdict.accepted for verdict in verdicts)} of {len(verdicts)}", why or "-"


def _write_provenance(work: LandmarkCase, folder: Path, organs: Mapping[str, Any]) -> None:
    content = {
        "nnunet_ext": __version__,
        "options": asdict(work.options),
        "labelled_mm3": work.labelled_mm3,
        "organs": organs,
    }
    write_json(folder / PROVENANCE / f"{work.case.name}.json", content)


def _provenance(candidate: Candidate) -> dict[str, Any]:
    prompts, verdict = candidate.prompts, candidate.verdict
    points = {}
    if prompts is not None:
        points = {name: getattr(prompts, name).round(3).tolist() for name in ("foreground_mm", "background_mm")}
    return {"accepted": verdict.accepted, "refused_because_of": verdict.reasons, **verdict.values, **points}


def _annotated(found: RawLandmarkDataset, verdicts: Mapping[str, Mapping[str, Verdict]]) -> dict[str, list[str]]:
    """The entry ``annotated_labels``: the source's, plus the cases in which only some organs have a mask."""
    entry = {case: sorted(names) for case, names in found.organs.annotated.items()}
    for case, organs in verdicts.items():
        accepted = [organ for organ, verdict in organs.items() if verdict.accepted]
        if accepted and set(accepted) != set(found.organs.values):
            entry[case] = accepted
        elif accepted:
            entry.pop(case, None)
    return entry
