"""Trainers for cases in which only some of the labels were annotated.

:class:`PartialLabels` goes in front of any trainer of this package that trains with nnU-Net's own segmentation loss. It
replaces that loss, in training and in the log; terms that a method adds see the unchanged label map.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.nnunet.annotated import KEY as ANNOTATED
from nnunet_ext.nnunet.annotated import is_segmented
from nnunet_ext.nnunet.trainer import Batch, CommonTrainer
from nnunet_ext.partial_labels.cases import AnnotatedHeads
from nnunet_ext.partial_labels.declaration import keys_like_ours
from nnunet_ext.partial_labels.loss import PartialLabelsLoss, only_annotated_logits, only_annotated_target

SUMMARY = "summary_annotated.json"
"""File in the folder of the final validation, beside nnU-Net's ``summary.json``."""


class PartialLabels(CommonTrainer):
    """nnU-Net's loss on the annotated labels of each case, for the next trainer among the bases of a class."""

    declares: ClassVar[tuple[str, ...]] = (ANNOTATED,)

    patches_only: ClassVar[bool] = True

    needs_annotated_labels: ClassVar[bool] = True
    """Refuse a data set without the entry; False: in such a data set everything was annotated."""

    def initialize(self) -> None:
        where = str(Path(self.preprocessed_dataset_folder_base) / "dataset.json")
        self.annotated_heads = AnnotatedHeads.from_dataset_json(
            self.dataset_json, has_regions=self.labels.has_regions, where=where
        )
        if self.needs_annotated_labels:
            hint = keys_like_ours(self.dataset_json)
            self.annotated_heads.require_entries(type(self).__name__, where, hint)
        super().initialize()

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        deep = isinstance(loss, DeepSupervisionWrapper)
        stock = loss.loss if deep else loss
        if not isinstance(stock, DC_and_CE_loss | DC_and_BCE_loss):
            raise InputError(
                f"{type(self).__name__} replaces nnU-Net's own loss, but this trainer has {type(stock).__name__}."
            )
        dice = stock.dc
        self.partial_loss = PartialLabelsLoss(
            self.labels,
            batch_dice=dice.batch_dice,
            smooth=dice.smooth,
            do_bg=dice.do_bg,
            over_processes=_sum_over_processes if dice.ddp else None,
        )
        if not deep:
            return self.partial_loss
        loss.loss = self.partial_loss
        return loss

    def on_train_start(self) -> None:
        if not self.was_initialized:  # as nnU-Net's own: only then is it known how cases are stored
            self.initialize()
        known = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
        self.annotated_heads.require_cases(known, str(Path(self.preprocessed_dataset_folder_base) / "dataset.json"))
        super().on_train_start()
        if unread := keys_like_ours(self.dataset_json):
            self.print_to_log_file(f"WARNING: of the keys of dataset.json {unread}")
        trained = list(self.training_data.identifiers)
        annotated = [case for case in trained if self._is_annotated(case)]
        names = self.annotated_heads.names
        sums = self.annotated_heads.rows(annotated).reshape(-1, len(names)).sum(0).tolist()
        counts = {name: int(count) for name, count in zip(names, sums, strict=True) if name != "background"}
        nothing = len(trained) - len(annotated)
        rest = f"; in {nothing} of them nothing is" if nothing else ""
        self.print_to_log_file(f"Of {len(trained)} training cases these were annotated in: {counts}{rest}")
        if never := [name for name, count in counts.items() if not count]:
            self._say_what_is_never_annotated(never)
        self.print_to_log_file("Pseudo dice counts a label only in cases in which it was annotated")

    def _say_what_is_never_annotated(self, names: list[str]) -> None:
        """Refuse or warn: neither loss nor pseudo Dice ever decides between such a label and the background."""
        said = (
            f"no training case of fold {self.fold} annotates {', '.join(names)}, so the network may call any "
            "background by that name; choose other folds (nnunet-ext splits), annotate it in some cases, or remove the "
            "label"
        )
        if self.needs_annotated_labels and self.current_epoch == 0:
            raise InputError(f"{said[0].upper()}{said[1:]}.")
        self.print_to_log_file(f"WARNING: {said}")

    def _is_annotated(self, case: str) -> bool:
        """Return whether anything of a case was annotated."""
        return bool(self.annotated_heads.annotated.get(case, True)) and self._is_segmented(case)

    def _is_segmented(self, case: str) -> bool:
        """Return whether at least one voxel of a case does not have the ignore label."""
        if self.labels.ignore_label is None:
            return True
        *_, properties = self.dataset_class(self.preprocessed_dataset_folder, [case]).load_case(case)
        return is_segmented(properties["class_locations"])

    def prepare_batch(self, batch: Batch) -> Batch:
        """Add ``annotated``, ``(B, K)`` bool: which heads were annotated in the samples."""
        return super().prepare_batch({**batch, "annotated": self.annotated_heads_of(batch)})

    def annotated_heads_of(self, batch: Batch) -> Tensor:
        """``(B, K)`` bool, on the CPU: which heads were annotated in the samples of a batch of the loader."""
        return self.annotated_heads.rows(batch["keys"])

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        # only here the labels are those of the cases: the network's own, of another pass, are complete
        with self.annotated_in(batch):
            return super().compute_terms(output, batch)

    def validation_step(self, batch: dict) -> dict:
        # nnU-Net's step has no seam between the network and its pseudo dice. Where nobody looked for an organ, the
        # network's output is therefore read as "organ or background" before nnU-Net sees it; the loss stays the same.
        with self.annotated_in(batch) as annotated:

            def read(module: nn.Module, given: Any, output: Any) -> Any:
                levels = output if isinstance(output, list) else [output]
                levels = [only_annotated_logits(level, annotated, self.labels) for level in levels]
                return levels if isinstance(output, list) else levels[0]

            targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
            targets = [only_annotated_target(target, annotated, self.labels) for target in targets]
            target = targets if isinstance(batch["target"], list) else targets[0]
            hook = self.network.register_forward_hook(read)
            try:
                return super().validation_step({**batch, "target": target})
            finally:
                hook.remove()

    @contextmanager
    def annotated_in(self, batch: dict) -> Iterator[Tensor]:
        """Context in which the loss knows which heads were annotated: nnU-Net calls it only with logits and target."""
        self.partial_loss.annotated = self.annotated_heads_of(batch)
        try:
            yield self.partial_loss.annotated
        finally:
            self.partial_loss.annotated = None

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        super().perform_actual_validation(save_probabilities)
        folder = Path(self.output_folder) / "validation"
        if self.local_rank == 0 and self.annotated_heads.annotated:
            stock = json.loads((folder / "summary.json").read_text())
            own = self.annotated_heads.without_unannotated(stock, self.dataset_json["file_ending"])
            with replacing(folder / SUMMARY) as temporary:
                temporary.write_text(json.dumps(own, indent=4))
            self.print_to_log_file(
                "The mean validation Dice above counts labels in cases in which nobody annotated them, where every "
                f"prediction is false. Without these it is {own['foreground_mean']['Dice']:.4f}, see {SUMMARY}"
            )


class nnUNetTrainerPartialLabels(PartialLabels):
    """nnU-Net for data sets in which the annotated labels differ from case to case."""


def _sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum over the processes of a distributed training, with nnU-Net's own gradient."""
    return AllGatherGrad.apply(tensor).sum(0, dtype=torch.float32)
