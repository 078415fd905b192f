"""``nnunet-ext s2v predict``: centres propagate through the whole volume, in both directions.

``nnUNetv2_predict`` works too, but its patch ends after some slices, it flips patches to go backwards, and where
patches overlap slices are segmented twice. Here the volume is cut into columns as wide as the patch and as long as the
volume; every column is propagated through from end to end (:mod:`nnunet_ext.s2vnet.chain`), in all in-plane flips.

All columns, and all folds, go from slice to slice together. So a slice of logits is complete at once, becomes labels
(:mod:`nnunet_ext.nnunet.slice_export`) and is forgotten: the logits of a volume are never in memory. If they are asked
for (``save_probabilities``), or if labels cannot be made slice by slice, they are kept, and nnU-Net's export does the
rest.

Everything else is nnU-Net's own prediction: preprocessing, several folds, resampling, file names.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.helpers import empty_cache
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.data.folders import case_names
from nnunet_ext.errors import InputError
from nnunet_ext.files import require_folder
from nnunet_ext.nnunet.models import Prediction
from nnunet_ext.nnunet.precision import planned_precision
from nnunet_ext.nnunet.pretrained import unwrap, unwrap_as
from nnunet_ext.nnunet.slice_export import SliceExport, slices_stand_alone
from nnunet_ext.nnunet.slice_tiles import SliceTiles
from nnunet_ext.s2vnet.chain import Column, Direction, Parts, next_logits
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import S2VNet

FEATURE_BYTES = 96 * 2**20
"""Bytes of features kept for the second direction: about 6 slices of 256 × 224 pixels in one flip."""


class S2VPredictor(nnUNetPredictor):
    """nnU-Net's predictor, whose sliding window does not slide along slices.

    Args:
        direction: in which centres propagate.
        feature_bytes: of the first direction's features that are kept for the second, instead of computed again.
        together: slices of a tile whose features are computed in one pass. None: one on a CPU, which gains nothing by
            more; on a GPU as many as fill a planned batch with all flips, tiles and folds.
        kwargs: of nnU-Net's predictor. ``tile_step_size`` and mirroring are in-plane, and nothing but the network and
            a few slices is ever on a GPU, so ``perform_everything_on_device`` changes nothing.

    Raises:
        InputError: no such direction.
    """

    label_manager: Any
    network: Any

    def __init__(
        self,
        *args: Any,
        direction: Direction = "both",
        feature_bytes: int = FEATURE_BYTES,
        together: int | None = None,
        **kwargs: Any,
    ) -> None:
        if direction not in get_args(Direction):
            raise InputError(f"direction is {direction!r}; it can be {', '.join(get_args(Direction))}.")
        super().__init__(*args, **kwargs)
        self.direction = direction
        self.gap: float | None = None
        self.feature_bytes = feature_bytes
        self.together = together

    def initialize_from_trained_model_folder(
        self, model_training_output_dir: str, use_folds: Any, checkpoint_name: str = "checkpoint_final.pth"
    ) -> None:
        """Load a trained model, as nnU-Net's predictor does.

        Raises:
            InputError: it is no model of S2VNet.
        """
        super().initialize_from_trained_model_folder(model_training_output_dir, use_folds, checkpoint_name)
        if not isinstance(unwrap(self.network), S2VNet):
            raise InputError(
                f"{model_training_output_dir} is no model of S2VNet; train with nnUNetTrainerS2VNet, or use "
                "nnUNetv2_predict."
            )
        # in the memory of the first fold; nothing writes into it
        self._plain_network.load_state_dict(self.list_of_parameters[0], assign=True)

    def flips(self) -> list[tuple[int, ...]]:
        """Axes of a slice that are mirrored, 1 (rows) and 2 (columns); the network sees all flips as one batch."""
        axes = (self.allowed_mirroring_axes or ()) if self.use_mirroring else ()
        in_plane = [axis for axis in axes if axis > 0]
        return [chosen for n in range(len(in_plane) + 1) for chosen in itertools.combinations(in_plane, n)]

    def predict_from_data_iterator(
        self,
        data_iterator: Any,
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = default_num_processes,
    ) -> Any:
        """Predict as nnU-Net does, with the distance of the slices of each case, and with slices of logits at a time.

        ``num_processes_segmentation_export`` counts threads then: their work is done outside of Python.
        """
        cases = self._measured(data_iterator)
        if save_probabilities or not slices_stand_alone(self.configuration_manager):
            return super().predict_from_data_iterator(cases, save_probabilities, num_processes_segmentation_export)
        threads = max(1, num_processes_segmentation_export)
        with ThreadPoolExecutor(threads) as pool:
            found = [self._exported(case, pool, threads) for case in cases]
            return [one.result() for one in found]

    def _measured(self, cases: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Cases of nnU-Net's iterator; :attr:`gap`, mm between two slices, is that of the one given last."""
        for case in cases:
            self.gap = self._gap_of(case["data_properties"])
            yield case
        self.gap = None

    def _gap_of(self, properties: Mapping[str, Any]) -> float:
        return float(properties["spacing"][self.plans_manager.transpose_forward[0]])

    def predict_single_npy_array(
        self, input_image: NDArray, image_properties: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Predict one image as nnU-Net does, with the distance of its slices."""
        self.gap = self._gap_of(image_properties)
        try:
            return super().predict_single_npy_array(input_image, image_properties, *args, **kwargs)
        finally:
            self.gap = None

    def _exported(
        self, case: Mapping[str, Any], pool: ThreadPoolExecutor, threads: int
    ) -> Future[NDArray[np.unsignedinteger] | None]:
        """Segment one case; returns a future of its label map, or of None once it is written."""
        image, target = case["data"], case["ofile"]
        if isinstance(image, str):  # nnU-Net passes large images on as files, and so removes them
            file, image = image, torch.from_numpy(np.load(image))
            os.remove(file)
        print(f"Predicting {'an image' if target is None else os.path.basename(target)} of shape {tuple(image.shape)}")
        export = SliceExport(case["data_properties"], self)
        taken: deque[Future[None]] = deque()
        with self._computing():
            for index, logits in self._slices(self._folds(), image):
                taken.append(pool.submit(export.take, index, logits))
                if len(taken) > threads:  # or the slices that wait would become a volume
                    taken.popleft().result()
        for one in taken:
            one.result()
        empty_cache(self.device)
        if target is None:
            return pool.submit(lambda: export.labels)
        return pool.submit(export.write, Path(target + self.dataset_json["file_ending"]))

    def _computing(self) -> AbstractContextManager[None]:
        """Context in which slices are segmented, with as many threads as nnU-Net would take."""
        threads = min(default_num_processes, torch.get_num_threads())
        return planned_precision(self.device, self.configuration_manager).inference(threads)

    @property
    def _plain_network(self) -> S2VNet:
        return unwrap_as(self.network, S2VNet)

    def _folds(self) -> list[S2VNet]:
        """Networks of all folds, in evaluation, on the device; on a CPU in the memory of the weights as loaded."""
        network, found = self._plain_network, []
        for weights in self.list_of_parameters:
            shared = {id(x): x for x in (*network.parameters(), *network.buffers())}
            fold = deepcopy(network, shared)
            fold.load_state_dict(weights, assign=True)
            found.append(fold.to(self.device).eval())
        return found

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """``(C, D, H, W)`` → ``(heads, D, H, W)``, mean of the folds, on the grid of the preprocessed image."""
        return self._logits(self._folds(), data)

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits as above, of the network with the weights that it has."""
        return self._logits([self._plain_network.to(self.device).eval()], input_image)

    def _logits(self, networks: Sequence[S2VNet], image: Tensor) -> Tensor:
        # half a volume of labels is much; on a GPU nnU-Net computes and adds up in half precision, too
        kind = torch.half if self.device.type == "cuda" else torch.float32
        with self._computing():
            found = torch.zeros((self.label_manager.num_segmentation_heads, *image.shape[1:]), dtype=kind)
            for index, logits in self._slices(networks, image):
                found[:, index] = logits
        empty_cache(self.device)
        return found

    def _together(self, chains: int) -> int:
        """Slices of one chain that the U-Net sees at once, if there are so many chains."""
        if self.together is not None:
            return self.together
        # a batch fits in training, which needs more memory
        return max(1, self.configuration_manager.batch_size // chains) if self.device.type == "cuda" else 1

    def _slices(self, networks: Sequence[S2VNet], image: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Index and logits ``(heads, H, W)`` of all slices, in the order in which they are known; in main memory.

        Args:
            networks: that are averaged.
            image: ``(C, D, H, W)``, in main memory.
        """
        patch, depth = self.configuration_manager.patch_size[-2:], image.shape[1]
        tiles = SliceTiles.of(image.shape[2:], patch, self.tile_step_size, self.use_gaussian, self.device)
        cache, flips = FeatureCache(self.feature_bytes), self.flips()
        # a GPU is fast at batches; on a CPU they need memory and gain nothing
        groups = [flips] if self.device.type == "cuda" else [[flip] for flip in flips]
        together = self._together(len(flips) * len(tiles.places) * len(networks))

        def tile_of(rows: slice, columns: slice) -> Callable[[int], Tensor]:
            return lambda index: tiles.padded(image[:, index])[:, rows, columns]

        def columns_of(fold: int, number: int) -> list[Iterator[Parts]]:
            slice_of = tile_of(*tiles.places[number])
            return [
                Column(
                    networks[fold], slice_of, depth, group, self.gap, cache, (fold, number, *group), together
                ).slices(self.direction)
                for group in groups
            ]

        chains = [[columns_of(fold, number) for number in range(len(tiles.places))] for fold in range(len(networks))]
        for index in range(depth) if self.direction == "forward" else reversed(range(depth)):
            total = tiles.blended(next_logits(columns, len(flips)) for columns in chains[0])
            for others in chains[1:]:
                total += tiles.blended(next_logits(columns, len(flips)) for columns in others)
            yield index, (total / len(networks) if len(networks) > 1 else total).cpu()


def predict(
    images: str | Path,
    out: str | Path,
    model: str | Path,
    how: Prediction,
    *,
    direction: Direction = "both",
) -> int:
    """Segmentations of all cases of a folder; writes nnU-Net's files.

    Args:
        images: folder of images as for ``nnUNetv2_predict``.
        out: folder to write to.
        model: folder with ``plans.json`` and ``fold_…``.
        how: flags of ``nnUNetv2_predict``; mirroring and the sliding window stay within slices.
        direction: in which centres propagate; ``"both"`` takes up to twice the time of one.

    Returns:
        How many cases there are in ``out``.

    Raises:
        InputError: there is no such model, fold, device or image, the model is none of S2VNet, or ``out`` is a file.
    """
    require_folder(out)
    out = Path(out)
    predictor = how.predictor(S2VPredictor, Path(model), {"direction": direction})
    how.run(predictor, Path(images), out)
    return len(case_names(out, predictor.dataset_json["file_ending"]))
