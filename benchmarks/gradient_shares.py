"""How hard every term of a loss pulls, relative to the segmentation loss, on a data set and a trained network.

::

    python benchmarks/gradient_shares.py 227 2d 0 -tr nnUNetTrainerBaBLoss --checkpoint checkpoint_final.pth

A term that pulls on the weights which it shares with the segmentation much harder than the segmentation itself steers
the training, whatever its value is; one that pulls a hundredth as hard does nothing. Batches are those of the training,
augmentation included. For every batch the gradient of each term, times its weight in that epoch, is taken on the
weights that the reference term reaches, too. The table has medians over batches of

- the value of the weighted term;
- the norm of its gradient on these weights, divided by that of the reference term;
- the cosine between both: 0 means that they want independent things, -1 that they undo each other.

The data set must be preprocessed. Nothing is written.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ext.discovery import discovery_folder
from nnunet_ext.errors import InputError

Gradient = list[Tensor | None]
"""One entry per weight of the network; None where a term does not reach it."""


def gradients(trainer: Any, batch: dict[str, Any]) -> tuple[dict[str, float], dict[str, Gradient]]:
    """Values and gradients of all weighted terms of one training step, by name."""
    trainer._recorded = {}
    weights = [weight for weight in trainer.network.parameters() if weight.requires_grad]
    values: dict[str, float] = {}
    found: dict[str, Gradient] = {}
    for terms in trainer.loss_passes(trainer.prepare_batch(trainer.to_device(batch))):
        for name, term in terms.items():
            weighted = trainer.term_weight(name) * term.float()
            values[name] = float(weighted.detach())
            if weighted.requires_grad:
                found[name] = list(torch.autograd.grad(weighted, weights, retain_graph=True, allow_unused=True))
    return values, found


def against(one: Gradient, other: Gradient) -> tuple[float, float]:
    """Norm of the first gradient divided by that of the second, and their cosine, on the weights that both reach."""
    both = [(a.flatten(), b.flatten()) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not both:
        return np.nan, np.nan
    first, second = (torch.cat(parts) for parts in zip(*both, strict=True))
    if not second.any():
        return np.nan, np.nan
    return float(first.norm() / second.norm()), float(torch.cosine_similarity(first, second, 0))


def table(trainer: Any, batches: int, reference: str) -> str:
    """Return a Markdown table, one line per term.

    Raises:
        InputError: the trainer has no such term.
    """
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(batches):
        values, found = gradients(trainer, next(trainer.dataloader_train))
        if reference not in found:
            names = ", ".join(values)
            raise InputError(f"--reference: {type(trainer).__name__} has no term {reference!r}; it has {names}.")
        for name, value in values.items():
            pair = against(found[name], found[reference]) if name in found else (0.0, np.nan)
            measured.setdefault(name, []).append((value, *pair))
    lines = ["| term | weight | value | gradient | cosine |", "|---|---:|---:|---:|---:|"]
    for name, rows in measured.items():
        value, share, cosine = np.nanmedian(rows, 0)
        lines.append(f"| {name} | {trainer.term_weight(name):.3g} | {value:.3f} | {share:.3f} | {cosine:+.2f} |")
    return "\n".join(lines)


def started(arguments: argparse.Namespace) -> Any:
    """The trainer with its data loaders, in the epoch and with the weights that were asked for.

    Raises:
        InputError: there is no such checkpoint.
    """
    from nnunetv2.run.run_training import get_trainer_from_args  # after nnUNet_results is set

    if arguments.checkpoint and not arguments.checkpoint.is_file():
        raise InputError(f"--checkpoint: {arguments.checkpoint} is no file; expected a checkpoint of nnU-Net.")
    fold = int(arguments.fold) if arguments.fold.isdigit() else arguments.fold
    names = (arguments.dataset, arguments.configuration, fold, arguments.trainer, arguments.plans)
    trainer = get_trainer_from_args(*names, device=torch.device(arguments.device))
    if not hasattr(trainer, "loss_passes"):
        raise InputError(f"-tr: {arguments.trainer} is no trainer of nnunet-ext, so its loss has no named terms.")
    trainer.initialize()
    if arguments.checkpoint:
        content = torch.load(arguments.checkpoint, map_location=trainer.device, weights_only=False)
        trainer.network.load_state_dict(content["network_weights"])
    trainer.on_train_start()  # averages of the network start as copies of it
    trainer.current_epoch = trainer.num_epochs - 1 if arguments.epoch is None else arguments.epoch
    trainer.network.train()
    return trainer


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="number or name")
    parser.add_argument("configuration")
    parser.add_argument("fold")
    parser.add_argument("-tr", "--trainer", required=True)
    parser.add_argument("-p", "--plans", default="nnUNetPlans")
    parser.add_argument("--checkpoint", type=Path, help="network weights (default: those before the first step)")
    parser.add_argument("--epoch", type=int, help="epoch, which decides on weights of terms (default: the last)")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--reference", default="segmentation", help="term to compare with (%(default)s)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    os.environ["nnUNet_extTrainer"] = str(discovery_folder())
    os.environ["nnUNet_n_proc_DA"] = "0"  # one process, so that a seed gives the same batches
    with TemporaryDirectory() as results, contextlib.redirect_stdout(io.StringIO()) as log:
        os.environ["nnUNet_results"] = results  # nnU-Net's trainers write logs
        try:
            np.random.seed(0)
            torch.manual_seed(0)
            printed = table(started(arguments), arguments.batches, arguments.reference)
        except InputError as error:
            parser.exit(1, f"{error}\n")
        except RuntimeError:
            print(log.getvalue())
            raise
    print(printed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
