"""The channels of a network's output that were annotated in a case, and nnU-Net's scores without the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ext.data.label_definitions import declared_labels
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import mean
from nnunet_ext.findings import some
from nnunet_ext.partial_labels.declaration import EXAMPLE, KEY, annotated_labels, organs


@dataclass(frozen=True)
class AnnotatedHeads:
    """The entry ``annotated_labels`` of a data set, as a network sees it.

    Attributes:
        names: of the heads. Classes: by label value, the background first. Regions: as ``dataset.json`` orders them.
        keys: name of each head in nnU-Net's ``summary.json``.
        annotated: by case, the names that were annotated; a case without an entry is annotated completely.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    annotated: Mapping[str, frozenset[str]]

    @classmethod
    def from_dataset_json(
        cls, content: Mapping[str, Any], *, has_regions: bool, where: str = "dataset.json"
    ) -> AnnotatedHeads:
        """Return the annotated heads of all cases from ``dataset.json``.

        Args:
            content: content of ``dataset.json``.
            has_regions: the heads are regions, not classes.
            where: its name, for messages.

        Raises:
            InputError: the entry contradicts itself or the labels.
        """
        if has_regions:
            values = {name: content["labels"][name] for name in organs(content)}
            keys = {name: str(tuple(value) if isinstance(value, list) else value) for name, value in values.items()}
        else:
            declared = declared_labels(content, where)
            numbers = {name: int(np.min(value)) for name, value in declared.items() if name != "ignore"}
            keys = {name: str(numbers[name]) for name in sorted(numbers, key=numbers.__getitem__)}
        return cls(tuple(keys), tuple(keys.values()), annotated_labels(content, where))

    def require_entries(self, who: str, where: str, hint: str = "") -> None:
        """Raise InputError unless at least one case has an entry; ``hint`` names keys that may have been meant."""
        if not self.annotated:
            said = f"does not say which ({hint})" if hint else "does not say which"
            raise InputError(
                f"{who} learns from cases in which only some labels were annotated, but {where} {said}; "
                f"add for example {EXAMPLE} (also to the copy in nnUNet_raw), or train with nnUNetTrainer."
            )

    def require_cases(self, known: Iterable[str], where: str) -> None:
        """Raise InputError if an entry belongs to no case: a misspelt case would count as annotated completely."""
        if strangers := sorted(set(self.annotated) - set(known)):
            raise InputError(
                f"{where}: {KEY} has entries for {some(strangers)}, but there is no case of that name; correct the "
                "spelling (without file ending), or remove them."
            )

    def rows(self, cases: Iterable[str]) -> Tensor:
        """``(B, K)`` bool, on the CPU: which heads were annotated in each case. The background always is."""
        every = frozenset(self.names)
        found = [self.annotated.get(str(case), every) for case in cases]
        return torch.tensor([[name in names or name == "background" for name in self.names] for names in found])

    def without_unannotated(self, summary: Mapping[str, Any], ending: str) -> dict[str, Any]:
        """nnU-Net's ``summary.json`` without the scores of labels in cases in which nobody annotated them.

        Args:
            summary: content of the file.
            ending: of the predictions, with the dot.

        Returns:
            ``mean`` by label and ``foreground_mean``, in nnU-Net's format, and ``cases``: in how many each label was
            annotated; its Dice is of those in which it is in prediction or reference. A label that was annotated in no
            case has nan.
        """
        cases: dict[str, list[Mapping[str, float]]] = {key: [] for key in summary["mean"]}
        for entry in summary["metric_per_case"]:
            case = PurePath(entry["prediction_file"]).name.removesuffix(ending)
            names = self.annotated.get(case, frozenset(self.names))
            for name, key in zip(self.names, self.keys, strict=True):
                if name in names and key in entry["metrics"]:
                    cases[key].append(entry["metrics"][key])
        metrics = list(next(iter(summary["mean"].values())))
        means = {key: {name: mean(m[name] for m in found) for name in metrics} for key, found in cases.items()}
        foreground = {name: mean(row[name] for row in means.values()) for name in metrics}
        counts = {key: len(found) for key, found in cases.items()}
        return {"foreground_mean": foreground, "mean": means, "cases": counts}
