"""``nnunet-ext landmarks predict``: nnU-Net's sliding window over both heads of a network.

Everything but the landmarks is nnU-Net's own prediction, with its files: preprocessing and export in other processes,
several folds, mirroring. The heatmaps pass through the sliding window as additional channels. They are decoded on the
preprocessed grid with subvoxel precision, and only the points are mapped back to the image. No heatmap is resampled, so
resampling costs no precision.

Heatmaps of several folds and of mirrored patches are averaged as logits, as nnU-Net averages its segmentations.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nnunet_ext.data.channels import images_by_case
from nnunet_ext.data.folders import case_names
from nnunet_ext.data.label_definitions import declared_labels
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing, require_folder
from nnunet_ext.landmarks.dataset import Declaration
from nnunet_ext.landmarks.formats import MARKUPS, TABLE, read_file, write_markups, write_table
from nnunet_ext.landmarks.heatmaps import decode
from nnunet_ext.landmarks.mirroring import Mirroring, unmirror
from nnunet_ext.landmarks.points import Landmark, Landmarks, State, from_arrays
from nnunet_ext.landmarks.surface import nearness
from nnunet_ext.nnunet.models import Prediction
from nnunet_ext.nnunet.plans import extension_settings

FOLDER = "landmarks"

DEFAULT_THRESHOLD = 0.1
"""Threshold of the confidence if validation gives none. Most networks are more confident than this about landmarks that
are present."""

SMOOTHING = 0.75
"""Sigma, as a share of that of heatmaps, with which the heatmap of a landmark on an organ is smoothed before its peak
is sought near the organ's surface. What the network adds to a heatmap is finer than the heatmap, and goes."""

THRESHOLDS = "landmark_thresholds.json"
"""File beside the checkpoints of a fold, with the thresholds from its validation cases."""


