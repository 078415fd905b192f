"""Calls one function for every case, in several processes, with a progress bar; results keep the order of the cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

from nnunet_ext.processes.orphans import end_with_parent

Result = TypeVar("Result")


def for_every_case(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], processes: int | None, title: str
) -> Iterator[Result]:
    """Yield ``function(*arguments)`` for every entry of ``calls``.

    The processes are killed if a call fails or this process is interrupted or killed.

    Args:
        function: a function at the top level of a module, so that a process can import it.
        calls: arguments of each call.
        processes: number of processes; by default one per core.
        title: title of the progress bar.
    """
    processes = min(processes or os.cpu_count() or 1, len(calls))
    with tqdm(desc=title, total=len(calls), unit="case", dynamic_ncols=True, mininterval=0.5) as bar:
        if processes <= 1:
            for arguments in calls:
                yield function(*arguments)
                bar.update()
            return
        # spawn: SimpleITK's threads do not survive a fork
        with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
            try:
                futures = [pool.submit(function, *arguments) for arguments in calls]
                for future in futures:
                    yield future.result()
                    bar.update()
            except BaseException:
                for worker in list(pool._processes.values()):  # kill_workers() from Python 3.14 on
                    worker.kill()
                raise
