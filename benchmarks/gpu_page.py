"""Fills docs/results/gpu.md: what every trainer costs on a GPU, and how accurate those are that a benchmark trained.

::

    nnUNetv2_plan_and_preprocess -d 4 27                       # hippocampus and ACDC
    python benchmarks/gpu_page.py --datasets 4 27 --out docs/results/gpu.md
    nnunet-ext benchmark run gpu --folder gpu                  # days: 100 epochs, five folds, two seeds
    python benchmarks/gpu_page.py --datasets 4 27 --benchmark gpu --out docs/results/gpu.md

Costs are those of the planned networks of the data sets, in configurations ``2d`` and ``3d_fullres``, with
``torch.compile`` as nnU-Net has it, each against stock ``nnUNetTrainer`` in the same run. Every trainer has a process
of its own and is built as in ``step_cost.py``, with random voxels. All are compiled first, side by side. Then they take
turns (A B C A B C …), one at a time; a ratio compares two times of the same round. Peak memory is the most that PyTorch
had allocated in a training step. So that every trainer can be built, the labels of the data set get an ignore label,
and a landmark on each organ. ``--device cpu`` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import step_cost
from benchmarks.step_cost import STOCK, Cost
from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.find_trainer import find_trainer

CONFIGURATIONS = ("2d", "3d_fullres")
FLAT = "s2vnet"
"""Whose trainers work in 2D only."""
STEPS = 3
"""Steps of a turn that are timed, after one that is not; their median counts."""


def trainers_of(trainers: Sequence[str], configuration: str) -> list[str]:
    """Stock nnU-Net and these trainers, without those that do not work in this configuration."""

    def works(name: str) -> bool:
        return configuration == "2d" or f".{FLAT}." not in TRAINERS[name].location

    return [STOCK, *filter(works, trainers)]


def described(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """The data set with what the trainers ask for: an ignore label, landmarks, a case that lacks a label."""
    labels = dict(dataset_json["labels"])
    organs = [name for name, value in labels.items() if name not in ("background", "ignore") and value]
    if "ignore" not in labels:
        used = [value if isinstance(value, list) else [value] for value in labels.values()]
        labels["ignore"] = max(number for numbers in used for number in numbers) + 1
    surface_of = {f"on {organ}": [organ] for organ in organs}
    return {
        **dataset_json,
        "labels": labels,
        "landmarks": {"names": list(surface_of), "surface_of": surface_of},
        "annotated_labels": {"case_0": organs[:1]},
    }


class Worker:
    """A process that holds one trainer and does what it is asked to, one request after the other."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.error: str | None = None
        command = [sys.executable, __file__, "--worker", name, "--", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer; where there is none or an error, the worker is of no more use."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"error": "its process ended without an answer"}
        self.error = found.get("error")
        return found

    def seconds(self, what: str) -> float | None:
        """Median seconds of ``"step"`` or ``"inference"``; None after an error."""
        if self.error is not None:
            return None
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.answer().get("seconds")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def measured(workers: Sequence[Worker], warmup: int, repeats: int) -> dict[str, Any]:
    """The costs of the workers, of which the first has the stock trainer; they are ended."""
    costs = {worker.name: Cost(error=worker.error, peak_bytes=worker.about.get("peak_bytes")) for worker in workers}
    for what in ("step", "inference"):
        for turn in range(warmup + repeats):
            for worker in workers:
                seconds = worker.seconds(what)
                if seconds is not None and turn >= warmup:
                    getattr(costs[worker.name], f"{what}_seconds").append(seconds)
    for worker in workers:
        costs[worker.name].error = worker.error
        worker.end()
    for cost in costs.values():
        cost.compare(costs[STOCK])
    about = next((worker.about["described"] for worker in workers if "described" in worker.about), None)
    if about is None:
        raise InputError(f"no trainer could be measured; {STOCK}: {costs[STOCK].error}.")
    return {
        **about,
        "stock": STOCK,
        "repeats": repeats,
        "trainers": {name: asdict(cost) for name, cost in costs.items()},
    }


def work(name: str, arguments: Sequence[str]) -> None:
    """Be the process of a :class:`Worker`: build the trainer, and answer on standard output until that is closed."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nnU-Net prints

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    args = step_cost.parser().parse_args(arguments)
    setup = step_cost.setup_from(args)
    on_gpu = setup.device.type == "cuda"
    with tempfile.TemporaryDirectory(prefix="gpu_page_") as folder:
        step_cost.prepare_nnunet(setup, Path(folder), args)
        try:
            trainer = step_cost.build(setup, find_trainer(name))
            batch = step_cost.random_batch(trainer)
            for _ in range(2):  # compiles, picks algorithms, and makes the optimizer's state
                step_cost.step(trainer, batch)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                step_cost.step(trainer, batch)
            peak = torch.cuda.max_memory_allocated() if on_gpu else None
            trainer.network.eval()
            trainer.set_deep_supervision_enabled(False)
            patch = batch["data"][:1].to(setup.device)
            step_cost.infer(trainer, patch)
            works = {
                "step": lambda: step_cost.step(trainer, batch),
                "inference": lambda: step_cost.infer(trainer, patch),
            }
            if on_gpu:
                torch.cuda.empty_cache()  # others compile, too
            answer(peak_bytes=peak, described=step_cost.describe(setup, args))
            for line in sys.stdin:
                what = line.strip()
                trainer.network.train(what == "step")
                trainer.set_deep_supervision_enabled(what == "step" and trainer.enable_deep_supervision)
                times = [step_cost.seconds(works[what], setup.device) for _ in range(1 + STEPS)]
                if on_gpu:
                    torch.cuda.empty_cache()  # others need the memory
                answer(seconds=statistics.median(times[1:]))
        except Exception as error:
            answer(error=step_cost.sentence(error))


def started(folder: Path, configuration: str, arguments: argparse.Namespace, temporary: Path) -> list[tuple[str, list]]:
    """Name and arguments of every worker of one configuration of a data set."""
    description = temporary / f"{folder.name}.json"
    description.write_text(json.dumps(described(json.loads((folder / "dataset.json").read_text()))))
    command = ["--plans", str(folder / f"{arguments.plans}.json"), "--configuration", configuration]
    command += ["--dataset-json", str(description), "--device", arguments.device]
    for flag in ("patch_size", "batch_size"):
        if (value := getattr(arguments, flag)) is not None:
            values = value if isinstance(value, list) else [value]
            command += [f"--{flag.replace('_', '-')}", *map(str, values[-2 if configuration == "2d" else 0 :])]
    return [(name, command) for name in trainers_of(arguments.trainers, configuration)]


def table(title: str, found: Mapping[str, Any]) -> str:
    """One configuration of one data set."""
    patch = "×".join(map(str, found["patch_size"]))
    lines = [
        f"### {title}",
        "",
        f"{found['network']}, patch {patch}, batch {found['batch_size']}, K = {found['classes']}"
        f"{', torch.compile' if found['compiled'] else ''}. Ratios to stock `{found['stock']}` in the same run, "
        f"medians of {found['repeats']} rounds (and their range).",
        "",
        "| trainer | step time | inference time | peak memory |",
        "|---|---:|---:|---:|",
    ]
    for name, cost in found["trainers"].items():
        if name == found["stock"]:
            continue
        if cost["error"] is not None:
            lines.append(f"| `{name}` | not measured: {cost['error'].replace('|', '/')} | | |")
            continue
        times = [
            f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})"
            for r in (cost["step_ratio"], cost["inference_ratio"])
        ]
        memory = f"{cost['peak_ratio']:.2f}" if cost["peak_ratio"] else "–"
        lines.append(f"| `{name}` | {' | '.join([*times, memory])} |")
    return "\n".join(lines)


def accuracy(folder: Path | None) -> str:
    """The comparisons of a benchmark that was run, as its own report has them."""
    if folder is None:
        return "Not measured yet: `nnunet-ext benchmark run gpu` trains the trainers that it lists."
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "nnunet_ext", "benchmark", "report", str(folder), "--out", temporary]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = (Path(temporary) / "report.md").read_text()
    # what stands under its title, one level deeper; figures stay with the report
    lines = [line for line in report.splitlines()[1:] if not line.startswith("![")]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip()


def page(tables: Sequence[str], about: Mapping[str, Any], of_accuracy: str) -> str:
    parts = [
        "# On a GPU",
        f"`python benchmarks/gpu_page.py` on {about['device']}, torch {about['torch']}.",
        "## Cost",
        *tables,
        "## Accuracy",
        of_accuracy,
    ]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["4", "27"], metavar="DATASET", help="(4 27)")
    parser.add_argument("--plans", default="nnUNetPlans", metavar="NAME", help="(%(default)s)")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--trainers", nargs="+", choices=list(TRAINERS), default=list(TRAINERS), metavar="NAME")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--patch-size", type=int, nargs=3, metavar="VOXELS", help="instead of the plans', to try")
    parser.add_argument("--batch-size", type=int, metavar="SAMPLES", help="instead of the plans', to try")
    parser.add_argument("--benchmark", type=Path, metavar="FOLDER", help="of nnunet-ext benchmark run gpu")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="trainers compiled at once (%(default)s)")
    if argv[:1] == ["--worker"]:
        work(argv[1], argv[3:])
        return 0
    arguments = parser.parse_args(argv)
    try:
        tables, about, numbers = [], {}, {}
        with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.at_once) as pool:
            groups = {
                (folder.name, configuration): started(folder, configuration, arguments, Path(temporary))
                for folder in map(dataset_folder, arguments.datasets)
                for configuration in arguments.configurations
            }
            workers = {group: [pool.submit(Worker, *one) for one in found] for group, found in groups.items()}
            ready = {group: [one.result() for one in found] for group, found in workers.items()}
            for (dataset, configuration), found in ready.items():
                about = measured(found, arguments.warmup, arguments.repeats)
                tables.append(table(f"{dataset}, `{configuration}`", about))
                numbers[f"{dataset} {configuration}"] = about
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")
        arguments.out.write_text(page(tables, about, accuracy(arguments.benchmark)), encoding="utf-8")
    except InputError as error:
        print(f"gpu_page.py: {error}", file=sys.stderr)
        return 2
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
