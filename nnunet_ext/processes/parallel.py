"""The same function for every case, in several processes, with a progress bar; results in the order of the cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


def for_every_case(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], processes: int | None, title: str
) -> Iterator[Result]:
    """Yield ``function(*arguments)`` for every entry of ``calls``.

    Args:
        function: at the top level of a module, so that a process can import it.
        calls: its arguments.
        processes: how many; as many as there are cores by default.
        title: of the progress bar.
    """
    processes = min(processes or os.cpu_count() or 1, len(calls))
    with tqdm(desc=title, total=len(calls), unit="case", dynamic_ncols=True, mininterval=0.5) as bar:
        if processes <= 1:
            for arguments in calls:
                yield function(*arguments)
                bar.update()
            return
        # spawn: SimpleITK's threads do not survive a fork
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(function, *arguments) for arguments in calls]
            try:
                for future in futures:
                    yield future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
