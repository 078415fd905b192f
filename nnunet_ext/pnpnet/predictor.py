"""Prediction of a trained PnPNet with one branch off: how much does the network rely on it?

A branch is added through factors (:class:`nnunet_ext.pnpnet.blocks.Scale`); with factors of 0 it has no effect, and the
rest was trained together with it. :func:`without` switches a branch of a network off for a while; :func:`write_without`
does so in a checkpoint, for stock ``nnUNetv2_predict … -chk checkpoint_final_without_pull.pth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.nnunet.checkpoints import write_checkpoint
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.untrusted import load_untrusted

BRANCHES = ("push", "pull")
FACTORS = ".scale.factor"


@contextmanager
def without(network: nn.Module, branch: str) -> Iterator[None]:
    """Context in which one branch of a network is off; compiled and distributed networks are fine.

    Args:
        network: :class:`nnunet_ext.pnpnet.network.PnPNet`, such as ``nnUNetPredictor.network``.
        branch: ``"push"`` or ``"pull"``.

    Raises:
        InputError: the network has no such branch, or none that can be switched off (the published code's).
    """
    parameters = dict(unwrap(network).named_parameters())
    factors = [parameters[key] for key in _factors(parameters, branch, "This network")]
    kept = [factor.detach().clone() for factor in factors]
    try:
        for factor in factors:
            factor.data.zero_()
        yield
    finally:
        for factor, value in zip(factors, kept, strict=True):
            factor.data.copy_(value)


def write_without(checkpoint: str | Path, branch: str) -> Path:
    """Write a checkpoint with one branch off beside a trained one; returns its path, ``NAME_without_BRANCH.pth``.

    Args:
        checkpoint: file of a training of ``nnUNetTrainerPnPNet``, ``nnUNetTrainerSDM`` or ``nnUNetTrainerCCM``.
        branch: ``"push"`` or ``"pull"``.

    Raises:
        InputError: see :func:`without`; the file is damaged or there is none.
    """
    path = Path(checkpoint)
    content = load_untrusted(path)
    weights = content.get("network_weights", {})
    off = {key: torch.zeros_like(weights[key]) for key in _factors(weights, branch, str(path))}
    written = path.with_name(f"{path.stem}_without_{branch}{path.suffix}")
    with replacing(written) as temporary:
        write_checkpoint({**content, "network_weights": {**weights, **off}}, temporary)
    return written


def _factors(weights: Mapping[str, Tensor], branch: str, where: str) -> list[str]:
    """Names of the factors of a branch."""
    if branch not in BRANCHES:
        raise InputError(f"There is no branch {branch!r}; there are {' and '.join(BRANCHES)}.")
    own = [key for key in weights if key.startswith(f"{branch}.")]
    factors = [key for key in own if key.endswith(FACTORS)]
    if not own:
        raise InputError(f"{where} has no branch {branch!r}; only networks that were trained with it can do without.")
    if not factors:
        raise InputError(
            f"{where} has a branch {branch!r} that cannot be switched off: it is that of nnUNetTrainerPnPNetPaper or "
            "of an earlier PnPNet, where it is not added to the planned network. Use nnUNetTrainerPnPNet."
        )
    return factors
