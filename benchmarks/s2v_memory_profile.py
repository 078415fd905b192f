"""Memory of one prediction while it runs: 3d_fullres, 2d and S2VNet, as a figure.

::

    python benchmarks/s2v_memory_profile.py --figure profile.png --csv profile.csv      # ACDC-like: 10×256×216 voxels
    python benchmarks/s2v_memory_profile.py --shape 128 512 512 --spacing 2.5 0.8 0.8 --classes 14 --figure ct.png

Plans, volume, ways and processes are those of ``benchmarks/s2v_inference.py``: the whole command after its imports,
from the files of model and image to the written file. The resident memory of each process is read from outside every
few milliseconds; drawn is what it has beyond that before the model was loaded. The axis of time is the share of each
run, because seconds say as much about what else the machine does. CPU, Linux, without mirroring.

The CSV has the largest memory in each of equal parts of a run, which is what is drawn. Printed is the largest of them,
and the peak that the kernel counted, which shows whether the readings missed it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from s2v_inference import WAYS, Setup, add_setup, in_a_process, setup_from, write_image, write_model
from step_cost import resident_bytes

from nnunet_ext.errors import InputError

INTERVAL = 0.003
"""Seconds between two readings."""

PARTS = 300
"""Equal parts of a run."""

FLOAT32 = tuple(name for name, way in WAYS.items() if not way.bfloat16)

Readings = list[tuple[float, int]]
"""Time in seconds and resident bytes."""


def readings_of(process: int) -> Readings:
    """Read the memory of a process until it ends."""
    found: Readings = []
    while (resident := resident_bytes("VmRSS", process)) is not None:
        found.append((time.monotonic(), resident))
        time.sleep(INTERVAL)
    return found


def largest_in_parts(readings: Readings, began: float, ended: float, parts: int) -> NDArray[np.float64]:
    """Largest bytes in each of equal parts of a run, ``(parts,)``; a part without a reading has the one before it.

    Args:
        readings: at least one between the times.
        began: time in seconds at which the run began.
        ended: time in seconds at which it ended.
        parts: how many.

    Raises:
        InputError: there is no reading between these times.
    """
    times, values = np.array(readings, dtype=float).reshape(-1, 2).T
    inside = (times >= began) & (times <= ended)
    if not inside.any():
        raise InputError(
            f"None of {len(times)} readings of memory was made during the prediction; measure on Linux, with a larger "
            "volume."
        )
    places = ((times[inside] - began) / (ended - began) * parts).astype(int).clip(max=parts - 1)
    return pd.Series(values[inside]).groupby(places).max().reindex(range(parts)).ffill().bfill().to_numpy()


def profile(setup: Setup, name: str, threads: int, folder: Path) -> tuple[NDArray[np.float64], float]:
    """Memory of one way beyond that before its model was loaded, in MiB.

    Args:
        setup: see there.
        name: of the way.
        threads: of the CPU.
        folder: with the file of the setup and a folder of images.

    Returns:
        In :data:`PARTS` equal parts of the run; and the peak that the kernel counted.

    Raises:
        InputError: the prediction failed, or its memory is unknown.
    """
    own = folder / name
    own.mkdir()
    (own / "images").symlink_to(folder / "images")
    write_model(setup, WAYS[name], own / "model")
    watched: list[Future[Readings]] = []
    with ThreadPoolExecutor(1) as pool:
        run = in_a_process(
            name,
            False,
            ["--threads", str(threads)],
            own,
            lean=True,
            started=lambda process: watched.append(pool.submit(readings_of, process)),
        )
    resident = largest_in_parts(watched[0].result(), run["began"], run["ended"], PARTS)
    return (resident - run["before_bytes"]) / 2**20, run["peak_bytes"] / 2**20


def drawn(profiles: Mapping[str, NDArray[np.float64]], title: str) -> Figure:
    """Memory over the share of the run, a line per way, with its peak in the legend."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, memory in profiles.items():
        share = 100 * (np.arange(len(memory)) + 0.5) / len(memory)
        axes.plot(share, memory, label=f"{name}: at most {memory.max():.0f} MiB", linewidth=1.5)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("share of the run, %")
    axes.set_ylabel("memory, MiB")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setup(parser)
    parser.add_argument("--ways", choices=tuple(WAYS), nargs="+", default=FLOAT32, help="default: all in float32")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--figure", type=Path, required=True, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="with what is drawn")
    parser.set_defaults(device="cpu")
    args = parser.parse_args(arguments)
    os.environ["nnUNet_compile"] = "false"
    profiles: dict[str, NDArray[np.float64]] = {}
    try:
        setup = setup_from(args)
        with tempfile.TemporaryDirectory(prefix="s2v_memory_profile_") as name:
            folder = Path(name)
            (folder / "setup.json").write_text(json.dumps(vars(setup)))
            write_image(setup, folder / "images")
            for way in args.ways:
                profiles[way], peak = profile(setup, way, args.threads, folder)
                print(f"{way}: read at most {profiles[way].max():.0f} MiB, by the kernel {peak:.0f} MiB", flush=True)
    except (InputError, OSError) as error:
        parser.error(str(error))
    size, spacing = "×".join(map(str, setup.shape)), "×".join(f"{mm:g}" for mm in setup.spacing_mm)
    drawn(profiles, f"A volume of {size} voxels of {spacing} mm, no mirroring").savefig(args.figure, dpi=110)
    if args.csv:
        table = pd.DataFrame(profiles).rename_axis("part").round(1)
        table.to_csv(args.csv, lineterminator="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
