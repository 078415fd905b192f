"""``nnunet-ext s2v predict``: centres propagate through the whole volume, in both directions.

``nnUNetv2_predict`` works too, but its patch ends after some slices, it flips patches to go backwards, and where
patches overlap slices are segmented twice. Here the volume is cut into columns as wide as the patch and as long as the
volume; every column is propagated through from end to end, upwards and then downwards on the same features, in all
in-plane flips at once. Both directions are blended linearly: an upward chain has seen most at the top, a downward one
at the bottom (*inferred*).

Everything else is nnU-Net's own prediction: preprocessing, several folds, resampling, export.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.helpers import dummy_context, empty_cache
from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.models import Prediction
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import S2VNet, slices_with_image

Direction = Literal["forward", "backward", "both"]

FEATURE_BYTES = 512 * 2**20
"""Memory of features kept for the second direction: some 35 slices of 256 × 224 pixels in one flip."""


class S2VPredictor(nnUNetPredictor):
    """nnU-Net's predictor, whose sliding window does not slide along slices.

    Args:
        direction: in which centres propagate.
        feature_bytes: of the first direction's features that are kept for the second, instead of computed again.
        kwargs: of nnU-Net's predictor. ``tile_step_size`` and mirroring are in-plane.

    Raises:
        InputError: no such direction.
    """

    label_manager: Any
    network: Any

    def __init__(
        self, *args: Any, direction: Direction = "both", feature_bytes: int = FEATURE_BYTES, **kwargs: Any
    ) -> None:
        if direction not in get_args(Direction):
            raise InputError(f"direction is {direction!r}; it can be {', '.join(get_args(Direction))}.")
        super().__init__(*args, **kwargs)
        self.direction = direction
        self.gap: float | None = None
        self.feature_bytes = feature_bytes

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

    def flips(self) -> list[tuple[int, ...]]:
        """Axes of a slice that are mirrored, 1 (rows) and 2 (columns); the network sees all flips as one batch."""
        axes = (self.allowed_mirroring_axes or ()) if self.use_mirroring else ()
        in_plane = [axis for axis in axes if axis > 0]
        return [chosen for n in range(len(in_plane) + 1) for chosen in itertools.combinations(in_plane, n)]

    def predict_from_data_iterator(self, data_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict as nnU-Net does, with the distance of the slices of each case."""
        return super().predict_from_data_iterator(self._measured(data_iterator), *args, **kwargs)

    def _measured(self, cases: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Cases of nnU-Net's iterator; :attr:`gap`, mm between two slices, is that of the one given last."""
        for case in cases:
            spacing, axes = case["data_properties"]["spacing"], self.plans_manager.transpose_forward
            self.gap = float(spacing[axes[0]])
            yield case
        self.gap = None

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """``(C, D, H, W)`` → ``(heads, D, H, W)``, on the grid of the preprocessed image."""
        self.network = self.network.to(self.device)
        self.network.eval()
        empty_cache(self.device)
        with torch.autocast(self.device.type, enabled=True) if self.device.type == "cuda" else dummy_context():
            try:
                return self._all_columns(input_image, self.perform_everything_on_device)
            except torch.cuda.OutOfMemoryError:
                print("The result does not fit on the device; it is kept in main memory instead.")
                empty_cache(self.device)
                return self._all_columns(input_image, False)

    def _all_columns(self, image: Tensor, on_device: bool) -> Tensor:
        place = self.device if on_device else torch.device("cpu")
        size = list(self.configuration_manager.patch_size[-2:])
        data, inside = pad_nd_image(image, size, "constant", {"value": 0}, True, None)
        data = data.to(place)
        weight = torch.ones(size, device=place)
        if self.use_gaussian:
            weight = compute_gaussian(
                tuple(size), sigma_scale=1.0 / 8, value_scaling_factor=10, dtype=torch.float32, device=place
            )
        # half a volume of labels is much on a GPU; in main memory there is room, and no arithmetic in half precision
        kind = torch.half if place.type == "cuda" else torch.float32
        total = torch.zeros((self.label_manager.num_segmentation_heads, *data.shape[1:]), dtype=kind, device=place)
        weights = torch.zeros(data.shape[2:], device=place)
        steps = compute_steps_for_sliding_window(tuple(data.shape[2:]), tuple(size), self.tile_step_size)
        for y, x in itertools.product(*steps):
            rows, columns = slice(y, y + size[0]), slice(x, x + size[1])
            weights[rows, columns] += weight
            for index, logits in self._one_column(data[:, :, rows, columns]):
                total[:, index, rows, columns] += (weight * logits.to(place)).to(kind)
        total /= weights
        return total[(slice(None), *inside[1:])]

    def _one_column(self, column: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Index and share of the logits ``(heads, h, w)`` of slices; those of a slice add up to their mean.

        Args:
            column: ``(C, D, h, w)``.
        """
        network, flips, depth = unwrap(self.network), self.flips(), column.shape[1]
        assert isinstance(network, S2VNet)
        there = slices_with_image(column[None])[0].to(self.device)
        ways = {"forward": [True], "backward": [False], "both": [True, False]}[self.direction]
        cache = FeatureCache(self.feature_bytes if len(ways) == 2 else 0)
        for upwards in ways:
            order = range(depth) if upwards else range(depth)[::-1]

            def features_of(step: int, x: Tensor, order: range = order) -> list[Tensor]:
                return cache.get(order[step], lambda: network.features(x))

            slices = (torch.stack([column[:, index].flip(axes) for axes in flips]).to(self.device) for index in order)
            present = (there if upwards else there.flip(0)).expand(len(flips), -1)
            gap = None if self.gap is None else torch.full((len(flips),), self.gap, device=self.device)
            chain = network.propagate(slices, present, features_of=features_of, gap=gap)
            for step, (logits, _) in enumerate(chain):
                # of both directions, each counts as much as it has seen
                share = (step + 1) / (depth + 1) if self.direction == "both" else 1.0
                mean = sum(one.flip(axes) for axes, one in zip(flips, logits, strict=True)) / len(flips)
                yield order[step], share * mean


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
        how: what flags of ``nnUNetv2_predict`` say; mirroring and the sliding window stay within slices.
        direction: in which centres propagate; ``"both"`` takes twice the time of one.

    Returns:
        How many cases there are in ``out``.

    Raises:
        InputError: there is no such model, fold, device or image, or the model is none of S2VNet.
    """
    out = Path(out)
    predictor = how.predictor(S2VPredictor, Path(model), {"direction": direction})
    how.run(predictor, Path(images), out)
    return len(list(out.glob(f"*{predictor.dataset_json['file_ending']}")))
