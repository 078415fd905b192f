"""``-pretrained_weights`` for networks that have more parameters than the planned one.

nnU-Net asserts that *every* key of the network is in the checkpoint (``run/load_pretrained_weights.py:38``), so a stock
checkpoint could not initialise a network to which a method added modules. nnU-Net leaves no seam there: the function is
called by name from ``nnunetv2/run/run_training.py`` right after ``trainer.initialize()``. So :func:`install`, called by
the common trainer's ``initialize``, puts :func:`load_pretrained_weights` in its place, in this process only.

"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.errors import InputError

PLANNED_PREFIXES = ("encoder.", "decoder.")
"""Parameters of the planned network; whatever a method adds must have another first name."""


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and torch.compile."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def load_pretrained_weights(network: nn.Module, fname: str | Path, verbose: bool = False) -> None:
    """Initialise ``network`` from an nnU-Net checkpoint of the planned network, or of one with added modules.

    As in nnU-Net the segmentation layers are not transferred, so the number of classes may differ. The planned part
    must be there whole and have equal shapes; an added module is taken from the checkpoint where it is there with
    equal shapes, and keeps its initialisation otherwise.

    Raises:
        InputError: the planned parts differ; the message names the first keys.
    """
    module = unwrap(network)
    own = module.state_dict()
    # the checkpoint comes from the user's own command line, as in nnU-Net, and holds more than tensors
    saved: dict[str, Any] = torch.load(fname, map_location="cpu", weights_only=False)["network_weights"]

    def fits(key: str) -> bool:
        return key in saved and saved[key].shape == own[key].shape

    wanted = [key for key in own if ".seg_layers." not in key]
    planned = [key for key in wanted if key.startswith(PLANNED_PREFIXES)]
    unfit = [key for key in planned if not fits(key)]
    if unfit:
        described = ", ".join(
            f"{key} ({tuple(saved[key].shape) if key in saved else 'missing'}, expected {tuple(own[key].shape)})"
            for key in unfit[:3]
        )
        raise InputError(
            f"-pretrained_weights {fname} does not fit the planned network: {len(unfit)} of {len(planned)} tensors "
            f"differ, first {described}; use a checkpoint that was trained with the same plans architecture."
        )
    transferred = [key for key in wanted if fits(key)]
    module.load_state_dict({key: saved[key] for key in transferred}, strict=False)
    added = len(wanted) - len(planned)
    print(
        f"Pretrained weights from {fname}: {len(planned)} tensors of the planned network, "
        f"{len(transferred) - len(planned)} of {added} tensors of added modules (the others keep their initialisation)."
    )
    if verbose:
        print("\n".join(transferred))


def install() -> None:
    """Make ``nnUNetv2_train -pretrained_weights`` use :func:`load_pretrained_weights` in this process."""
    run_training = sys.modules.get("nnunetv2.run.run_training")
    if run_training is not None:
        run_training.load_pretrained_weights = load_pretrained_weights  # type: ignore[attr-defined]
