"""Weights without pickle: a safetensors file, and a JSON file that says of which network they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from nnunet_ext.export.model import Model
from nnunet_ext.files import write_json

ENDING = ".safetensors"


def write_weights(network: nn.Module, file: Path) -> None:
    """For ``safetensors.torch.load_model``.

    Tensors that a network holds under several names (nnU-Net's decoder knows its encoder) are written under the first,
    such as ``encoder.stages.0.0.convs.0.conv.weight``; ``load_model`` knows the others from the network.
    """
    kept = network.state_dict().keys()
    named = [*network.named_parameters(), *network.named_buffers()]
    save_file({name: value.detach().contiguous() for name, value in named if name in kept}, file, {"format": "pt"})


def write_description(exported: Model, record: Mapping[str, Any], file: Path) -> None:
    """What is needed to build the network, feed it and read its output, of one resolved configuration."""
    configuration = record["configuration"]
    manager, settings = exported.managers(configuration)
    channels, heads = exported.channels(configuration)
    content = {
        "trainer": record["trainer"],
        "requires": record["requires"],
        "input_channels": channels,
        "output_channels": heads,
        "configuration": {"name": configuration, **settings.configuration},
        "plans": {key: value for key, value in exported.plans.items() if key != "configurations"},
        "dataset": dict(exported.dataset_json),
        "output": "sigmoid" if manager.get_label_manager(dict(exported.dataset_json)).has_regions else "softmax",
    }
    write_json(file, content)
