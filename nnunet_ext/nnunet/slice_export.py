"""Labels of a volume, made and written from the logits of one slice at a time.

nnU-Net resamples the logits of all labels of a volume at once, in float64, which needs more memory than anything else
in a prediction. Configuration ``2d`` never resamples across slices (``default_preprocessor.py``, 2.8.1), so the logits
of a slice become labels on their own, and those of the next slice are not needed yet.

The labels are those of nnU-Net's export (``export_prediction.py``, 2.8.1), bit for bit: with linear interpolation, its
rule in float64 gives neighbouring slices the weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.no_resampling import no_resampling_hack
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.files import replacing


def slices_stand_alone(settings: Any) -> bool:
    """Whether slices of logits, resampled one by one, are bit for bit those of the volume resampled as a whole.

    They are with nnU-Net's default, linear interpolation. With splines of a higher order, a slice depends on its
    neighbours in the last bits, and nnU-Net's resampling with PyTorch sets the number of threads of the process.

    Args:
        settings: nnU-Net's configuration manager, of a configuration that resamples within slices only.
    """
    rule = settings.resampling_fn_probabilities  # a partial of a function and what the plans give it
    if rule.func is resample_data_or_seg_to_shape:
        return rule.keywords.get("order", 3) <= 1 and not rule.keywords.get("is_seg", False)
    return rule.func is no_resampling_hack


def label_type(labels: Any) -> type[np.unsignedinteger]:
    """Return the type of label maps, as nnU-Net chooses it; ``labels`` is its label manager."""
    return np.uint8 if len(labels.foreground_labels) < 255 else np.uint16


def labels_of_slice(logits: Tensor, properties: Mapping[str, Any], model: Any) -> NDArray[np.unsignedinteger]:
    """Labels of one slice on the grid of the original image.

    Args:
        logits: ``(heads, h, w)``, as preprocessed, without padding.
        properties: of the image, with what preprocessing added.
        model: an initialised predictor.

    Returns:
        ``(H, W)``, of the crop, in the order of nnU-Net's transposed axes.
    """
    settings, manager = model.configuration_manager, model.label_manager
    spacing = [properties["spacing"][axis] for axis in model.plans_manager.transpose_forward]
    # as nnU-Net's export does, with one slice for the volume
    resampled = settings.resampling_fn_probabilities(
        logits[:, None].float().cpu(),
        [1, *properties["shape_after_cropping_and_before_resampling"][1:]],
        [spacing[0], *settings.spacing[-2:]],
        spacing,
    )
    segmentation = manager.convert_logits_to_segmentation(torch.as_tensor(np.asarray(resampled)))
    return np.asarray(segmentation)[0].astype(label_type(manager))


class SliceExport:
    """The label map of one image, filled slice by slice.

    Args:
        properties: of the image, with what preprocessing added.
        model: an initialised predictor.

    Attributes:
        labels: like the original array, ``(z, y, x)``; 0 in slices that are not filled yet, and outside of the crop.
    """

    def __init__(self, properties: Mapping[str, Any], model: Any) -> None:
        self.properties = properties
        self.model = model
        transposed = np.zeros(properties["shape_before_cropping"], label_type(model.label_manager))
        self.labels = transposed.transpose(model.plans_manager.transpose_backward)
        self._crop = transposed[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]

    def take(self, index: int, logits: Tensor) -> None:
        """Fill in one slice; see :func:`labels_of_slice`. Slices may come in any order, and from several threads."""
        self._crop[index] = labels_of_slice(logits, self.properties, self.model)

    def write(self, target: Path) -> None:
        """Write the label map as nnU-Net does, as a whole or not at all."""
        writer = self.model.plans_manager.image_reader_writer_class()
        with replacing(target) as temporary:
            writer.write_seg(self.labels, str(temporary), self.properties)
