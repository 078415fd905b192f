"""How much memory this process needed."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_host_mib() -> float | None:
    """The largest resident set of this process so far; its child processes are not part of it."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what a parent had before it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
