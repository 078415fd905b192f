"""The encoder of a checkpoint of nnssl (self-supervised pre-training, OpenMind) under the names of a planned network.

Beside ``network_weights`` such a checkpoint has ``nnssl_adaptation_plan``, a dict that says what was trained and where
its weights are::

    architecture_plans: {arch_class_name: "ResEncL", …}      PrimusM and the like are transformers
    key_to_encoder: "encoder.stages"                         first part of the names of the stages
    key_to_stem: "encoder.stem"                              and of what is before them; inside of the first stage in a
                                                             network without a stem
    key_to_lpe: None                                         positional embedding of a transformer
    pretrain_num_input_channels: 1

Some methods save the encoder alone, some a decoder that reconstructs images, some wrap the encoder. As in nnssl's own
fine-tuning the stem and the stages are transferred, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_ext.errors import InputError

PLAN = "nnssl_adaptation_plan"
"""Key of a checkpoint by which one of nnssl is known."""

ENCODER_PREFIXES = ("encoder.", "decoder.encoder.")
"""First parts of the names of the encoder in a planned network, whose decoder holds it once more."""


def encoder_of(checkpoint: Mapping[str, Any], weights: Mapping[str, Tensor], fname: str | Path) -> dict[str, Tensor]:
    """Return the tensors of the encoder by their names in a planned network.

    Args:
        checkpoint: of nnssl.
        weights: its tensors by their names there.
        fname: for messages.

    Raises:
        InputError: it is no convolutional encoder, or is not where the checkpoint says.
    """
    plan = checkpoint[PLAN]
    if not isinstance(plan, Mapping):
        raise InputError(
            f"-pretrained_weights {fname}: {PLAN} is a {type(plan).__name__}, but in a checkpoint of nnssl it is a "
            "dict; it is damaged, or was converted."
        )
    if name_of_transformer := _transformer(plan):
        raise InputError(
            f"-pretrained_weights {fname} is of {name_of_transformer}, a transformer, but the planned network is a "
            "U-Net of convolutions; take a checkpoint of nnssl with the architecture ResEncL."
        )
    stages, stem = str(plan.get("key_to_encoder", "encoder.stages")), str(plan.get("key_to_stem", "encoder.stem"))
    renamed = {"encoder.stages.": f"{stages}."}
    if not f"{stem}.".startswith(f"{stages}."):
        renamed["encoder.stem."] = f"{stem}."
    encoder = {
        new + key.removeprefix(old): value
        for key, value in weights.items()
        for new, old in renamed.items()
        if key.startswith(old)
    }
    if not encoder:
        raise InputError(
            f"-pretrained_weights {fname} has no tensor whose name begins with {stages}, where the encoder is by its "
            f"{PLAN}; it is damaged, or was converted."
        )
    return encoder | {f"decoder.{key}": value for key, value in encoder.items()}


def stages_in_words(encoder: Mapping[str, Tensor]) -> str:
    """Describe a convolutional encoder by the features and kernels of its stages.

    Args:
        encoder: tensors by their names in a planned network.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in encoder.items():
        if key.startswith("encoder.stages.") and value.ndim > 2:
            shapes.setdefault(key.split(".")[2], tuple(value.shape))
    features = ", ".join(str(shape[0]) for shape in shapes.values())
    kernels = sorted({"×".join(map(str, shape[2:])) for shape in shapes.values()})
    with_stem = " and a stem" if any(key.startswith("encoder.stem.") for key in encoder) else ""
    return f"{len(shapes)} stages of {features} features with kernels {' and '.join(kernels)}{with_stem}"


def _transformer(plan: Mapping[str, Any]) -> str | None:
    architecture = plan.get("architecture_plans")
    name = str(architecture.get("arch_class_name", "")) if isinstance(architecture, Mapping) else ""
    return (name or "another architecture") if plan.get("key_to_lpe") or name.startswith("Primus") else None
