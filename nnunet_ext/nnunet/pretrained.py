"""``-pretrained_weights`` for networks that have more parameters than the planned one.

nnU-Net asserts that *every* key of the network is in the checkpoint (``run/load_pretrained_weights.py:38``), so a stock
checkpoint could not initialise a network to which a method added modules. nnU-Net leaves no seam there: the function is
called by name from ``nnunetv2/run/run_training.py`` right after ``trainer.initialize()``. So :func:`install`, called by
the common trainer's ``initialize``, puts :func:`load_pretrained_weights` in its place, in this process only.

A network with other input channels takes the weights of the channels that both have, by name where ``dataset.json`` of
both is known, else by position; a channel that the checkpoint does not know begins with the mean over those that it
knows.

Of a checkpoint of nnssl the encoder is taken (:mod:`.nnssl`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.data.channels import channel_names
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.nnssl import ENCODER_PREFIXES, PLAN, encoder_of, stages_in_words
from nnunet_ext.nnunet.untrusted import load_untrusted

Kind = TypeVar("Kind", bound=nn.Module)

PLANNED_PREFIXES = ("encoder.", "decoder.", "down_projection.", "eva.")
"""Parameters of the planned network, or of Primus; whatever a method adds must have another first name. The rest of
Primus is its decoder, which ends in the segmentation."""


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and torch.compile."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def unwrap_as(network: nn.Module, kind: type[Kind]) -> Kind:
    """The network as in :func:`unwrap`, which is of this class."""
    found = unwrap(network)
    assert isinstance(found, kind)
    return found


def load_pretrained_weights(
    network: nn.Module, fname: str | Path, verbose: bool = False, *, channels: Sequence[str] | None = None
) -> None:
    """Initialise ``network`` from a checkpoint: of the planned network, of one with added modules, or of nnssl.

    As in nnU-Net the segmentation layers are not transferred, so the number of classes may differ. The planned part
    must be there whole and have equal shapes; an added module is taken from the checkpoint where it is there with
    equal shapes, and keeps its initialisation otherwise. What does not fit is printed, tensor by tensor. Another number
    of input channels is adapted, as the module says, and so is another order of them. Of a checkpoint of nnssl the
    encoder must be there whole; everything else keeps its initialisation.

    Args:
        network: to initialise.
        fname: the checkpoint.
        verbose: print the name of every tensor that is taken.
        channels: names of the input channels of ``network``, as far as they are known.

    Raises:
        InputError: the planned parts differ, the message says in what and what to do; or it is no such checkpoint.
    """
    module = unwrap(network)
    own = module.state_dict()
    checkpoint = load_untrusted(fname)
    saved = _weights(checkpoint, fname)
    wanted = [key for key in own if ".seg_layers." not in key]
    pretrained_by_nnssl = PLAN in checkpoint
    if pretrained_by_nnssl:
        saved = encoder_of(checkpoint, saved, fname)
        wanted = [key for key in wanted if key.startswith(ENCODER_PREFIXES)]
    saved = _with_channels_of(saved, {key: own[key] for key in wanted}, _names_in(checkpoint), channels)
    fits = [key for key in wanted if key in saved and saved[key].shape == own[key].shape]
    unfit = [key for key in wanted if key not in set(fits)]
    for key in unfit:
        print(f"  {_described(key, saved, own)}")
    planned = [key for key in wanted if key.startswith(PLANNED_PREFIXES)]
    if differing := [key for key in unfit if key.startswith(PLANNED_PREFIXES)]:
        raise InputError(
            f"-pretrained_weights {fname}{_origin(checkpoint)} does not fit the planned network: "
            f"{_cause(saved, own, differing, pretrained_by_nnssl)} {len(differing)} of {len(planned)} tensors differ, "
            f"first {_described(differing[0], saved, own)}; all are listed above."
        )
    if not fits:
        raise InputError(
            f"-pretrained_weights {fname}{_origin(checkpoint)} has no tensor in common with this network; use a "
            "checkpoint that was trained with the same plans."
        )
    module.load_state_dict({key: saved[key] for key in fits}, strict=False)
    if pretrained_by_nnssl:
        print(
            f"Pretrained weights from {fname}: the encoder, {len(fits)} tensors by nnssl; the decoder and added "
            "modules keep their initialisation."
        )
        return
    added = len(wanted) - len(planned)
    taken = len(fits) - len(planned)
    print(
        f"Pretrained weights from {fname}: {len(planned)} tensors of the planned network, "
        f"{taken} of {added} other tensors (the rest keep their initialisation)."
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


def _with_channels_of(
    saved: dict[str, Tensor], own: Mapping[str, Tensor], there: Sequence[str] | None, here: Sequence[str] | None
) -> dict[str, Tensor]:
    """``saved`` with the first convolutions for the input channels of this network.

    Only if nothing else of the planned network differs; then the message about the rest is the better one.
    """
    planned = [key for key in own if key.startswith(PLANNED_PREFIXES)]
    if any(key not in saved or saved[key].ndim != own[key].ndim for key in planned):
        return saved
    differing = [key for key in planned if saved[key].shape != own[key].shape]
    first = differing or _first_convolutions(own)
    pairs = {(saved[key].shape[1:2], own[key].shape[1:2]) for key in first}
    if len(pairs) != 1 or any(own[key].ndim < 4 or _but_inputs(saved[key]) != _but_inputs(own[key]) for key in first):
        return saved
    [((old,), (new,))] = pairs
    sources = _sources(old, new, there, here)
    if sources == list(range(old)):
        return saved
    adapted = dict(saved)
    for key in first:
        mean = saved[key].mean(1)
        adapted[key] = torch.stack([mean if source is None else saved[key][:, source] for source in sources], 1)
    old_names, new_names = _named(there, old), _named(here, new)
    for name, source in zip(new_names, sources, strict=True):
        origin = f"the mean of all {old} channels" if source is None else f"channel {old_names[source]}"
        print(f"  input channel {name}: weights of {origin} of the checkpoint")
    if unused := [name for index, name in enumerate(old_names) if index not in sources]:
        print(f"  not used: the weights of channel {', '.join(unused)} of the checkpoint")
    return adapted


def _sources(old: int, new: int, there: Sequence[str] | None, here: Sequence[str] | None) -> list[int | None]:
    """For every input channel of the network, the channel of the checkpoint whose weights it takes."""
    names = [
        list(each) if each is not None and len(set(each)) == number == len(each) else None
        for each, number in ((there, old), (here, new))
    ]
    if names[0] is None or names[1] is None or not set(names[0]) & set(names[1]):
        return [index if index < old else None for index in range(new)]
    return [names[0].index(name) if name in names[0] else None for name in names[1]]


def _first_convolutions(own: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that see the image: the first convolution of the encoder, under each of its names."""
    first = next((value for key, value in own.items() if key.startswith("encoder.") and value.ndim > 2), None)
    return [key for key, value in own.items() if first is not None and value.data_ptr() == first.data_ptr()]


