"""Lets nnU-Net build another class of data loader, for which it has no hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.errors import InputError

Build = Callable[..., nnUNetDataLoader]
"""Takes what nnU-Net's loader takes."""

SEAM = "nnUNetDataLoader"
"""Global of nnU-Net's trainer module: the class that ``nnUNetTrainer.get_dataloaders`` builds, twice."""


@contextmanager
def loaders_built_by(build: Build, what: str, training: Build | None = None) -> Iterator[None]:
    """Context in which ``nnUNetTrainer.get_dataloaders`` builds other loaders: that of training, then the other.

    nnUNetTrainer.get_dataloaders (2.8.1, line 668) names the class of its loaders as a global of its module, so the
    only way to another class is a copy of its 68 lines, or to exchange this global for the time of the call.

    Args:
        build: builds both loaders.
        what: content that they load beside images and labels, for messages.
        training: builds that of training instead.

    Raises:
        InputError: another part of the same trainer replaces the loaders already.
        RuntimeError: nnU-Net did not build two of them, because it has moved this seam.
    """
    # here, because spawned workers import this module and need no trainer
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    built: list[nnUNetDataLoader] = []

    def counted(*args: Any, **kwargs: Any) -> nnUNetDataLoader:
        made_by = build if built or training is None else training
        built.append(made_by(*args, **kwargs))
        return built[-1]

    stock = getattr(trainer_module, SEAM, None)
    if getattr(stock, "__name__", SEAM) != SEAM:
        raise InputError(
            f"Two parts of this trainer load data in a way of their own, one of them {what}; for a trainer that reads "
            "landmarks set the option unlabelled.images to none."
        )
    setattr(trainer_module, SEAM, counted)
    try:
        yield
    finally:
        setattr(trainer_module, SEAM, stock)
    if len(built) != 2:
        raise RuntimeError(
            f"nnUNetTrainer.get_dataloaders built {len(built)} loaders through the global {SEAM} of its module instead "
            f"of 2, so {what} cannot be loaded with this version of nnU-Net; install one that nnunet-ext supports."
        )
