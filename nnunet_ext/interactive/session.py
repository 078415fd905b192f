"""An interactive session: an image, a model, a label map, and a user's drawings that correct it.

Names and semantics are those of nnInteractive's ``nnInteractiveInferenceSession``, so that its programs can use this
class. Two things differ. All classes are segmented at once into one label map, so prompts have a label
(:meth:`S2VSession.set_active_label`, or ``label=`` of a prompt), and "not this" (``include_interaction=False``) is a
prompt for the background. And there is an automatic result, :meth:`S2VSession.predict_automatic`, from which a first
prompt starts.

Positions are continuous, in voxels of the given image; 0 is the centre of the first voxel. The result depends only on
the image and the calls since: the same calls give the same bytes, on the same machine.

A drawn voxel keeps its label until a newer prompt is drawn over it. Elsewhere a prompt changes a voxel only if the
network's answer becomes the label of the prompt (``provenance``). Structures can be locked and slices accepted.

A session may be used from any thread, but only from one at a time. ``drawing`` checks a prompt's voxels, ``strokes``
finds those that it decides by itself, ``marks`` turns it into input of the network, ``propagation`` computes slices
again, and ``correction`` makes the label map.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nnunet_ext.data.label_definitions import declared_labels
from nnunet_ext.devices import require_device
from nnunet_ext.discovery import register
from nnunet_ext.errors import InputError
from nnunet_ext.interactive.correction import Correction, Progress, State, shown
from nnunet_ext.interactive.drawing import Box, as_array, box_voxels, checked_box, filled, mask_voxels, point_voxels
from nnunet_ext.interactive.marks import Mark, marks_of
from nnunet_ext.interactive.saved import checksum, read_session, write_session
from nnunet_ext.interactive.strokes import CLICK_RADIUS, Stroke, around_box, disc, in_slices
from nnunet_ext.nnunet.models import folds_with, require_openable, trained_folds
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.sliced_case import SlicedCase
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.predictor import S2VPredictor

NO_ZOOM = "do_autozoom is True, but a session segments whole slices and never zooms; leave it out, or set it to False."

BOX_WEIGHT = 0.5
"""Weight of a box; it is lower than 1, because a box contains more than the object."""


class S2VSession:
    """Interactive session for one image at a time; see the module's docstring.

    Args:
        device: device of the network; by default a GPU if there is one.
        use_torch_compile: nnInteractive's option; True is refused, because nothing is compiled here.
        do_autozoom: nnInteractive's option; True is refused, because whole slices are segmented here.
        verbose: print the changes.
        torch_n_threads: number of PyTorch's threads on the CPU during predictions; by default PyTorch's own number.
        propagation: if False, a prompt changes only its own slice; for comparison.
        early_stop: if False, a prompt is followed to the ends of the volume.
        cache_bytes: size of the cache of features. Features beyond it are computed again, with the same result.
        undo_limit: largest number of calls that can be undone.
        click_radius: radius of the disc in a slice that certainly gets the label of a click, in voxels of the finer
            axis; by default 0, the clicked voxel alone.
        progress: callback for the progress of a prediction; it may be replaced at any time.

    Raises:
        InputError: there is no such device, or an option is not available here.
    """

    def __init__(
        self,
        device: torch.device | str | None = None,
        use_torch_compile: bool = False,
        verbose: bool = False,
        torch_n_threads: int | None = None,
        do_autozoom: bool = False,
        *,
        propagation: bool = True,
        early_stop: bool = True,
        cache_bytes: int = 2 * 2**30,
        undo_limit: int = 100,
        click_radius: float = CLICK_RADIUS,
        progress: Progress | None = None,
    ) -> None:
        if use_torch_compile:
            raise InputError("use_torch_compile is True, but a session compiles nothing; leave it out.")
        if do_autozoom:
            raise InputError(NO_ZOOM)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        require_device(self.device.type, "-device")
        self.verbose = verbose
        self.threads = torch_n_threads
        self.propagation = propagation
        self.early_stop = early_stop
        self.cache_bytes = cache_bytes
        self.progress = progress
        self.click_radius = click_radius
        self._model: S2VPredictor | None = None
        self._image: tuple[Correction, NDArray] | None = None
        self._active = 1
        self._state = State()
        self._history: deque[State] = deque(maxlen=undo_limit)
        self._undone: list[State] = []
        self._checksum: dict[str, str] | None = None

    # -- model and image -------------------------------------------------------------------------------------------

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_folds: int | str | Sequence[int | str] | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model that was trained with ``nnUNetTrainerS2VNet``, and forget the image.

        Args:
            model_training_output_dir: folder with ``plans.json`` and ``fold_…``.
            use_folds: one fold; by default ``all`` if it was trained, else the first trained one.
            checkpoint_name: file in the folder of the fold.

        Raises:
            InputError: there is no such model, it is no model of S2VNet, or several folds are requested.
        """
        folder = Path(model_training_output_dir)
        fold = _fold(folder, use_folds, checkpoint_name)
        register()  # nnU-Net looks for the trainer of the checkpoint
        predictor = S2VPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=self.device, allow_tqdm=False
        )
        require_openable(folder, [fold], checkpoint_name)
        predictor.initialize_from_trained_model_folder(str(folder), (fold,), checkpoint_name)
        self.initialize_from_predictor(predictor)

    def initialize_from_predictor(self, predictor: S2VPredictor) -> None:
        """Use the network of a predictor, and forget the image.

        Warns UserWarning if the network was trained without clicks.

        Raises:
            InputError: it is not an S2VNet.
        """
        network = unwrap(predictor.network)
        if not isinstance(network, S2VNet):
            raise InputError(
                f"The predictor holds a {type(network).__name__}, but a session needs an S2VNet; train with "
                "nnUNetTrainerS2VNet."
            )
        if network.options.interactive == 0:
            warnings.warn(
                "The model was trained without clicks (s2vnet.interactive = 0), so points, boxes, scribbles and "
                "initial segmentations mean nothing to it; only the automatic result and the brush do.",
                UserWarning,
                stacklevel=2,
            )
        network.to(self.device).eval()
        self._model, self._image = predictor, None
        self._forget()
        self._active = next((value for value in self.labels.values() if value), 0)

    @property
    def model(self) -> S2VPredictor:
        """The predictor with the network, its plans and its labels.

        Raises:
            InputError: no model is loaded.
        """
        if self._model is None:
            raise InputError("No model is loaded; call initialize_from_trained_model_folder first.")
        return self._model

    @property
    def labels(self) -> dict[str, int]:
        """Values of the labels of prompts, by name; a label without a name of its own is called ``label 2``."""
        declared = declared_labels(self.model.dataset_json)
        names = {value: name for name, value in declared.items() if isinstance(value, int)}
        return {names.get(value, f"label {value}"): int(value) for value in self.model.label_manager.all_labels}

    def set_image(self, image: ArrayLike | Tensor, image_properties: Mapping[str, Any] | None = None) -> None:
        """Preprocess an image, and forget the previous one with its prompts and its buffer.

        Args:
            image: ``(C, z, y, x)``, as nnU-Net's readers return it.
            image_properties: a mapping with ``"spacing"``, mm of z, y and x.

        Raises:
            InputError: there is no model, or the image does not fit it.
        """
        self._use(SlicedCase.from_array(as_array(image), image_properties or {}, self.model))

    def set_image_from_files(self, files: Sequence[str | Path]) -> None:
        """Read one file per channel, then continue like :meth:`set_image`; afterwards :meth:`write` works.

        Raises:
            InputError: there is no model, or the files cannot be read or do not fit it.
        """
        self._use(SlicedCase.from_files(files, self.model))

    def _use(self, case: SlicedCase) -> None:
        network = unwrap(self.model.network)
        assert isinstance(network, S2VNet)
        correction = Correction(
            case,
            network,
            propagates=self.propagation,
            early_stop=self.early_stop,
            cache_bytes=self.cache_bytes,
            threads=self.threads,
        )
        self._image, self._checksum = (correction, np.zeros(case.shape, case.label_type)), None
        self._forget()

    @property
    def case(self) -> SlicedCase:
        """The image.

        Raises:
            InputError: no image is set.
        """
        return self._require_image()[0].case

    def set_target_buffer(self, target_buffer: NDArray | Tensor) -> None:
        """Set the label map that results are written into from now on; the present result is written at once.

        Args:
            target_buffer: integers with the shape of the image without channels; an array, or a tensor on the CPU.

        Raises:
            InputError: there is no image, or the buffer cannot hold its labels.
        """
        correction, _ = self._require_image()
        if isinstance(target_buffer, Tensor) and target_buffer.device.type != "cpu":
            raise InputError(f"The target buffer is on {target_buffer.device}; give a tensor on the CPU, or an array.")
        buffer, shape, highest = as_array(target_buffer), correction.case.shape, max(self.labels.values())
        if buffer.shape != shape:
            raise InputError(f"The target buffer has shape {buffer.shape}, but the image {shape}; make it the same.")
        if not np.issubdtype(buffer.dtype, np.integer) or np.iinfo(buffer.dtype).max < highest:
            raise InputError(
                f"The target buffer is of type {buffer.dtype}, which cannot hold labels up to {highest}; use uint8 or "
                "uint16."
            )
        if not buffer.flags.writeable:
            raise InputError("The target buffer is read-only; give a writeable copy.")
        self._image = correction, buffer
        buffer[...] = 0
        correction.write(State(), self._state, buffer)

    @property
    def target_buffer(self) -> NDArray:
        """The label map ``(z, y, x)``: the buffer of :meth:`set_target_buffer`, or the session's own.

        Raises:
            InputError: there is no image.
        """
        return self._require_image()[1]

    def write(self, file: str | Path) -> None:
        """Write the label map with the geometry of the image.

        Raises:
            InputError: there is no image or no result yet, the image came from no file, or the file cannot be written.
        """
        self._require_shown()
        self.case.write(self.target_buffer, file)

    def save(self, file: str | Path, notes: Any = None) -> None:
        """Save the session as one file: all prompts, label map, provenance and locks, but not the undo history.

        Args:
            file: file to write, as a whole or not at all.
            notes: any JSON value; :func:`nnunet_ext.interactive.saved.read_notes` returns it.

        Raises:
            InputError: there is no image, or the folder of the file does not exist.
        """
        correction, _ = self._require_image()
        write_session(file, self._state, self._active, self._belongs(correction), notes)

    def restore(self, file: str | Path) -> Box | None:
        """Continue a saved session with the same image; the undo history starts empty.

        Returns:
            Box of the changes in the label map, half-open ranges of voxels; None if nothing changed.

        Raises:
            InputError: there is no image, or the file cannot be read or belongs to another image or model. The session
                does not change.
        """
        correction, buffer = self._require_image()
        state, active = read_session(file, self._belongs(correction), correction.shape, self.device)
        before, self._state, self._active = self._state, state, active
        self._history.clear()
        self._undone.clear()
        return correction.write(before, state, buffer)

    # -- prompts ---------------------------------------------------------------------------------------------------

    def set_active_label(self, label: int | str) -> None:
        """Set the label of prompts that name none, by value or name; initially the first foreground label.

        Raises:
            InputError: there is no model, or it has no such label.
        """
        self._active = self._value_of(label)

    @property
    def active_label(self) -> int:
        """Value of the label of prompts that name none."""
        return self._active

    def add_point_interaction(
        self,
        coordinates: Sequence[float],
        include_interaction: bool = True,
        run_prediction: bool = True,
        *,
        label: int | str | None = None,
        override_capability_checks: bool = False,
    ) -> Box | None:
        """Add a click.

        Args:
            coordinates: ``z, y, x`` in voxels; fractions count within slices.
            include_interaction: if False, the click means background.
            run_prediction: if False, the click waits for the next prompt or for :meth:`predict`; use this for prompts
                of several labels.
            label: label of the click instead of the active one.
            override_capability_checks: nnInteractive's option; without effect.

        Returns:
            Box of the changes in the label map, half-open ranges of voxels; None if nothing changed.

        Raises:
            InputError: there is no image or no such label, or the point is outside the image. The session does not
                change.
        """
        value, case = self._label(label, include_interaction), self.case
        point = point_voxels(coordinates, case.shape)
        (centre,) = in_slices(point, case.grid, case.shape)
        _, *in_plane = case.grid.transpose
        voxels = disc(centre, self.click_radius, case.in_plane, [case.shape[axis] for axis in in_plane])
        return self._add(point, Stroke(value, voxels), run_prediction)

    def add_scribble_interaction(
        self,
        scribble_image: ArrayLike | Tensor,
        include_interaction: bool = True,
        run_prediction: bool = True,
        *,
        interaction_bbox: Sequence[Sequence[int]] | None = None,
        label: int | str | None = None,
        override_capability_checks: bool = False,
    ) -> Box | None:
        """Add a scribble: voxels that a user painted, on one slice or several.

        Args:
            scribble_image: mask with the shape of the image, or of ``interaction_bbox``.
            interaction_bbox: place of the mask, half-open ranges of voxels.
            include_interaction: as for a point.
            run_prediction: as for a point.
            label: as for a point.
            override_capability_checks: as for a point.

        Returns:
            As for a point.

        Raises:
            InputError: as for a point, or the mask is empty or has another shape.
        """
        value, shape = self._label(label, include_interaction), self.case.shape
        voxels = mask_voxels(scribble_image, shape, interaction_bbox, "scribble")
        return self._add(voxels, Stroke(value, in_slices(voxels, self.case.grid, shape)), run_prediction)

    def add_lasso_interaction(
        self,
        lasso_image: ArrayLike | Tensor,
        include_interaction: bool = True,
        run_prediction: bool = True,
        *,
        interaction_bbox: Sequence[Sequence[int]] | None = None,
        label: int | str | None = None,
        override_capability_checks: bool = False,
    ) -> Box | None:
        """Add a lasso: the outline of an object in one plane, which is filled, or its inside.

        Args:
            lasso_image: mask with the shape of the image, or of ``interaction_bbox``.
            interaction_bbox: place of the mask, half-open ranges of voxels.
            include_interaction: as for a point.
            run_prediction: as for a point.
            label: as for a point.
            override_capability_checks: as for a point.

        Returns:
            As for a point.

        Raises:
            InputError: as for a scribble, or the lasso does not lie in one plane.
        """
        value, shape = self._label(label, include_interaction), self.case.shape
        voxels = filled(mask_voxels(lasso_image, shape, interaction_bbox, "lasso"))
        return self._add(voxels, Stroke(value, in_slices(voxels, self.case.grid, shape)), run_prediction)

    def add_bbox_interaction(
        self,
        bbox_coords: Sequence[Sequence[int]],
        include_interaction: bool = True,
        run_prediction: bool = True,
        *,
        label: int | str | None = None,
        override_capability_checks: bool = False,
    ) -> Box | None:
        """Add a box around an object, in one plane or in all three dimensions.

        Args:
            bbox_coords: ``[[z0, z1], [y0, y1], [x0, x1]]``, half-open. If a range is one voxel wide, the box is about
                that plane only.
            include_interaction: as for a point.
            run_prediction: as for a point.
            label: as for a point.
            override_capability_checks: as for a point.

        Returns:
            As for a point.

        Raises:
            InputError: as for a point, or the box is empty or not inside the image.
        """
        value, case = self._label(label, include_interaction), self.case
        voxels = box_voxels(bbox_coords, case.shape)
        if value:
            outside = around_box(checked_box(bbox_coords, case.shape), case.shape, case.slice_axis)
            stroke = Stroke(value, around=in_slices(outside, case.grid, case.shape))
        else:
            stroke = Stroke(value, in_slices(voxels, case.grid, case.shape))
        return self._add(voxels, stroke, run_prediction, BOX_WEIGHT, False)

    def add_brush_interaction(
        self,
        brush_image: ArrayLike | Tensor,
        include_interaction: bool = True,
        *,
        interaction_bbox: Sequence[Sequence[int]] | None = None,
        label: int | str | None = None,
    ) -> Box | None:
        """Add a brush or an eraser: give voxels a label and change nothing else.

        The network does not see a brush, so it takes no time. Locked voxels under it stay.

        Args:
            brush_image: mask with the shape of the image, or of ``interaction_bbox``.
            include_interaction: if False, the brush is an eraser, which leaves background.
            interaction_bbox: place of the mask, half-open ranges of voxels.
            label: label of the brush instead of the active one.

        Returns:
            As for a point.

        Raises:
            InputError: as for a scribble, or a slice is accepted, or everything under the brush is locked.
        """
        value, case = self._label(label, include_interaction), self.case
        voxels = mask_voxels(brush_image, case.shape, interaction_bbox, "brush")
        stroke = Stroke(value, in_slices(voxels, case.grid, case.shape))
        correction, _ = self._require_image()
        return self._become(correction.painted(self._state, self._unlocked(stroke), self.progress))

    def add_initial_seg_interaction(
        self, initial_seg: ArrayLike | Tensor, run_prediction: bool = False, *, override_capability_checks: bool = False
    ) -> Box | None:
        """Start from a label map of all labels; earlier prompts are forgotten.

        Every label of every slice becomes a prompt, which later prompts supersede. Without ``run_prediction`` the given
        label map is shown unchanged; later prompts change only drawn voxels, and voxels for which they change the
        network's answer. Locked voxels stay.

        Args:
            initial_seg: label map with the shape of the image.
            run_prediction: show the network's answer to the label map.
            override_capability_checks: nnInteractive's option; without effect.

        Returns:
            As for a point.

        Raises:
            InputError: there is no image, or the label map has another shape or unknown labels.
        """
        correction, _ = self._require_image()
        given, shape, values = as_array(initial_seg), correction.case.shape, list(self.labels.values())
        if given.shape != shape:
            raise InputError(
                f"The initial segmentation has shape {given.shape}, but the image {shape}; resample it to the image."
            )
        if unknown := sorted(set(np.unique(given).tolist()) - set(values)):
            raise InputError(
                f"The initial segmentation holds {unknown[:5]}, but the model knows {self._known_labels()}."
            )
        state = correction.of_label_map(given, values, not run_prediction, self.progress)
        return self._become(state.protecting(self._state))

    def predict(self) -> Box | None:
        """Segment with the waiting prompts, which were added with ``run_prediction=False``.

        Returns:
            As for a point.

        Raises:
            InputError: there is no image.
        """
        state = self._require_image()[0].predicted(self._state, self.progress)
        return None if state is self._state else self._become(state)

    def predict_automatic(self) -> Box | None:
        """Segment without prompts; earlier prompts are forgotten, and locked voxels stay.

        Returns:
            As for a point.

        Raises:
            InputError: there is no image.
        """
        return self._become(self._require_image()[0].automatic(self.progress).protecting(self._state))

    def undo(self) -> Box | None:
        """Undo the last prompt, initial segmentation or prediction; the label map is exactly as before.

        Returns:
            As for a point; None also if there is nothing to undo, see :attr:`undo_steps`.

        Raises:
            InputError: there is no image.
        """
        return self._go_to_last(self._history, self._undone)

    def redo(self) -> Box | None:
        """Redo the last undone call exactly; any other call in between makes that impossible.

        Returns:
            As for a point; None also if there is nothing to redo, see :attr:`redo_steps`.

        Raises:
            InputError: there is no image.
        """
        return self._go_to_last(self._undone, self._history)

    @property
    def has_result(self) -> bool:
        """Whether the label map is a result; before the first one, and after a reset, it is all background."""
        return self._state.sheets is not None

    @property
    def waiting(self) -> int:
        """Number of prompts that the label map does not show in full yet; :meth:`predict` does that."""
        return len(self._state.waiting)

    @property
    def undo_steps(self) -> int:
        """Number of calls that can be undone."""
        return len(self._history)

    @property
    def redo_steps(self) -> int:
        """Number of undone calls that can be redone."""
        return len(self._undone)

    def lock_structure(self, label: int | str, locked: bool = True) -> None:
        """Protect a structure: none of its voxels changes, and drawing it or over it is refused.

        Args:
            label: value or name of the structure, not the background.
            locked: if False, end the protection.

        Raises:
            InputError: there is no image, no such label or no label map yet, or prompts are waiting.
        """
        value = self._label(label, True)
        if not value:
            raise InputError("The background cannot be locked; lock structures.")
        state = self._protectable() if locked else self._require_shown()
        self._become(replace(state, locked=state.locked | {value} if locked else state.locked - {value}))

    def accept_slice(self, index: int, accepted: bool = True) -> None:
        """Protect a slice: nothing on it changes, and drawing on it is refused.

        Args:
            index: index along the axis across the slices, see :attr:`SlicedCase.slice_axis`.
            accepted: if False, end the protection.

        Raises:
            InputError: there is no image, no such slice or no label map yet, or prompts are waiting.
        """
        depth = self._require_image()[0].shape[0]
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < depth:
            raise InputError(f"There is no slice {index!r}; the image has slices 0 to {depth - 1}.")
        state, one = self._protectable() if accepted else self._require_shown(), {int(index)}
        self._become(replace(state, accepted=state.accepted | one if accepted else state.accepted - one))

    @property
    def locked_structures(self) -> list[int]:
        """Values of the locked labels, ascending."""
        return sorted(self._state.locked)

    @property
    def accepted_slices(self) -> list[int]:
        """Indices of the accepted slices, ascending."""
        return sorted(self._state.accepted)

    @property
    def provenance(self) -> NDArray[np.uint8]:
        """Origin of every voxel's label, ``(z, y, x)``: values of :class:`nnunet_ext.interactive.provenance.Origin`.

        Raises:
            InputError: there is no image.
        """
        return self._require_image()[0].origins(self._state)

    def reset_interactions(self) -> None:
        """Forget all prompts, locks and the undo history; the label map becomes background.

        Raises:
            InputError: there is no image.
        """
        self._require_image()
        self._forget()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _require_image(self) -> tuple[Correction, NDArray]:
        if self._image is None:
            self.model  # noqa: B018 (a missing model is reported first)
            raise InputError("No image is set; call set_image or set_image_from_files first.")
        return self._image

    def _belongs(self, correction: Correction) -> dict[str, str]:
        if self._checksum is None:
            self._checksum = checksum(correction.case.image, correction.engine.network)
        return self._checksum

    def _require_shown(self) -> State:
        self._require_image()
        if not self.has_result:
            raise InputError(
                "There is no label map yet; get the automatic result first: predict_automatic, or A on the page."
            )
        return self._state

    def _protectable(self) -> State:
        """The state; it must have no waiting prompts, because they could change protected voxels."""
        state = self._require_shown()
        if state.waiting:
            raise InputError(
                f"Not run yet: {len(state.waiting)} of the prompts, which the label map does not show; run or undo "
                "them before something is locked or accepted."
            )
        return state

    def _known_labels(self) -> str:
        return ", ".join(f"{value} ({name})" for name, value in self.labels.items())

    def _value_of(self, label: int | str) -> int:
        known = self.labels
        if isinstance(label, str) and label in known:
            return known[label]
        if isinstance(label, (int, np.integer)) and not isinstance(label, bool) and label in known.values():
            return int(label)
        raise InputError(f"There is no label {label!r}; the model knows {self._known_labels()}.")

    def _label(self, label: int | str | None, include: bool) -> int:
        """The value of a prompt's label."""
        self._require_image()
        value = self._active if label is None else self._value_of(label)
        return value if include else 0

    def _add(
        self, voxels: NDArray, stroke: Stroke, run: bool, weight: float = 1.0, supersedes: bool = True
    ) -> Box | None:
        correction, _ = self._require_image()
        self._require_unlocked(stroke)
        seen = voxels[correction.case.in_crop(voxels)]
        if not len(seen):
            warnings.warn(
                "A prompt lies where the image is empty, which nnU-Net crops away; only what was drawn changes there.",
                stacklevel=3,
            )
        state, case = self._state, correction.case
        index = list(self.labels.values()).index(stroke.label)

        def marks(voxels: NDArray) -> tuple[Mark, ...]:
            pixels = case.to_pixels(voxels)
            pixels[:, 0] = pixels[:, 0].clip(0, case.depth - 1)  # the outer face of the last slice belongs to it
            return marks_of(pixels, index, weight, state.round, supersedes)

        # a box has much around its structure, which must not spread; nor does a prompt that changes nothing
        wrong = seen[:0]
        if supersedes:
            sheets = state.sheets or (correction.automatic(self.progress).sheets if run else None)
            wrong = (
                seen if sheets is None else seen[shown(sheets, in_slices(seen, case.grid, case.shape)) != stroke.label]
            )
        state = state.with_drawn(marks(seen), stroke, marks(wrong))
        return self._become(correction.predicted(state, self.progress) if run else state)

    def _require_unlocked(self, stroke: Stroke) -> None:
        """Raise InputError if a prompt would change locked voxels."""
        held = self._held_under(stroke)
        if held.any():
            name = self._name_of(int(held[held > 0].min()))
            raise InputError(f"The prompt is drawn over {name}, which is locked; unlock it first.")

    def _unlocked(self, stroke: Stroke) -> Stroke:
        """The part of a stroke on voxels that are not locked; raise InputError if there is none."""
        free = self._held_under(stroke) == 0
        if not free.any():
            raise InputError("Everything under the brush is locked; unlock it first.")
        return replace(stroke, voxels=stroke.voxels[free])

    def _held_under(self, stroke: Stroke) -> NDArray[np.int64]:
        """For every voxel of a stroke, the locked label under it, or 0, ``(P,)``.

        Raises:
            InputError: the label of the stroke is locked, or a slice of it is accepted.
        """
        state = self._state
        if stroke.label in state.locked:
            raise InputError(f"{self._name_of(stroke.label)} is locked; unlock it to draw it.")
        held = np.zeros(len(stroke.voxels), np.int64)
        for index in stroke.slices:
            if index in state.accepted:
                raise InputError(f"Slice {index} is accepted; take that back to draw on it.")
            if state.locked and state.sheets is not None:
                here = stroke.voxels[:, 0] == index
                there = shown(state.sheets, stroke.voxels[here])
                held[here] = np.where(np.isin(there, list(state.locked)), there, 0)
        return held

    def _name_of(self, value: int) -> str:
        return next(name for name, own in self.labels.items() if own == value)

    def _become(self, state: State) -> Box | None:
        correction, buffer = self._require_image()
        before, self._state = self._state, state
        self._history.append(before)
        self._undone.clear()
        changed = correction.write(before, state, buffer)
        if self.verbose:
            print(f"changed: {changed}")
        return changed

    def _go_to_last(self, states: MutableSequence[State], others: MutableSequence[State]) -> Box | None:
        """Return to the last of ``states``, keep the present one in ``others``, and return the changed box."""
        correction, buffer = self._require_image()
        if not states:
            return None
        before, self._state = self._state, states.pop()
        others.append(before)
        return correction.write(before, self._state, buffer)

    def _forget(self) -> None:
        self._state = State()
        self._history.clear()
        self._undone.clear()
        if self._image is not None:
            self._image[1][...] = 0


def _fold(folder: Path, wanted: int | str | Sequence[int | str] | None, checkpoint: str) -> int | str:
    """The one fold to use: the requested one, otherwise ``all`` if it was trained, else the first trained one."""
    folds = [wanted] if isinstance(wanted, (int, str)) else list(wanted or [])
    if len(folds) > 1:
        raise InputError(f"A session works with one network, but folds {folds} are asked for; choose one of them.")
    if not folds and "all" in folds_with(folder, [checkpoint]):
        folds = ["all"]
    return trained_folds(folder, folds, checkpoint)[0]
