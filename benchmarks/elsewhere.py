"""Runs trainings of ready benchmarks on a machine that has neither the data nor a network, such as a GPU node.

::

    # here: prepares the benchmarks and packs what their trainings need
    python benchmarks/elsewhere.py pack low.pack low-acdc low-hippocampus --device cuda --folder elsewhere
    # there, with this package on PYTHONPATH; 16 trainings side by side, and none is begun that would take too long
    python benchmarks/elsewhere.py run low.pack --folder /tmp/elsewhere --at-once 16 --minutes 20
    python benchmarks/elsewhere.py collect results.tar.gz --folder /tmp/elsewhere --weights PnPNet
    # here again
    tar xzf results.tar.gz -C elsewhere && nnunet-ext benchmark report elsewhere/low-acdc

A pack is small: images travel once, however many data sets share them, as steps of 1/256 of the unit of nnU-Net's
normalisation (a standard deviation), and raw images stay here. Arms that have the time of another arm are left out,
because their iterations can only be measured there. Small networks do not fill a GPU, so trainings run side by side,
each in one thread, without workers and without ``torch.compile``; set nnU-Net's variables for another choice.
``run`` goes on where an earlier one stopped. ``collect`` packs records, scores, logs and validation predictions of all
finished trainings, and of arms whose name contains a word of ``--weights`` the final weights in half precision.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import pickle
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.own_data import with_raw_folder
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.spec import load
from nnunet_ext.errors import InputError
from nnunet_ext.processes.children import end_group, own_group

STEPS_PER_UNIT = 256
RAW = "raw"
SMALL_TRAININGS = {
    "NNUNET_EXT_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "nnUNet_n_proc_DA": "0",
    "nnUNet_def_n_proc": "1",
    "nnUNet_compile": "f",
}
MARGIN = 1.1
"""A training is begun if this much more time than it should take is left."""


# -- packing ----------------------------------------------------------------------------------------------------------


def pack(names: Sequence[str], out: Path, folder: Path, device: str) -> None:
    """Prepare the benchmarks in ``folder`` and write one file with all that their trainings read."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    arrays: dict[str, dict[str, Any]] = {}
    store: dict[str, NDArray] = {}
    # before the first is prepared, which points nnUNet_raw to its own folder
    specs = {name: with_raw_folder(load(name)) for name in names}
    for name, spec in specs.items():
        if not spec.brings_its_data:
            raise InputError(f"{name} has no raw: and is not synthetic, so its data is not in its folder; add raw:.")
        untimed = tuple(arm for arm in spec.arms if arm.time_of is None)
        benchmark = BenchmarkFolder(folder / spec.name)
        prepare(spec.model_copy(update={"device": device, "arms": untimed}), benchmark)
        for path in sorted(benchmark.folder.rglob("*")):
            inside = path.relative_to(folder.resolve()).as_posix()
            if path.is_symlink():
                links[inside] = path.name
                files |= _raw_files(path.resolve())
            elif path.suffix == ".b2nd":
                arrays[inside] = _stored(path, store)
            elif path.is_file() and not {"results", "jobs", "imagesTr", "imagesTs"} & {*path.parts}:
                files[inside] = path.read_bytes()
        raw = benchmark.load()[0].raw
        if raw and not spec.drawn:
            for dataset in {job.dataset for job in benchmark.load()[1]}:
                files |= _raw_files(Path(raw) / dataset)
    same = {content: content for content in files.values()}  # pickle writes an object once
    files = {name: same[content] for name, content in files.items()}
    with lzma.open(out, "wb", preset=3) as stream:
        pickle.dump({"files": files, "links": links, "arrays": arrays, "store": store}, stream)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {len(arrays)} arrays of which {len(store)} differ")


