"""Runs a command of nnU-Net with a seed, and measures its memory from inside.

``python -m nnunet_ext.benchmark.seeded SEED MEMORY_FILE COMMAND ARGUMENTS…``

The seed fixes all random numbers of the main process: the initial weights and, on a CPU without augmentation workers,
also the patches and their augmentation. Augmentation workers seed themselves from the operating system, and a GPU's
kernels are chosen by timing; nnU-Net does both on purpose. With them, two trainings with the same seed still differ,
and only several seeds show by how much.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.processes.memory import peak_host_mib

THREADS = "NNUNET_EXT_THREADS"
"""Environment variable for the number of CPU threads of a command; by default one per core."""


def main(argv: list[str]) -> None:
    """Seed, run the command in this process, and append one line about memory to the file."""
    import numpy as np
    import torch

    seed, memory_file, *command = argv
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))
    sys.argv = command
    [entry] = entry_points(group="console_scripts", name=command[0])
    if threads := threads_asked():
        # on the CPU nnU-Net uses this number of threads, and has no setting for it
        multiprocessing.cpu_count = lambda: threads
    begin = time.time()
    try:
        entry.load()()
    finally:
        line = {"seconds": round(time.time() - begin, 1), "host_mib": peak_host_mib(), **_gpu()}
        append_line(Path(memory_file), json.dumps(line))


def threads_asked() -> int | None:
    """Number of CPU threads that the environment asks for; None if it does not.

    Raises:
        InputError: it is no number of threads.
    """
    asked = os.environ.get(THREADS)
    if asked is not None and (not asked.isdecimal() or int(asked) < 1):
        raise InputError(f"{THREADS} is {asked!r}, but it must be a number of threads, at least 1; set it or unset it.")
    return None if asked is None else int(asked)


def append_line(file: Path, line: str) -> None:
    """Append a line in one step, starting a new line if a killed process left half of one."""
    with file.open("a+b", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 1))
        stream.write(b"\n" * (stream.read(1) not in (b"", b"\n")) + line.encode() + b"\n")


def _gpu() -> dict[str, float | str]:
    import torch

    if not torch.cuda.is_initialized():
        return {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_allocated_mib": torch.cuda.max_memory_allocated() / 2**20,
        "gpu_reserved_mib": torch.cuda.max_memory_reserved() / 2**20,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
