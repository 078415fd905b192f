"""Mix-in for a trainer that learns from landmarks: its batches hold them, and nothing else changes.

::

    class nnUNetTrainerMine(LandmarkData):
        ...  # batch["landmarks"], batch["landmark_states"], batch["segmented"] and more are there

``loader`` describes the contents of a batch, ``cases`` the source of the landmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.dataset import Declaration
from nnunet_ext.landmarks.mirroring import Mirroring, allowed_mirror_axes, without_unpaired
from nnunet_ext.landmarks.training.augmentation import with_keypoints
from nnunet_ext.landmarks.training.cases import (
    DatasetWithLandmarks,
    LandmarkCase,
    by_annotation,
    find_landmarks,
    keep_copy,
    not_validated,
    outside_of_crop,
    read_cases,
    write_stratified_folds,
)
from nnunet_ext.landmarks.training.loader import landmark_loaders
from nnunet_ext.nnunet.annotated import KEY as ANNOTATED
from nnunet_ext.nnunet.plans import remember
from nnunet_ext.nnunet.trainer import CommonTrainer
from nnunet_ext.partial_labels.cases import AnnotatedHeads
from nnunet_ext.partial_labels.declaration import annotated_labels
from nnunet_ext.splits.files import NAME as SPLITS

SECTION = "landmarks"
"""Section of our settings in the plans."""


class LandmarkData(CommonTrainer):
    """A trainer whose batches hold landmarks.

    Attributes:
        landmark_declaration: the block ``landmarks`` of ``dataset.json``.
    """

    declares: ClassVar[tuple[str, ...]] = (SECTION, ANNOTATED)

    landmark_scale: ClassVar[float | None] = None
    """The network's outputs for landmarks are probabilities times this number; None: they are logits."""

    def to_remember(
        self, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
    ) -> dict[str, Mapping[str, Any]]:
        where = f"dataset.json of {plans['dataset_name']}"
        self.landmark_declaration = Declaration.from_dataset_json(dataset_json, where)
        # which landmarks a flip exchanges depends on the images, so it is added with the data loaders
        settings = self.landmark_settings(Mirroring())
        return {**super().to_remember(plans, configuration, dataset_json), SECTION: settings}

    def landmark_settings(self, mirroring: Mirroring) -> dict[str, Any]:
        """Settings of the landmarks that a predictor needs and that the weights do not show."""
        return {
            "names": list(self.landmark_declaration.names),
            "scale": self.landmark_scale,
            "orders": {str(axis): list(order) for axis, order in mirroring.orders.items()},
        }

    @property
    def shares(self) -> Mapping[str, float]:
        """Arguments of :func:`.loader.landmark_loaders`, by name; its defaults if empty."""
        return {}

    def organs_of_landmarks(self) -> list[list[tuple[int, ...]]]:
        """Output channels of each organ on whose surface a landmark lies, landmark by landmark."""
        heads = AnnotatedHeads.from_dataset_json(self.dataset_json, has_regions=self.labels.has_regions).names
        declared = self.landmark_declaration
        return [[(heads.index(organ),) for organ in declared.surface_of.get(name, ())] for name in declared.names]

    @cached_property
    def landmark_cases(self) -> dict[str, LandmarkCase]:
        """All preprocessed cases by name; read when first needed, at the start of training or validation."""
        preprocessed = Path(self.preprocessed_dataset_folder_base)
        source = find_landmarks(self.plans_manager.dataset_name, preprocessed)
        dataset_class = self.dataset_class or infer_dataset_class(self.preprocessed_dataset_folder)
        dataset = dataset_class(self.preprocessed_dataset_folder)
        names = self.landmark_declaration.names
        cases = read_cases(dataset, source, names, self.plans_manager.plans, annotated_labels(self.dataset_json))
        counts = {kind.value: len(found) for kind, found in by_annotation(cases).items() if found}
        self.print_to_log_file(f"{len(names)} landmarks from {source}; annotated cases: {counts}")
        for sentence in (keep_copy(source, preprocessed) if self.local_rank == 0 else None, outside_of_crop(cases)):
            if sentence:
                self.print_to_log_file(sentence)
        return cases

    @cached_property
    def landmark_mirroring(self) -> Mirroring:
        """Flips that the landmarks allow and the landmarks that they exchange; ``--val`` alone needs them, too."""
        dim, cases = len(self.configuration_manager.patch_size), self.landmark_cases.values()
        matrices, transposed = [case.matrix for case in cases], self.plans_manager.transpose_forward
        allowed = allowed_mirror_axes(self.landmark_declaration, matrices, transposed, range(dim), dim)
        in_plane = self.configuration_manager.spacing[-2:]
        points_mm = [case.keypoints.voxels * [case.slice_mm, *in_plane] for case in cases]
        return without_unpaired(allowed, self.landmark_declaration, points_mm, dim)

    # -- nnU-Net's hooks -----------------------------------------------------------------------------------------

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, Any]:  # noqa: N802
        rotation, dummy_2d, patch_size, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        remember(
            self.plans_manager.plans, self.configuration_name, SECTION, self.landmark_settings(self.landmark_mirroring)
        )
        if self.landmark_mirroring.why_not:
            self.print_to_log_file(self.landmark_mirroring.why_not)
        # None, not (), because nnU-Net's predictor takes the maximum of the axes
        axes = tuple(axis for axis in axes or () if axis in self.landmark_mirroring.axes) or None
        self.inference_allowed_mirroring_axes = axes
        return rotation, dummy_2d, patch_size, axes

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        return with_keypoints(super().get_training_transforms(*args, **kwargs), self.landmark_mirroring)

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> Any:
        return with_keypoints(super().get_validation_transforms(*args, **kwargs))

    def do_split(self) -> tuple[list[str], list[str]]:
        """Split like nnU-Net; without a file of folds, the new folds all validate on every kind of case."""
        path = Path(self.preprocessed_dataset_folder_base) / SPLITS
        if self.fold != "all" and not path.is_file():
            write_stratified_folds(path, by_annotation(self.landmark_cases))
            self.print_to_log_file(f"Folds by annotation: {path}")
        training, validation = super().do_split()
        if unknown := sorted({*training, *validation} - set(self.landmark_cases)):
            raise InputError(
                f"{path} names {len(unknown)} cases that are not preprocessed, such as {unknown[0]}; preprocess them "
                "with nnUNetv2_preprocess, or correct the file."
            )
        judged = by_annotation(self.landmark_cases, validation)
        if sentence := not_validated(judged, by_annotation(self.landmark_cases, training)):
            self.print_to_log_file(sentence)
        return training, validation

    def get_tr_and_val_datasets(self) -> tuple[DatasetWithLandmarks, DatasetWithLandmarks]:
        size = self.configuration_manager.patch_size
        training, validation = super().get_tr_and_val_datasets()
        return (
            DatasetWithLandmarks(training, self.landmark_cases, size),
            DatasetWithLandmarks(validation, self.landmark_cases, size),
        )

    def get_dataloaders(self) -> tuple[Any, Any]:
        with landmark_loaders(**self.shares):
            return super().get_dataloaders()
