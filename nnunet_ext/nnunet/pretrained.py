"""``-pretrained_weights`` for networks that have more parameters than the planned one.

nnU-Net asserts that *every* key of the network is in the checkpoint (``run/load_pretrained_weights.py:38``), so a stock
checkpoint could not initialise a network to which a method added modules. nnU-Net leaves no seam there: the function is
called by name from ``nnunetv2/run/run_training.py`` right after ``trainer.initialize()``. So :func:`install`, called by
the common trainer's ``initialize``, puts :func:`load_pretrained_weights` in its place, in this process only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.untrusted import load_untrusted

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
    equal shapes, and keeps its initialisation otherwise. What does not fit is printed, tensor by tensor.

    Raises:
        InputError: the planned parts differ, the message says in what and what to do; or it is no such checkpoint.
    """
    module = unwrap(network)
    own = module.state_dict()
    checkpoint = load_untrusted(fname)
    saved = _weights(checkpoint, fname)
    wanted = [key for key in own if ".seg_layers." not in key]
    fits = [key for key in wanted if key in saved and saved[key].shape == own[key].shape]
    unfit = [key for key in wanted if key not in set(fits)]
    for key in unfit:
        print(f"  {_described(key, saved, own)}")
    planned = [key for key in wanted if key.startswith(PLANNED_PREFIXES)]
    if differing := [key for key in unfit if key.startswith(PLANNED_PREFIXES)]:
        raise InputError(
            f"-pretrained_weights {fname}{_origin(checkpoint)} does not fit the planned network: "
            f"{_cause(saved, own, differing)} {len(differing)} of {len(planned)} tensors differ, first "
            f"{_described(differing[0], saved, own)}; all are listed above."
        )
    if not fits:
        raise InputError(
            f"-pretrained_weights {fname}{_origin(checkpoint)} has no tensor in common with this network; use a "
            "checkpoint that was trained with the same plans."
        )
    module.load_state_dict({key: saved[key] for key in fits}, strict=False)
    added = len(wanted) - len(planned)
    taken = len(fits) - len(planned)
    print(
        f"Pretrained weights from {fname}: {len(planned)} tensors of the planned network, "
        f"{taken} of {added} tensors of added modules (the others keep their initialisation)."
    )
    if unused := sorted({key.partition(".")[0] for key in saved if key not in own}):
        print(f"In the checkpoint, but not in this network: {', '.join(unused)}")
    if verbose:
        print("\n".join(fits))


def _weights(checkpoint: Mapping[str, Any], fname: str | Path) -> dict[str, Tensor]:
    weights = checkpoint.get("network_weights")
    if not isinstance(weights, dict) or not weights:
        there = ", ".join(map(str, list(checkpoint)[:5])) or "nothing"
        raise InputError(
            f"-pretrained_weights {fname} is no checkpoint of nnU-Net: it holds {there}, but the weights are expected "
            "under the key network_weights, by the names that they have in nnU-Net's network."
        )
    # of a training outside nnU-Net, whose own checkpoints are without
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _described(key: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    there = f"{tuple(saved[key].shape)} in the checkpoint" if key in saved else "not in the checkpoint"
    return f"{key}: {there}, {tuple(own[key].shape)} here"


def _origin(checkpoint: Mapping[str, Any]) -> str:
    """Name the origin of a checkpoint, as far as it says so."""
    arguments = checkpoint.get("init_args", {})
    plans = arguments.get("plans", {})
    parts = [plans.get("dataset_name"), checkpoint.get("trainer_name"), plans.get("plans_name")]
    known = [str(part) for part in [*parts, arguments.get("configuration")] if part]
    return f" ({', '.join(known)})" if known else ""


def _cause(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], differing: Sequence[str]) -> str:
    """Say what is different, and what to do."""
    pairs = [(saved[key].shape, own[key].shape) for key in differing if key in saved]
    for a, b in pairs:
        if len(a) != len(b):
            return f"it is of a {len(a) - 2}D network, and this one is {len(b) - 2}D; choose the configuration."
    inputs = [
        (there[1], here[1])
        for there, here in pairs
        if len(there) > 1 and (there[0], *there[2:]) == (here[0], *here[2:])
    ]
    if len(inputs) == len(differing) and len(set(inputs)) == 1:
        there, here = inputs[0]
        return (
            f"it was trained with {there} input channels, and this data set has {here}; nnU-Net transfers only between "
            "data sets with the same number of channels."
        )
    return (
        "the plans are of another architecture; take over those of the checkpoint "
        "(nnUNetv2_move_plans_between_datasets -s SOURCE -t TARGET -sp PLANS -tp NEW_PLANS), preprocess with "
        "nnUNetv2_preprocess -plans_name NEW_PLANS, and train with -p NEW_PLANS."
    )


def install() -> None:
    """Make ``nnUNetv2_train -pretrained_weights`` use :func:`load_pretrained_weights` in this process."""
    run_training = sys.modules.get("nnunetv2.run.run_training")
    if run_training is not None:
        run_training.load_pretrained_weights = load_pretrained_weights  # type: ignore[attr-defined]
