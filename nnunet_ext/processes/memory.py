"""Peak memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil


def peak_host_mib() -> float:
    """The largest resident set of this process so far in MiB, without child processes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the parent's memory from before this process started
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
