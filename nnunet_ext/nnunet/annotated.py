"""Annotation of preprocessed cases, read from the class locations that nnU-Net stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_ext.data.label_definitions import ANNOTATED as KEY
from nnunet_ext.data.label_definitions import declared_labels

BACKGROUND = (0, (0,))
"""Ways to declare the background."""


def never_annotated(dataset: Any, labels: Mapping[str, Any]) -> list[str]:
    """Name the labels or regions without a voxel in any case, by the class locations that nnU-Net stored.

    These leave out the background, so that is looked for in the label maps, up to the first with it; nnU-Net writes −1
    for annotated background on black voxels. It is no output of a network for regions.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        labels: entry ``labels`` of ``dataset.json``; one of them is to be ignored.
    """
    declared = {name: value for name, value in declared_labels({"labels": labels}).items() if name != "ignore"}
    missing = {value: name for name, value in declared.items() if value not in BACKGROUND}
    for case in dataset.identifiers:
        if not missing:
            break
        *_, properties = dataset.load_case(case)
        for label, places in properties["class_locations"].items():
            if len(places):
                missing.pop(label, None)
    has_regions = any(isinstance(value, tuple) and len(value) > 1 for value in declared.values())
    behind = [] if has_regions else [name for name, value in declared.items() if value in BACKGROUND]
    maps = (dataset.load_case(case)[1] for case in dataset.identifiers)
    if behind and not any((np.asarray(label_map[:]) <= 0).any() for label_map in maps):
        return [*behind, *missing.values()]
    return list(missing.values())


def is_segmented(class_locations: Mapping[Any, Sequence], labels: Collection[str] | None = None) -> bool:
    """Return whether anything is labelled in a case, background included.

    Args:
        class_locations: that nnU-Net stored for the case. With an ignore label in the data set it has a key of −1 and
            all labels, with voxels that are not ignored; without one every voxel is labelled.
        labels: of the case in :data:`KEY`; if there are none, its background means nothing. None: it has no entry.
    """
    if labels is not None and not labels:
        return False
    annotated = [key for key in class_locations if isinstance(key, tuple) and -1 in key]
    return not annotated or any(len(class_locations[key]) > 0 for key in annotated)


def segmented_cases(dataset: Any, names: Iterable[str], dataset_json: Mapping[str, Any]) -> list[str]:
    """Return those of the cases ``names`` in which anything is labelled, see :func:`is_segmented`.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        names: cases to choose from.
        dataset_json: content of ``dataset.json``.
    """
    annotated = dataset_json.get(KEY, {})
    return [name for name in names if is_segmented(dataset.load_case(name)[3]["class_locations"], annotated.get(name))]
