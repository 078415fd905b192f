"""Refuses devices that PyTorch does not have here."""

from __future__ import annotations

from nnunet_ext.errors import InputError


def require_device(device: str, option: str) -> None:
    """Raise InputError if PyTorch has no such device here, before anything is started on it.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``; PyTorch judges any other.
        option: the option that the user gave, such as ``-device``.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, True):
        raise InputError(
            f"{option} {device} is asked for, but PyTorch finds none on this machine; write {option} cpu, or run "
            "nnunet-ext doctor."
        )
