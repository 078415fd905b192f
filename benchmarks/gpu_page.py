"""Fills docs/results/gpu.md: what every trainer costs on a GPU, and how accurate those are that a benchmark trained.

::

    nnUNetv2_plan_and_preprocess -d 4 27                       # hippocampus and ACDC
    python benchmarks/gpu_page.py --datasets 4 27 --out docs/results/gpu.md
    nnunet-ext benchmark run gpu --folder gpu                  # days: 100 epochs, five folds, two seeds
    python benchmarks/gpu_page.py --datasets 4 27 --benchmark gpu --out docs/results/gpu.md

Costs are those of ``step_cost.py`` with the planned networks of the data sets, in configurations ``2d`` and
``3d_fullres``: all trainers of the catalogue, those of one method in memory together, each against stock
``nnUNetTrainer`` in the same run, with ``torch.compile`` as nnU-Net has it. So that every trainer can be built, the
labels of the data set get an ignore label, and a landmark on each organ. ``--device cpu`` tries the script without one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.errors import InputError

STEP_COST = Path(__file__).with_name("step_cost.py")
CONFIGURATIONS = ("2d", "3d_fullres")
FLAT = "s2vnet"
"""Whose trainers work in 2D only."""


def groups(trainers: Sequence[str], configuration: str) -> dict[str, list[str]]:
    """Trainers by the package in which they live: so many fit into the memory of a GPU together."""
    found: dict[str, list[str]] = {}
    for name in trainers:
        room = TRAINERS[name].location.partition(":")[0].split(".")[1]
        if room != FLAT or configuration == "2d":
            found.setdefault(room, []).append(name)
    return found


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


def measured(folder: Path, configuration: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Results of ``step_cost.py`` for all trainers: the header of the first run, and the costs of all."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        description = Path(temporary) / "dataset.json"
        description.write_text(json.dumps(described(json.loads((folder / "dataset.json").read_text()))))
        for room, names in groups(arguments.trainers, configuration).items():
            out = Path(temporary) / f"{room}.json"
            command = [sys.executable, str(STEP_COST), "--plans", str(folder / f"{arguments.plans}.json")]
            command += ["--configuration", configuration, "--dataset-json", str(description), "--json", str(out)]
            command += ["--device", arguments.device, "--repeats", str(arguments.repeats)]
            command += ["--warmup", str(arguments.warmup), "--trainers", *names]
            for flag in ("patch_size", "batch_size"):
                if (value := getattr(arguments, flag)) is not None:
                    values = value if isinstance(value, list) else [value]
                    command += [f"--{flag.replace('_', '-')}", *map(str, values[-2 if configuration == "2d" else 0 :])]
            print(f"{folder.name} {configuration}: {', '.join(names)}", file=sys.stderr)
            subprocess.run(command, stdout=subprocess.DEVNULL)
            if not out.is_file():
                raise InputError(f"step_cost.py could not measure {', '.join(names)} with {folder / 'dataset.json'}.")
            found = json.loads(out.read_text())
            result = {**found, "trainers": {**result.get("trainers", {}), **found["trainers"]}}
    return result


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
        "| trainer | step time | inference time | peak memory | saved for backward |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, cost in found["trainers"].items():
        if name == found["stock"]:
            continue
        if cost["error"] is not None:
            lines.append(f"| `{name}` | not measured: {cost['error'].replace('|', '/')} | | | |")
            continue
        times = [
            f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})"
            for r in (cost["step_ratio"], cost["inference_ratio"])
        ]
        memory = [f"{cost[key]:.2f}" if cost[key] else "–" for key in ("peak_ratio", "saved_ratio")]
        lines.append(f"| `{name}` | {' | '.join([*times, *memory])} |")
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
    arguments = parser.parse_args(argv)
    try:
        tables, about = [], {}
        for dataset in arguments.datasets:
            folder = dataset_folder(dataset)
            for configuration in arguments.configurations:
                about = measured(folder, configuration, arguments)
                tables.append(table(f"{folder.name}, `{configuration}`", about))
        arguments.out.write_text(page(tables, about, accuracy(arguments.benchmark)), encoding="utf-8")
    except InputError as error:
        print(f"gpu_page.py: {error}", file=sys.stderr)
        return 2
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