@dataclass(frozen=True)
class LandmarkHead:
    """Description of a model's landmarks, stored in its plans beside the weights.

    Attributes:
        names: names of the K landmarks, in the order of the channels.
        scale: outputs are probabilities times this number; None: outputs are logits.
        mirroring: the flips allowed in the training.
        surface_sigma: the heatmap of a landmark is smoothed, and multiplied by a Gaussian of the distance from the
            predicted surface of its organ; its width, in multiples of the configuration's finest spacing. None: it is
            not.
        heatmap_sigma: width of heatmaps, likewise.
    """

    names: tuple[str, ...]
    scale: float | None
    mirroring: Mirroring
    surface_sigma: float | None = None
    heatmap_sigma: float = 4.0

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any], model: str) -> LandmarkHead:
        """Read the description in a model's plans.

        Args:
            configuration: resolved configuration of the plans.
            model: name of the model in messages.

        Raises:
            InputError: the model has no landmarks.
        """
        settings = extension_settings(configuration, "landmarks")
        if not settings:
            raise InputError(
                f"{model} predicts no landmarks; train with nnUNetTrainerBaBLoss or nnUNetTrainerLandmark, or use "
                "nnUNetv2_predict."
            )
        return cls.from_settings(settings)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> LandmarkHead:
        """From what a trainer stores in its plans."""
        orders = settings.get("orders")
        if orders is None:  # of a model from before pairs had directions
            left_right, order = settings.get("left_right"), settings.get("order")
            orders = {} if left_right is None or order is None else {left_right: order}
        mirroring = Mirroring(orders={int(axis): tuple(order) for axis, order in orders.items()})
        widths = {name: settings[name] for name in ("surface_sigma", "heatmap_sigma") if name in settings}
        return cls(tuple(settings["names"]), settings.get("scale"), mirroring, **widths)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Turn outputs of the network, of any shape, into heatmaps from 0 to 1."""
        return outputs.float().sigmoid() if self.scale is None else (outputs.float() / self.scale).clamp(0, 1)


class LandmarkPredictor(nnUNetPredictor):
    """nnU-Net's predictor for networks that also return heatmaps, ``network(x, landmarks=True)``.

    Attributes:
        head: description of the landmarks; the caller sets it unless the predictor loads a model itself.
        thresholds: by landmark, the confidence below which it is absent.
        found: landmarks by case, filled by :meth:`predict_from_files`. Where nnU-Net returns segmentations instead of
            writing them, their number in its order, from 0, stands for the case.
    """

    head: LandmarkHead
    label_manager: Any
    thresholds: Mapping[str, float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: dict[str, dict[str, Landmark]] = {}
        self._case: tuple[int, dict[str, Any]] | None = None

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Any,
        checkpoint_name: str = "checkpoint_final.pth",
        threshold: float | None = None,
        surface_sigma: float | None = None,
    ) -> None:
        """Load a model.

        ``threshold`` applies to all landmarks, instead of the thresholds from validation; ``surface_sigma`` is used
        instead of the model's, 0 for anywhere.

        Raises:
            InputError: the model predicts no landmarks, or it has a ``surface_sigma`` but no landmark on an organ.
        """
        super().initialize_from_trained_model_folder(model_training_output_dir, use_folds, checkpoint_name)
        folder = Path(model_training_output_dir)
        self.head = LandmarkHead.from_configuration(self.configuration_manager.configuration, str(folder))
        if surface_sigma is not None:
            if surface_sigma and not Declaration.from_dataset_json(self.dataset_json).surface_of:
                raise InputError(
                    f"--surface-sigma {surface_sigma:g} is for landmarks on organs, but {folder / 'dataset.json'} has "
                    'no "surface_of" in its "landmarks"; add it, or leave out the flag.'
                )
            self.head = replace(self.head, surface_sigma=surface_sigma or None)
        folds = use_folds or self.auto_detect_available_folds(model_training_output_dir, checkpoint_name)
        folders = [folder / f"fold_{fold}" for fold in ([folds] if isinstance(folds, str) else folds)]
        names = self.head.names
        chosen = read_thresholds(folders, names) if threshold is None else [threshold] * len(names)
        self.thresholds = dict(zip(names, chosen, strict=True))

    # -- both heads through the sliding window ---------------------------------------------------------------------

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        axes = tuple(self.allowed_mirroring_axes or ()) if self.use_mirroring else ()
        total: Tensor | None = None
        flips = [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]
        for flipped in flips:
            dims = [axis + 2 for axis in flipped]
            segmentation, landmarks = self.network(x.flip(dims), landmarks=True)
            both = torch.cat((segmentation.flip(dims), unmirror(landmarks, flipped, self.head.mirroring)), 1)
            total = both if total is None else total + both
        assert total is not None
        return total / len(flips)

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits of both heads, ``(heads + K, *spatial)``, the segmentation first."""
        manager = self.label_manager
        # the sliding window reads only the number of channels from it
        self.label_manager = SimpleNamespace(
            num_segmentation_heads=manager.num_segmentation_heads + len(self.head.names)
        )
        try:
            return super().predict_sliding_window_return_logits(input_image)
        finally:
            self.label_manager = manager

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Logits of the segmentation, ``(heads, *spatial)``; the current case's landmarks go to :attr:`found`.

        Raises:
            InputError: the caller is one of nnU-Net's functions that do not say where the image lies.
        """
        if self._case is None:
            raise InputError(
                "predict_single_npy_array and predict_from_files_sequential do not say where an image lies, so its "
                "landmarks have no positions; use predict_from_list_of_npy_arrays or predict_from_files."
            )
        number, case = self._case
        both = super().predict_logits_from_preprocessed_data(data)
        landmarks = sure_enough(self.landmarks_of(both, case["data_properties"]), self.thresholds)
        if case["ofile"] is None:
            self.found[str(number)] = landmarks
        else:
            file = Path(case["ofile"])
            self.found[file.name] = landmarks
            write_markups(_markups(file.parent, file.name), landmarks)
        return both[: self.label_manager.num_segmentation_heads]

    def landmarks_of(self, both: Tensor, properties: Mapping[str, Any]) -> dict[str, Landmark]:
        """Decode the landmarks of one case; all are present, with their confidence.

        Args:
            both: ``(heads + K, *spatial)``, outputs of both heads on the preprocessed grid, the segmentation first.
            properties: properties of the case from nnU-Net's preprocessor.
        """
        grid = PreprocessedGrid.from_properties(properties, self.plans_manager.plans, both.shape[1:])
        logits, outputs = both[: -len(self.head.names)], both[-len(self.head.names) :]
        near = None if self.head.surface_sigma is None else self.nearness(logits, grid.spacing_mm)
        smoothing = [SMOOTHING * self.head.heatmap_sigma * self.finest_mm / mm for mm in grid.spacing_mm]
        voxels, confidences = decode(self.head.probabilities(outputs), near, smoothing)
        return from_arrays(grid.to_mm(voxels), [State.PRESENT] * len(voxels), self.head.names, confidences)

    @property
    def finest_mm(self) -> float:
        """Unit of the widths: the finest spacing of the configuration; in 2D the distance of slices does not count."""
        return float(min(self.configuration_manager.spacing))

    def nearness(self, logits: Tensor, spacing_mm: NDArray[np.float64]) -> Iterator[NDArray[np.float32] | None]:
        """For each landmark, how near voxels are to the predicted surface of its organs; None if it has no organ.

        A landmark on two organs is near where both surfaces are.

        Args:
            logits: ``(heads, *spatial)``, the segmentation.
            spacing_mm: spacing of the preprocessed grid.
        """
        assert self.head.surface_sigma is not None
        width_mm = self.head.surface_sigma * self.finest_mm
        declared = Declaration.from_dataset_json(self.dataset_json).surface_of
        values = declared_labels(self.dataset_json)
        organs = {organ for name in self.head.names for organ in declared.get(name, ())}
        labels = np.asarray(self.label_manager.convert_logits_to_segmentation(logits.float()))
        near = {organ: nearness(np.isin(labels, values[organ]), spacing_mm, width_mm) for organ in organs}
        for name in self.head.names:
            own = [near[organ] for organ in declared.get(name, ())]
            yield functools.reduce(np.multiply, own) if own else None

    # -- the current case ------------------------------------------------------------------------------------------

    def predict_from_data_iterator(self, data_iterator: Iterable[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        def remembered() -> Iterator[dict[str, Any]]:
            for number, case in enumerate(data_iterator):
                self._case = number, case
                yield case

        try:
            return super().predict_from_data_iterator(remembered(), *args, **kwargs)
        finally:
            self._case = None


def predict(
    images: str | Path,
    out: str | Path,
    model: str | Path,
    how: Prediction,
    *,
    threshold: float | None = None,
    surface_sigma: float | None = None,
) -> dict[str, dict[str, Landmark]]:
    """Predict segmentations and landmarks of all cases of a folder.

    Writes nnU-Net's files, one ``landmarks/CASE.mrk.json`` per case (for 3D Slicer) and ``landmarks.csv``.

    Args:
        images: folder of images as for ``nnUNetv2_predict``.
        out: folder to write to.
        model: folder with ``plans.json`` and ``fold_…``.
        how: settings of ``nnUNetv2_predict``'s flags. A continued prediction skips the cases that have both a
            segmentation and landmarks.
        threshold: confidence below which a landmark is absent; by default the thresholds from the folds' validation.
        surface_sigma: how far from the predicted surface of its organ a landmark is sought, in multiples of the finest
            spacing; 0: anywhere. By default as the model was trained.

    Returns:
        Landmarks by case, including those of earlier calls whose segmentations are in ``out``.

    Raises:
        InputError: there is no such model, fold, device or image, the model predicts no landmarks, ``out`` is a file,
            the threshold is no confidence, or ``surface_sigma`` is negative or the model has no landmark on an organ;
            a continued prediction finds segmentations without landmarks; landmarks of an earlier call are damaged.
    """
    require_folder(out)
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold:g} is no confidence; give a number from 0 to 1.")
    if surface_sigma is not None and not 0 <= surface_sigma < math.inf:
        raise InputError(f"--surface-sigma {surface_sigma:g} is no width; give a number of voxels, 0 for anywhere.")
    images, out = Path(images), Path(out)
    predictor = how.predictor(LandmarkPredictor, Path(model), {}, threshold=threshold, surface_sigma=surface_sigma)
    ending = predictor.dataset_json["file_ending"]
    alone = [case for case in case_names(out, ending) if not _markups(out, case).is_file()]
    if how.continue_prediction and alone:  # nnU-Net skips every case with a segmentation
        raise InputError(
            f"{out} holds segmentations without landmarks, such as that of {min(alone)}, so another command made them; "
            "predict into an empty folder."
        )
    # a damaged file of an earlier call is named before the work, unless this call replaces it
    again = set() if how.continue_prediction else set(images_by_case(images, ending))
    kept = [_markups(out, case) for case in case_names(out, ending) if case not in again]
    earlier = [file for file in kept if file.is_file()]
    found = {name: dict(of_case) for file in earlier for name, of_case in read_file(file).items()}
    how.run(predictor, images, out)
    found |= predictor.found
    write_table(out / TABLE, dict(sorted(found.items())))
    return found


def _markups(out: Path, case: str) -> Path:
    """The file with the predicted landmarks of a case."""
    return out / FOLDER / f"{case}{MARKUPS}"


# --- thresholds of the confidence -------------------------------------------------------------------------------------


def threshold(confidences: ArrayLike, states: ArrayLike) -> float | None:
    """The confidence that separates present from absent best: it maximises the mean of sensitivity and specificity.

    Among equally good thresholds the middle one is taken. If the landmark is present wherever it is known, half of its
    median confidence, but at most :data:`DEFAULT_THRESHOLD`: heatmaps of a 2D network may stay lower than that, and a
    user who has never seen a case without the landmark wants it found. None if it is present nowhere.

    Args:
        confidences: ``(N,)``, confidences of one landmark in N cases.
        states: ``(N,)``, its true states; values of ``State``.
    """
    confidences, states = np.asarray(confidences, float), np.asarray(states)
    there, absent = confidences[states == State.PRESENT], confidences[states == State.ABSENT]
    if not len(there):
        return None
    if not len(absent):
        return min(DEFAULT_THRESHOLD, float(np.median(there)) / 2)
    seen = np.unique(np.concatenate([there, absent]))
    # candidates: one below all confidences, and one above each, halfway to the next; above the last one even if it is 1
    above = np.maximum((seen + np.append(seen[1:], 1)) / 2, np.nextafter(seen, 2))
    candidates = np.append(seen[0] / 2, above)
    below = [np.searchsorted(np.sort(values), candidates) / len(values) for values in (there, absent)]
    correct = 1 - below[0] + below[1]
    best = candidates[np.isclose(correct, correct.max())]
    return float(best[len(best) // 2])


def thresholds_of_others(confidences: ArrayLike, states: ArrayLike) -> list[list[float]]:
    """For each case the thresholds that all others give, ``(N, K)``; :data:`DEFAULT_THRESHOLD` where they give none.

    A case that is judged by thresholds that were fitted to it, too, looks better than a new one.

    Args:
        confidences: ``(N, K)``, confidences of K landmarks in N cases.
        states: ``(N, K)``, their true states; values of ``State``.
    """
    confidences, states = np.asarray(confidences, float), np.asarray(states)
    found = []
    for case in range(len(states)):
        others = zip(np.delete(confidences, case, 0).T, np.delete(states, case, 0).T, strict=True)
        chosen = [threshold(*landmark) for landmark in others]
        found.append([DEFAULT_THRESHOLD if one is None else one for one in chosen])
    return found


def write_thresholds(folder: Path, names: Sequence[str], found: Sequence[float | None]) -> None:
    """Write the thresholds of a fold; ``found`` holds one per landmark, None if validation gives none."""
    with replacing(folder / THRESHOLDS) as temporary:
        temporary.write_text(json.dumps(dict(zip(names, found, strict=True)), indent=1), encoding="utf-8")


def read_thresholds(folders: Sequence[Path], names: Sequence[str]) -> list[float]:
    """Return each landmark's mean threshold over the folds that have one; :data:`DEFAULT_THRESHOLD` if none has."""
    contents = [read_json(folder / THRESHOLDS) for folder in folders if (folder / THRESHOLDS).is_file()]
    means = []
    for name in names:
        known = [content[name] for content in contents if content.get(name) is not None]
        means.append(math.fsum(known) / len(known) if known else DEFAULT_THRESHOLD)
    return means


def sure_enough(landmarks: Landmarks, thresholds: Mapping[str, float]) -> dict[str, Landmark]:
    """Predicted landmarks; landmarks with a confidence below their threshold become absent."""
    return {
        name: Landmark(State.ABSENT, None, found.confidence)
        if found.confidence is not None and found.confidence < thresholds[name]
        else found
        for name, found in landmarks.items()
    }