def unpack(file: Path, folder: Path) -> None:
    """Write what :func:`pack` packed, unless it is there."""
    if not file.is_file():
        raise InputError(f"{file} is not there; give the file that elsewhere.py pack wrote.")
    done = folder / f"{sha256(file.read_bytes()).hexdigest()[:16]}.unpacked"
    if done.exists():
        return
    with lzma.open(file) as stream:
        content = pickle.load(stream)
    for name, text in content["files"].items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name == "benchmark.json":
            prepared = json.loads(text)
            if prepared["spec"].get("raw"):
                prepared["spec"]["raw"] = str(folder.resolve() / RAW)
            text = json.dumps(prepared).encode()
        target.write_bytes(text)
    for name, dataset in content["links"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.resolve() / RAW / dataset, target_is_directory=True)
    for name, about in content["arrays"].items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        array = restored(content["store"][about["array"]], about["dtype"])
        blosc2.asarray(array, urlpath=str(target), chunks=about["chunks"], blocks=about["blocks"])
    done.touch()


def rounded(array: NDArray) -> NDArray:
    """An image as steps of 1/256: high and low bytes of their differences along the last axis, ``(2, *shape)``.

    Differences are small, so high bytes compress well. Integers stay as they are, in as few bytes as possible.
    """
    if array.dtype.kind != "f":
        small = array.astype(np.int8)
        return small if np.array_equal(small, array) else array
    limit = np.iinfo(np.int16).max // 2  # so that differences fit, too
    steps = np.rint(array * STEPS_PER_UNIT).clip(-limit, limit).astype(np.int32)
    change = np.diff(steps, axis=-1, prepend=0)
    folded = (change << 1) ^ (change >> 31)  # 0, -1, 1, -2, … → 0, 1, 2, 3, …
    return np.stack([folded >> 8, folded & 255]).astype(np.uint8)


def restored(stored: NDArray, dtype: str) -> NDArray:
    """The array from :func:`rounded`."""
    if np.dtype(dtype).kind != "f":
        return stored.astype(dtype)
    folded = (stored[0].astype(np.int32) << 8) | stored[1]
    change = (folded >> 1) ^ -(folded & 1)
    return (np.cumsum(change, axis=-1) / STEPS_PER_UNIT).astype(dtype)


def _stored(path: Path, store: dict[str, NDArray]) -> dict[str, Any]:
    there = blosc2.open(str(path))
    array = rounded(there[:])
    key = sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).hexdigest()
    store.setdefault(key, array)
    return {"array": key, "dtype": str(there.dtype), "chunks": there.chunks, "blocks": there.blocks}


def _raw_files(dataset: Path) -> dict[str, bytes]:
    """The labels of a raw data set, which scores need, and what describes it."""
    found = [path for path in dataset.rglob("*") if path.is_file() and not path.parent.name.startswith("images")]
    return {f"{RAW}/{dataset.name}/{path.relative_to(dataset).as_posix()}": path.read_bytes() for path in found}


# -- running ----------------------------------------------------------------------------------------------------------


def benchmarks(folder: Path) -> list[BenchmarkFolder]:
    """All benchmarks in a folder."""
    return [BenchmarkFolder(path.parent) for path in sorted(folder.glob("*/benchmark.json"))]


def left(found: Iterable[BenchmarkFolder], only: Sequence[str]) -> Iterator[tuple[BenchmarkFolder, Job]]:
    """The jobs that are not done and start from no other one, one seed after the other; ``only`` of these arms."""
    every = [(benchmark, job) for benchmark in found for job in benchmark.load()[1]]
    for benchmark, job in sorted(every, key=lambda pair: (pair[1].seed, pair[1].fold)):
        if not job.start and benchmark.record(job) is None and (not only or job.arm in only):
            yield benchmark, job


