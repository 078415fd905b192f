"""Stock nnU-Net on those cases in which something is drawn.

With an ignore label nnU-Net learns nothing from a case without a mask, but loads it as often as others: with 16 masks
among 96 cases, five of six samples teach nothing. A method that learns from the other cases must beat nnU-Net without
that handicap.
"""

from __future__ import annotations

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.annotated import segmented_cases
from nnunet_ext.nnunet.trainer import CommonTrainer


class nnUNetTrainerSegmentedOnly(CommonTrainer):
    """Stock nnU-Net that leaves training cases out in which every voxel has the ignore label.

    It also leaves out cases for which ``annotated_labels`` of ``dataset.json`` names no label.
    """

    def do_split(self) -> tuple[list[str], list[str]]:
        training, validation = super().do_split()
        assert self.dataset_class is not None  # nnU-Net's own do_split sets it
        cases = self.dataset_class(self.preprocessed_dataset_folder, training)
        kept = segmented_cases(cases, training, self.dataset_json)
        if not kept:
            raise InputError(
                f"{type(self).__name__} trains with masks, but in all {len(training)} training cases of fold "
                f"{self.fold} every voxel has the ignore label or annotated_labels is empty; choose a fold with masks "
                "(nnunet-ext splits)."
            )
        self.print_to_log_file(f"Trains with {len(kept)} of {len(training)} cases; in the others nothing is drawn")
        return kept, validation
