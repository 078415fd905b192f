"""Trained networks in formats other than nnU-Net's: safetensors with a JSON description, and ONNX.

A safetensors file holds the weights without pickle; the JSON file describes their network. An ONNX file holds the whole
network, from one patch to its logits. Neither includes the sliding window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.export.model import Model
from nnunet_ext.export.planned import logits
from nnunet_ext.files import write_json

SAFETENSORS = ".safetensors"

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
ONNX_TOLERANCE = 1e-3
"""Largest accepted difference of logits, relative to the largest logit (at least 1). The runtime fuses and reorders
operations, so its logits are not bit-for-bit equal."""


def write_weights(network: nn.Module, file: Path) -> None:
    """Write the weights for ``safetensors.torch.load_model``.

    A tensor with several names (nnU-Net's decoder also holds the encoder) is written under the first, such as
    ``encoder.stages.0.0.convs.0.conv.weight``; ``load_model`` knows the others from the network.
    """
    kept = network.state_dict().keys()
    named = [*network.named_parameters(), *network.named_buffers()]
    save_file({name: value.detach().contiguous() for name, value in named if name in kept}, file, {"format": "pt"})


def write_description(exported: Model, record: Mapping[str, Any], file: Path) -> None:
    """Write a JSON description of one resolved configuration: how to build the network, feed it and read its output."""
    configuration = record["configuration"]
    manager, settings = exported.managers(configuration)
    channels, heads = exported.channels(configuration)
    own = record["requires"] or record["trainer"] != "nnUNetTrainer"
    content = {
        "trainer": record["trainer"],
        "requires": record["requires"],
        # of stock trainers only nnUNetTrainer itself is sure to build the network from configuration.architecture
        **({"built_by": f"{record['trainer']}.build_network_architecture"} if own else {}),
        "input_channels": channels,
        "output_channels": heads,
        "configuration": {"name": configuration, **settings.configuration},
        "plans": {key: value for key, value in exported.plans.items() if key != "configurations"},
        "dataset": dict(exported.dataset_json),
        "output": "sigmoid" if manager.get_label_manager(dict(exported.dataset_json)).has_regions else "softmax",
    }
    write_json(file, content)


def require_onnx() -> None:
    """Raise InputError unless the packages of the extra are installed."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f'--onnx needs {" and ".join(missing)}; install the extra: pip install "nnunet-ext[onnx]".')


def write_onnx(network: nn.Module, image: Tensor, file: Path) -> float:
    """Write ``network`` as ONNX for inputs of the shape of ``image``, run it in onnxruntime and compare the logits.

    Args:
        network: network in evaluation mode.
        image: ``(1, C, *patch)``.
        file: file to write; input and output are called ``image`` and ``logits``.

    Returns:
        The largest difference of logits on ``image``.

    Raises:
        InputError: the network cannot be written, or its ONNX form computes other logits.
    """
    import onnxruntime

    expected = logits(network, image)
    try:
        torch.onnx.export(
            network,
            (image,),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # torch's exporter may raise anything
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0][:200]  # without terminal colours
        raise InputError(
            f"{type(network).__name__} cannot be written as ONNX ({type(error).__name__}: {reason}); export it without "
            "--onnx."
        ) from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": image.numpy()})
    gap = float((torch.from_numpy(found) - expected).abs().max())
    if not gap <= ONNX_TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"The ONNX form of {type(network).__name__} computes logits that differ by {gap:.3g} from those of torch; "
            "nothing was written. Export it without --onnx."
        )
    return gap