def run(folder: Path, at_once: int, minutes: float, only: Sequence[str] = ()) -> int:
    """Run jobs side by side until the time is over; returns the number of jobs that failed."""
    deadline = time.monotonic() + 60 * minutes
    waiting, failed = list(left(benchmarks(folder), only)), 0
    running: list[tuple[subprocess.Popen[bytes], BenchmarkFolder, Job, float]] = []
    seconds: list[float] = []
    while waiting or running:
        for one in list(running):
            process, benchmark, job, began = one
            if process.poll() is None:
                if time.monotonic() > deadline:
                    end_group(process, grace=1.0)  # with its training, which the next run continues
                continue
            running.remove(one)
            done = benchmark.record(job) is not None
            failed += not done and time.monotonic() <= deadline
            seconds += [time.monotonic() - began] if done else []
            print(f"{'done' if done else 'not done'}: {job.title}, {time.monotonic() - began:.0f} s", flush=True)
        while waiting and len(running) < at_once:
            if deadline - time.monotonic() < (MARGIN * statistics.median(seconds) if seconds else 0):
                print(f"{len(waiting)} trainings are left for another run", flush=True)
                waiting.clear()
                break
            benchmark, job = waiting.pop(0)
            benchmark.of(job).mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "nnunet_ext.benchmark.job", str(benchmark.folder), job.name]
            with benchmark.log(job).open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**SMALL_TRAININGS, **os.environ},
                    **own_group(),
                )
            running.append((process, benchmark, job, time.monotonic()))
        time.sleep(0.2)
    return failed


# -- bringing back ----------------------------------------------------------------------------------------------------


def collect(folder: Path, out: Path, weights: Sequence[str] = ()) -> int:
    """Pack the results of finished jobs; returns their number."""
    count = 0
    with tarfile.open(out, "w:gz") as tar:
        for benchmark in benchmarks(folder):
            for job in benchmark.load()[1]:
                if benchmark.record(job) is None:
                    continue
                count += 1
                predictions = sorted((benchmark.fold(job) / "validation").rglob("*"))
                for path in [*sorted(benchmark.of(job).iterdir()), *predictions]:
                    if path.is_file() and path.suffix not in (".npz", ".pkl") and path.name != "lock":
                        tar.add(path, path.relative_to(folder.resolve()).as_posix())
                final = benchmark.fold(job) / "checkpoint_final.pth"
                if any(word in job.arm for word in weights) and final.is_file():
                    content = _weights(final)
                    about = tarfile.TarInfo(final.relative_to(folder.resolve()).as_posix())
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
    return count


def _weights(checkpoint: Path) -> bytes:
    """The checkpoint with weights in half precision and without what only a training needs."""
    import torch

    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    own = saved["network_weights"]
    saved["network_weights"] = {key: value.half() if value.is_floating_point() else value for key, value in own.items()}
    for key in ("optimizer_state", "grad_scaler_state", "logging"):
        saved.pop(key, None)
    stream = io.BytesIO()
    torch.save(saved, stream)
    return stream.getvalue()


# -- the command line -------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing, running, collecting = (commands.add_parser(name) for name in ("pack", "run", "collect"))
    packing.add_argument("file", type=Path)
    packing.add_argument("benchmarks", nargs="+", metavar="BENCHMARK", help="a YAML file, or a ready benchmark")
    packing.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    running.add_argument("file", type=Path)
    running.add_argument("--at-once", type=int, default=os.cpu_count(), metavar="N")
    running.add_argument("--minutes", type=float, required=True)
    running.add_argument("--only", nargs="+", default=[], metavar="ARM")
    collecting.add_argument("file", type=Path)
    collecting.add_argument("--weights", nargs="+", default=[], metavar="WORD")
    for one in (packing, running, collecting):
        one.add_argument("--folder", type=Path, required=True, help="of all benchmarks")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "pack":
            pack(arguments.benchmarks, arguments.file, arguments.folder, arguments.device)
        elif arguments.command == "run":
            if arguments.at_once < 1 or not arguments.minutes > 0:
                raise InputError(
                    f"--at-once is {arguments.at_once} and --minutes {arguments.minutes:g}, but both must be positive."
                )
            unpack(arguments.file, arguments.folder)
            return min(1, run(arguments.folder, arguments.at_once, arguments.minutes, arguments.only))
        else:
            print(f"{collect(arguments.folder, arguments.file, arguments.weights)} trainings in {arguments.file}")
    except InputError as error:
        print(f"elsewhere.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
