"""One process that trains as if there were several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def distributed(folder: Path, trainer: Any, other: Any) -> Iterator[None]:
    """Context in which a trainer is distributed, over one process; another one has the same loss.

    The loss then has a small weight for the coarsest layer, which DistributedDataParallel insists on.

    Args:
        folder: for the rendezvous.
        trainer: that becomes distributed.
        other: that does not.
    """
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    try:
        trainer.is_ddp = True
        trainer.network = DistributedDataParallel(trainer.network)
        trainer.loss = other.loss = trainer._build_loss()
        yield
    finally:
        dist.destroy_process_group()
