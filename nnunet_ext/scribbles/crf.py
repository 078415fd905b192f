"""Relabel test of planned CRF losses: how many correct voxels would they change, and which window is small enough?

nnU-Net preprocesses dense labels and images of some cases in memory, as the plans say. Then
:mod:`nnunet_ext.attenscribble.relabel` tests the options of the plans, and smaller windows as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.attenscribble.crf_window import ResolvedWindow, crf_loss
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.attenscribble.relabel import preferred
from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.data.raw import RawCase, RawDataset, a_few
from nnunet_ext.data.reading import Volume
from nnunet_ext.findings import Finding
from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.nnunet.options import with_overrides
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.scribbles.label_map import box_of, slices_of
from nnunet_ext.scribbles.overview import Panels

LIMIT = 0.1
"""Largest share of a class's correct voxels that the loss may change. Partial volume at borders alone costs 2 to 9 % on
ACDC, CHAOS and the hippocampus, even with the smallest window."""

CASES = 20
"""Number of cases to test, evenly spread over those with dense labels. They show a share to a percent or two."""

LARGEST_TRIED = 4
"""Largest radius of a window to suggest."""


@dataclass(frozen=True)
class PlannedCRF:
    """The CRF loss of one configuration.

    Attributes:
        configuration: name of the configuration.
        spacing_mm: spacing of the network's input.
        tried: options to test: first those of the plans, then smaller windows.
    """

    configuration: str
    spacing_mm: tuple[float, ...]
    tried: tuple[AttenScribbleOptions, ...]

    def window(self, place: int) -> ResolvedWindow:
        """Return the window of the options at ``tried[place]``."""
        return ResolvedWindow.of(self.spacing_mm, self.tried[place])


@dataclass(frozen=True)
class RelabelTest:
    """Result for one configuration.

    Attributes:
        planned: the loss that was tested.
        cases: number of cases.
        shares: for each tried window, the share of correct voxels that it changes, by class; nan for a class without
            voxels.
        worst: the case that the planned window changes most, and the index of the class that :meth:`largest` names.
    """

    planned: PlannedCRF
    cases: int
    shares: tuple[Mapping[str, float], ...]
    worst: tuple[str, int]

    def largest(self, place: int) -> tuple[str, float]:
        """The class with the largest changed share, and that share."""
        shares = {name: share for name, share in self.shares[place].items() if not np.isnan(share)}
        name = max(shares, key=lambda key: shares[key])
        return name, shares[name]

    @property
    def suggested(self) -> int | None:
        """Place of the first tried window that stays below :data:`LIMIT` for every class; None if none does."""
        return next((place for place in range(len(self.shares)) if self.largest(place)[1] < LIMIT), None)

    def finding(self, dataset: str, plans: str) -> Finding:
        """Return a note if the planned window is small enough, otherwise a warning that suggests one that is.

        Args:
            dataset: name of the data set.
            plans: name of the plans.
        """
        name, share = self.largest(0)
        text = (
            f"the CRF loss of {self.planned.configuration} ({self.planned.window(0)}) would change "
            f"{100 * share:.1f} % of the correct voxels of {name}"
        )
        case = "1 case" if self.cases == 1 else f"{self.cases} cases"
        if unknown := [name for name, share in self.shares[0].items() if np.isnan(share)]:
            case += f"; not tested, because no tested case has them: {', '.join(unknown)}"
        if self.suggested == 0:
            return Finding("note", "crf window", f"{text}, the most of any class ({case})", about=name)
        if self.suggested is None:
            name, share = self.largest(len(self.shares) - 1)
            text += (
                f" ({case}); even the smallest window changes {100 * share:.1f} % of {name}: train at a finer spacing, "
                "or without the CRF loss (attenscribble.crf_weight=0)"
            )
            return Finding("warning", "crf window", text, about=name)
        _, least = self.largest(self.suggested)
        radius = self.planned.tried[self.suggested].crf_radius
        fix = (
            f"nnunet-ext plans {dataset} -p {plans} -c {self.planned.configuration} --option "
            f"attenscribble.crf_radius={radius}"
        )
        for option in ("crf_sigma", "crf_downsample"):
            if getattr(self.planned.tried[0], option) is not None:
                fix += f" attenscribble.{option}=null"
        text += f" ({case}); {self.planned.window(self.suggested)} changes at most {100 * least:.1f} %: {fix}"
        return Finding("warning", "crf window", text, about=name, fix=fix)


def planned_losses(plans: Mapping[str, Any]) -> list[PlannedCRF]:
    """List the CRF losses of a plans file, one per distinct spacing and options; a weight of 0 is none.

    Args:
        plans: content of the file.

    Raises:
        InputError: the plans have an unknown option of the method, or a value out of range.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    losses: dict[tuple[Any, ...], PlannedCRF] = {}
    for name in manager.available_configurations:
        settings = manager.get_configuration(name).configuration
        spacing = tuple(map(float, settings["spacing"]))
        where = f"Plans {plans['plans_name']}, configuration {name},"
        own = extension_settings(settings, AttenScribbleOptions.SECTION)
        options = with_overrides(AttenScribbleOptions(), own, where)
        if options.crf_weight == 0:
            continue
        tried = (options, *smaller_windows(options, spacing))
        key = (spacing, options.crf_radius, options.crf_sigma, options.crf_intensity_sigma, options.crf_downsample)
        losses.setdefault(key, PlannedCRF(name, spacing, tried))
    return list(losses.values())


