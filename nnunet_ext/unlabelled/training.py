"""Mix-in for a trainer with patches of images without labels in its batches.

::

    class nnUNetTrainerMine(UnlabelledData):
        ...  # self.unlabelled(batch) is (U, C, *spatial) or None

Validation, prediction and export do not use these images.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, ClassVar

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_ext.data.channels import images_by_case
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.annotated import segmented_cases
from nnunet_ext.nnunet.loaders import loaders_built_by
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.trainer import Batch, CommonTrainer
from nnunet_ext.splits.files import NAME as SPLITS
from nnunet_ext.splits.files import read_about
from nnunet_ext.unlabelled.found import FOLDER as RAW_FOLDER
from nnunet_ext.unlabelled.loader import as_seen, with_unlabelled
from nnunet_ext.unlabelled.options import UnlabelledOptions
from nnunet_ext.unlabelled.pool import Pool, of_cases, of_folder, others_of_the_split
from nnunet_ext.unlabelled.prepared import prepared_folder, read_prepared, recipe
from nnunet_ext.unlabelled.turns import Turn, draw_turn


class UnlabelledData(CommonTrainer):
    """Mix-in for batches with patches without labels, chosen by :class:`UnlabelledOptions`."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (UnlabelledOptions,)

    needs_unlabelled: ClassVar[bool] = False
    """Whether to refuse a training without such images; if not, it uses labelled cases only."""

    validated: frozenset[str] = frozenset()
    """Cases that validate and are not trained on."""

    draws_unlabelled: bool = False
    """Whether batches have patches without labels; known when the loaders are built."""

    without_masks: tuple[str, ...] = ()
    """Training cases in which nothing is drawn, if these are the images without labels."""

    def unlabelled(self, batch: Batch) -> Tensor | None:
        """Return the patches without labels as the network sees them, ``(U, C, *spatial)``; None without any."""
        return as_seen(batch, self.num_input_channels)

    def draw_turns(self, patches: Tensor) -> list[Turn]:
        """Draw one turn for each of ``(U, C, *spatial)``, with flips along the axes along which nnU-Net mirrors."""
        axes = self.inference_allowed_mirroring_axes or ()
        return [draw_turn(patches.shape[2:], axes) for _ in patches]

    @property
    def unlabelled_patches(self) -> int:
        """Number of patches without labels in a batch of this process."""
        return max(1, round(self.options.unlabelled.per_labelled * self.batch_size))

    def unlabelled_pool(self) -> Pool:
        """Choose the images of this fold; called after the training and validation cases are known.

        Raises:
            InputError: no image may be used.
        """
        options, base = self.options.unlabelled, Path(self.preprocessed_dataset_folder_base)
        folder, held, transductive = Path(self.preprocessed_dataset_folder), self.validated, options.transductive
        splits = base / SPLITS
        about = read_about(splits) if splits.is_file() else None
        if options.images == "others-of-the-split":
            trained, cases = self.training_data.identifiers, sorted(self.dataset_class.get_identifiers(str(folder)))
            pool = others_of_the_split(folder, cases, trained, held, about, transductive=transductive)
        elif options.images == "cases-without-masks":
            source = "training cases in which nothing is drawn"
            pool = of_cases(folder, self.without_masks, source, held, about, transductive=transductive)
            if not pool.files:
                raise InputError(
                    f"All {len(self.without_masks)} training cases without masks show subjects that validate fold "
                    f"{self.fold}; write folds by subject (nnunet-ext splits), or set unlabelled.images to none."
                )
        else:
            notes = self._prepared()
            pool = of_folder(self._prepared_folder, notes, held, about, transductive=transductive)
            if not pool.files:
                raise InputError(
                    f"All {len(notes)} images without labels in {self._prepared_folder} show subjects that validate "
                    f"fold {self.fold}; add others, or set the option unlabelled.images to none."
                )
        if missing := [name for name, path in pool.files.items() if not path.with_name(f"{name}.b2nd").is_file()]:
            raise InputError(
                f"{len(missing)} preprocessed images, such as {missing[0]}, are in an old format without .b2nd files; "
                "preprocess the data set again with nnU-Net 2.8 or newer."
            )
        return pool

    # -- nnU-Net's hooks -----------------------------------------------------------------------------------------

    def do_split(self) -> tuple[list[str], list[str]]:
        """Split like nnU-Net; cases without masks are no labelled cases where they are the images without labels."""
        training, validation = super().do_split()
        if self.options.unlabelled.images != "cases-without-masks":
            return training, validation
        assert self.dataset_class is not None  # nnU-Net's own do_split sets it
        cases = self.dataset_class(self.preprocessed_dataset_folder, training)
        drawn = segmented_cases(cases, training, self.dataset_json)
        self.without_masks = tuple(sorted({*training} - {*drawn}))
        if not drawn or not self.without_masks:
            raise InputError(
                "The option unlabelled.images is cases-without-masks, which needs cases with a mask and cases in which "
                f"every voxel has the ignore label, but {len(drawn)} of the {len(training)} training cases of fold "
                f"{self.fold} have a mask; choose another fold, or set the option to folder or none."
            )
        self.print_to_log_file(f"Labelled cases: {len(drawn)} of {len(training)}; in the others nothing is drawn")
        return drawn, validation

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        training, validation = super().get_tr_and_val_datasets()
        # in fold all the cases without masks are in both
        self.validated = frozenset(validation.identifiers) - {*training.identifiers, *self.without_masks}
        return training, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        if self.is_cascaded and self.options.unlabelled.images == "folder" and not self.needs_unlabelled:
            self.print_to_log_file(
                f"{self.configuration_name} needs the prediction of the previous stage for every image, which images "
                "without labels do not have, so labelled cases alone are trained on"
            )
            return super().get_dataloaders()
        self.draws_unlabelled = self._wanted()
        if not self.draws_unlabelled:
            if self.needs_unlabelled:
                raise InputError(
                    f"{type(self).__name__} learns from images without labels, but there are none; put them into "
                    f"{RAW_FOLDER} of the raw data set and run: {self._command()}, or set the option unlabelled.images "
                    "to others-of-the-split."
                )
            self.print_to_log_file("Images without labels: none, so labelled cases alone are trained on")
            return super().get_dataloaders()
        if self.is_cascaded:
            raise InputError(
                f"{self.configuration_name} needs the prediction of the previous stage for every image, which images "
                "without labels do not have; set the option unlabelled.images to none."
            )
        if type(self).run_network is not CommonTrainer.run_network:
            raise InputError(
                f"{type(self).__name__} gives its network more than the image, such as clicks at labels, which images "
                "without labels do not have; set the option unlabelled.images to none."
            )
        with loaders_built_by(nnUNetDataLoader, "images without labels", training=self._with_unlabelled):
            return super().get_dataloaders()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _wanted(self) -> bool:
        """Whether there are images to draw from.

        Raises:
            InputError: there are images, but they are not preprocessed.
        """
        source = self.options.unlabelled.images
        if source != "folder":
            return source != "none"
        raw = Path(os.environ.get("nnUNet_raw", ".")) / self.plans_manager.dataset_name / RAW_FOLDER
        there = images_by_case(raw, self.dataset_json["file_ending"]) if raw.is_dir() else {}
        if notes := self._prepared():
            if missing := sorted(there.keys() - notes.keys()):
                self.print_to_log_file(
                    f"WARNING: {len(missing)} of {raw}, such as {missing[0]}, are not preprocessed and not used; "
                    f"to use them, run: {self._command()}."
                )
            return True
        if there:
            raise InputError(
                f"{raw} holds images without labels, but they are not preprocessed for this training; run: "
                f"{self._command()}, or set the option unlabelled.images to none."
            )
        if other := min(self._prepared_folder.parent.glob("*/*.pkl"), default=None):
            sources = {Path(note.sources[0][0]).parent for note in read_prepared(other.parent).values()}
            images = [f"--images {shlex.quote(str(place))}" for place in sorted(sources) if place.is_dir()]
            commands = " and ".join(f"{self._command()} {place}" for place in images)
            advice = f"run: {commands}" if commands else f"run: {self._command()} --images FOLDER"
            raise InputError(
                f"Images without labels are preprocessed in {other.parent}, but not for this training; {advice}, or "
                "set the option unlabelled.images to none."
            )
        return False

    @property
    def _prepared_folder(self) -> Path:
        base = Path(self.preprocessed_dataset_folder_base)
        return prepared_folder(base, self.configuration_manager.data_identifier)

    def _prepared(self) -> dict[str, Any]:
        """Read the notes of all preprocessed images without labels.

        Raises:
            InputError: they were preprocessed for other plans.
        """
        notes = read_prepared(self._prepared_folder)
        own = recipe(self.plans_manager.plans, self.configuration_name)
        if other := [name for name, note in notes.items() if note.recipe != own]:
            raise InputError(
                f"{len(other)} of {len(notes)} images in {self._prepared_folder}, such as {other[0]}, were "
                f"preprocessed for other plans than {self.plans_manager.plans_name}; run: {self._command()}."
            )
        return notes

    def _command(self) -> str:
        name, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        return f"nnunet-ext unlabelled {name} -p {plans} -c {self.configuration_name}"

    def _with_unlabelled(self, *args: Any, **kwargs: Any) -> nnUNetDataLoader:
        pool, count = self.unlabelled_pool(), self.unlabelled_patches
        for sentence in pool.sentences():
            self.print_to_log_file(sentence)
        self.print_to_log_file(f"A batch has {count} patches without labels beside {self.batch_size} labelled ones")
        masked = [i for i, used in enumerate(self.configuration_manager.use_mask_for_norm) if used]
        return with_unlabelled(pool.files, count, masked, *args, **kwargs)
