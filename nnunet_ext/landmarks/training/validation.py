"""Validation of landmarks: in the patches of every epoch, and in the whole validation cases at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import Tensor

from nnunet_ext.landmarks.evaluate import evaluate
from nnunet_ext.landmarks.formats import MARKUPS, TABLE, write_markups, write_table
from nnunet_ext.landmarks.heatmaps import decode
from nnunet_ext.landmarks.mirroring import Mirroring
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.predictor import (
    FOLDER,
    LandmarkHead,
    LandmarkPredictor,
    sure_enough,
    threshold,
    thresholds_of_others,
    write_thresholds,
)
from nnunet_ext.landmarks.training.cases import find_landmarks
from nnunet_ext.landmarks.training.data import LandmarkData


class LandmarkValidation(LandmarkData):
    """Mix-in for a trainer whose network also returns heatmaps, ``network(x, landmarks=True)``."""

    @property
    def landmark_head(self) -> LandmarkHead:
        return LandmarkHead.from_settings(self.landmark_settings(self.landmark_mirroring))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.radial_errors: list[float] = []

    def validation_step(self, batch: dict) -> dict:
        present = batch["landmark_states"] == State.PRESENT
        rows = present.any(1).nonzero()[:, 0]
        if len(rows):
            _, outputs = self.network(batch["data"][rows].to(self.device), landmarks=True)
            self._note_errors(outputs, batch["landmarks"][rows], present[rows])
        return super().validation_step(batch)

    def _note_errors(self, outputs: Tensor, points: Tensor, present: Tensor) -> None:
        """Add the radial errors of a batch.

        Args:
            outputs: ``(B, K, *patch)``.
            points: ``(B, K, dim)``, voxels.
            present: ``(B, K)``.
        """
        spacing = np.asarray(self.configuration_manager.spacing)
        # patches are not flipped here, so the landmarks of the data set need not be read
        head = LandmarkHead(self.landmark_declaration.names, self.landmark_scale, Mirroring())
        for heatmap, expected, seen in zip(head.probabilities(outputs), points, present, strict=True):
            errors = np.linalg.norm((decode(heatmap)[0] - expected.numpy()) * spacing, axis=1)
            self.radial_errors += errors[seen.numpy()].tolist()

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        super().on_validation_epoch_end(val_outputs)
        if self.radial_errors:
            self.print_to_log_file(
                f"Landmarks in validation patches: mean radial error {np.mean(self.radial_errors):.2f} mm, median "
                f"{np.median(self.radial_errors):.2f} mm, of {len(self.radial_errors)}"
            )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0:
            self.validate_landmarks()

    def validate_landmarks(self) -> None:
        """Predict the validation cases with known landmarks, find the thresholds of this fold, and write both.

        Predictions for new cases use the thresholds of all these cases; here each is judged by those of the others.
        """
        _, validation = self.do_split()
        states = {name: self.landmark_cases[name].keypoints.states for name in validation}
        known = [name for name in validation if (states[name] != State.UNKNOWN).any()]
        if not known:
            return
        self.set_deep_supervision_enabled(False)
        self.network.eval()
        predictor = LandmarkPredictor(device=self.device, allow_tqdm=False)
        predictor.manual_initialization(
            self.network,
            self.plans_manager,
            self.configuration_manager,
            None,
            self.dataset_json,
            type(self).__name__,
            self.inference_allowed_mirroring_axes,
        )
        predictor.head = self.landmark_head
        dataset = self.dataset_class(
            self.preprocessed_dataset_folder,
            known,
            folder_with_segs_from_previous_stage=self.folder_with_segs_from_previous_stage,
        )
        found = {}
        for name in known:
            data, _, previous, properties = dataset.load_case(name)
            image = data[:]
            if self.is_cascaded:
                labels = self.label_manager.foreground_labels
                image = np.vstack((image, convert_labelmap_to_one_hot(previous[:], labels, output_dtype=image.dtype)))
            outputs = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(image))).cpu()
            found[name] = predictor.landmarks_of(outputs, properties)
        self.set_deep_supervision_enabled(self.enable_deep_supervision)

        names = self.landmark_head.names
        confidences = np.array([[found[case][name].confidence for name in names] for case in known])
        expected = np.array([states[case] for case in known])
        chosen = [threshold(confidences[:, k], expected[:, k]) for k in range(len(names))]
        write_thresholds(Path(self.output_folder), names, chosen)
        of_others = thresholds_of_others(confidences, expected)
        judged = {
            case: sure_enough(found[case], dict(zip(names, own, strict=True)))
            for case, own in zip(known, of_others, strict=True)
        }
        folder = Path(self.output_folder) / "validation" / FOLDER
        for case, landmarks in judged.items():
            write_markups(folder / f"{case}{MARKUPS}", landmarks)
        # files of a training with other folds may be left in the folder, but the table holds these cases alone
        table = folder.parent / TABLE
        write_table(table, judged)
        preprocessed = Path(self.preprocessed_dataset_folder_base)
        evaluation = evaluate(
            find_landmarks(self.plans_manager.dataset_name, preprocessed),
            table,
            dataset_json=preprocessed / "dataset.json",
            common=True,
        )
        evaluation.write(folder)
        self.print_to_log_file("Landmarks of the validation cases, mm:\n" + evaluation.report())