def smaller_windows(options: AttenScribbleOptions, spacing_mm: Sequence[float]) -> list[AttenScribbleOptions]:
    """Return options with smaller windows, pooled as by default, largest first, down to radius 1.

    Args:
        options: options of the plans.
        spacing_mm: spacing of the network's input.
    """
    planned = ResolvedWindow.of(spacing_mm, options).radius
    # with a width or pooling of its own the planned radius may be smaller, too, if these are as by default
    largest = planned if options.crf_sigma or options.crf_downsample else planned - 1
    return [
        replace(options, crf_radius=radius, crf_sigma=None, crf_downsample=None)
        for radius in range(min(largest, LARGEST_TRIED), 0, -1)
    ]


def measure_windows(
    plans: Mapping[str, Any], raw: RawDataset, dense: Mapping[str, Path], processes: int | None
) -> tuple[list[RelabelTest], list[Finding]]:
    """Test every distinct CRF loss of a plans file.

    Args:
        plans: content of the file.
        raw: the data set; up to :data:`CASES` cases with dense labels are tested.
        dense: files of dense labels by case.
        processes: cases tested in parallel.

    Returns:
        The tests, and notes on configurations that could not be tested.

    Raises:
        InputError: the plans have wrong options.
    """
    chosen = a_few([case for case in raw.cases if case.name in dense], CASES)
    tests, notes = [], []
    for planned in planned_losses(plans):
        calls = [(planned, plans, raw.description, case, dense[case.name]) for case in chosen]
        try:
            counts = list(for_every_case(count_case, calls, processes, f"CRF loss of {planned.configuration}"))
        except RuntimeError as error:  # plans can name functions that this nnU-Net does not have
            text = f"the CRF loss of {planned.configuration} is not tested: {' '.join(str(error).split())}"
            notes.append(Finding("note", "crf window", text))
            continue
        changed, voxels = np.array([one[0] for one in counts]), np.array([one[1] for one in counts])
        if not voxels.any():
            text = f"the CRF loss of {planned.configuration} is not tested: the dense labels have none of its regions"
            notes.append(Finding("note", "crf window", text))
            continue
        names = LabelView.head_names(raw.description["labels"])
        with np.errstate(invalid="ignore"):
            shares = changed.sum(0) / voxels.sum(0)
            of_cases = np.nan_to_num(changed[:, 0] / voxels)
        by_window = tuple(dict(zip(names, map(float, row), strict=True)) for row in shares)
        head = int(np.nanargmax(shares[0]))
        tests.append(
            RelabelTest(planned, len(chosen), by_window, (chosen[int(np.argmax(of_cases[:, head]))].name, head))
        )
    return tests, notes


def count_case(
    planned: PlannedCRF, plans: Mapping[str, Any], description: Mapping[str, Any], case: RawCase, dense: Path
) -> tuple[NDArray, NDArray]:
    """Count the correct voxels of one case that each tried window would change.

    Args:
        planned: the configuration, and the options to test.
        plans: content of the plans file.
        description: content of ``dataset.json``.
        case: files of the case.
        dense: file of its dense labels.

    Returns:
        Changed voxels ``(windows, K)`` and all voxels ``(K,)``, by class or region.
    """
    image, truth, exclusive = preprocessed(planned, plans, description, case, dense)
    axes = (0, *range(2, truth.ndim))
    changed = [
        (truth & ~preferred(crf_loss(planned.spacing_mm, options, exclusive=exclusive), truth, image)).sum(axes)
        for options in planned.tried
    ]
    return torch.stack(changed).numpy(), truth.sum(axes).numpy()