def _but_inputs(weight: Tensor) -> tuple[int, ...]:
    return (weight.shape[0], *weight.shape[2:])


def _named(names: Sequence[str] | None, number: int) -> list[str]:
    return list(names) if names is not None and len(names) == number else [str(index) for index in range(number)]


def _names_in(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Names of the input channels that a checkpoint was trained with; None if it does not say."""
    description = checkpoint.get("init_args", {}).get("dataset_json", {})
    return channel_names(description) if {"modality", "channel_names"} & set(description) else None


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


def _cause(
    saved: Mapping[str, Tensor], own: Mapping[str, Tensor], differing: Sequence[str], pretrained_by_nnssl: bool
) -> str:
    """Say what is different, and what to do."""
    if not saved.keys() & own.keys():
        return "it is of another kind of network; use a checkpoint of a trainer with the same one."
    pairs = [(saved[key].shape, own[key].shape) for key in differing if key in saved]
    for a, b in pairs:
        if len(a) != len(b):
            return f"it is of a {len(a) - 2}D network, and this one is {len(b) - 2}D; choose the configuration."
    if pretrained_by_nnssl:
        return (
            f"it has {stages_in_words(saved)}, and this one has {stages_in_words(own)}; plan a network like it, "
            "for ResEncL with nnUNetv2_plan_experiment -pl nnUNetPlannerResEncL -overwrite_target_spacing 1 1 1."
        )
    return (
        "the plans are of another architecture; take over those of the checkpoint "
        "(nnUNetv2_move_plans_between_datasets -s SOURCE -t TARGET -sp PLANS -tp NEW_PLANS), preprocess with "
        "nnUNetv2_preprocess -plans_name NEW_PLANS, and train with -p NEW_PLANS."
    )


def install(channels: Sequence[str]) -> None:
    """Make ``nnUNetv2_train -pretrained_weights`` use :func:`load_pretrained_weights` in this process.

    Args:
        channels: names of the input channels of the network that is trained.
    """
    run_training = sys.modules.get("nnunetv2.run.run_training")
    if run_training is not None:
        loader = partial(load_pretrained_weights, channels=list(channels))
        run_training.load_pretrained_weights = loader  # type: ignore[attr-defined]
