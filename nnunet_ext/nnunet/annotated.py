"""Labels that no case of a training split annotates, which a training with an ignore label cannot learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def never_annotated(dataset: Any, labels: Mapping[str, Any]) -> list[str]:
    """Name the labels or regions of which no case has a voxel, by the locations that nnU-Net's preprocessing kept.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        labels: entry ``labels`` of ``dataset.json``.
    """
    missing = {
        tuple(value) if isinstance(value, list | tuple) else int(value): name
        for name, value in labels.items()
        if name not in ("background", "ignore") and value not in (0, [0])
    }
    for case in dataset.identifiers:
        if not missing:
            break
        *_, properties = dataset.load_case(case)
        for label, places in properties["class_locations"].items():
            if len(places):
                missing.pop(label, None)
    return list(missing.values())