def worst_slice(
    test: RelabelTest, plans: Mapping[str, Any], description: Mapping[str, Any], case: RawCase, dense: Path
) -> tuple[Panels, dict[int, str]]:
    """Return pictures of the slice in which the planned window changes most of the worst class, and its class names.

    Args:
        test: result of the test.
        plans: content of the plans file.
        description: content of ``dataset.json``.
        case: files of the worst case.
        dense: file of its dense labels.
    """
    planned = test.planned
    image, truth, exclusive = preprocessed(planned, plans, description, case, dense)
    wanted = preferred(crf_loss(planned.spacing_mm, planned.tried[0], exclusive=exclusive), truth, image)
    flat = len(planned.spacing_mm) == 2
    # to (K, z, y, x): in 2D the samples are the slices
    truth, wanted = (x.transpose(0, 1) if flat else x[0] for x in (truth, wanted))
    grey = image[:, 0] if flat else image[0, 0]
    head = test.worst[1]
    lost = (truth[head] & ~wanted[head]).numpy()
    # in 2D cut along the first axis: a spacing above the others makes it the slice axis
    spacing = (10 * max(planned.spacing_mm), *planned.spacing_mm) if flat else planned.spacing_mm
    axis = slice_axis(spacing)
    index = int(np.argmax(slices_of(lost, axis).sum((1, 2))))
    changed = (truth != wanted).any(0)
    labels = _drawn(truth, exclusive)
    maps = {
        "dense labels": labels,
        "what the CRF loss wants": _drawn(wanted, exclusive),
        "correct voxels that it changes": np.where(changed.numpy(), labels, -1),
    }
    here = slices_of(lost, axis)[index]
    volume = Volume(grey.numpy(), spacing, {})
    panels = Panels.cut(
        f"{case.name}, {planned.configuration}", volume, maps, index, box_of(here) if here.any() else None
    )
    heads = LabelView.head_names(description["labels"])
    return panels, dict(enumerate([*([] if exclusive else ["no region"]), *heads]))


def _drawn(heads: Tensor, exclusive: bool) -> NDArray:
    """Label map of heads ``(K, z, y, x)``: the index of the class, or of the last region of a voxel, counted from 1."""
    if exclusive:
        return heads.int().argmax(0).numpy()
    places = torch.arange(1, len(heads) + 1).view(-1, *[1] * (heads.ndim - 1))
    return (heads * places).amax(0).numpy()


def preprocessed(
    planned: PlannedCRF, plans: Mapping[str, Any], description: Mapping[str, Any], case: RawCase, dense: Path
) -> tuple[Tensor, Tensor, bool]:
    """Return a case as a training sees it; in 2D the samples are its slices.

    Args:
        planned: the configuration.
        plans: content of the plans file.
        description: content of ``dataset.json``.
        case: files of the case.
        dense: file of its dense labels.

    Returns:
        Image ``(B, C, *spatial)``, truth ``(B, K, *spatial)`` bool, and whether the classes exclude each other.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration(planned.configuration)
    preprocessor = configuration.preprocessor_class(verbose=False)
    images = [str(file) for file in case.images]
    data, seg, _ = preprocessor.run_case(images, str(dense), manager, configuration, dict(description))
    # nnU-Net marks cropped or masked voxels with -1; its augmentation makes them background
    image, labels = torch.from_numpy(data).float(), torch.from_numpy(seg.astype(np.int64)).clamp(min=0)
    labelling = manager.get_label_manager(dict(description))
    heads = labelling.foreground_regions if labelling.has_regions else labelling.all_labels
    truth = torch.cat([torch.isin(labels, torch.tensor(np.atleast_1d(head))) for head in heads])
    if len(planned.spacing_mm) == 2:
        return image.transpose(0, 1), truth.transpose(0, 1), not labelling.has_regions
    return image[None], truth[None], not labelling.has_regions


def unplanned(name: str) -> Finding:
    """Return a note that there are no plans to test.

    Args:
        name: name of the data set.
    """
    text = f"the window of the CRF loss is not tested: {name} is not planned yet (nnUNetv2_plan_experiment)"
    return Finding("note", "crf window", text)
