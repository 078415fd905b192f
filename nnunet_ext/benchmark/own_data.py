"""Data that a benchmark brings itself: planned and preprocessed inside its folder, so that nothing else is touched.

It is the synthetic data set of :mod:`nnunet_ext.benchmark.synthetic`, or data sets of a raw folder, which is only read.
"""

from __future__ import annotations

import os
import shlex
import shutil
from importlib import metadata
from pathlib import Path

from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.preprocessed import STAMP, digest
from nnunet_ext.benchmark.spec import SYNTHETIC, Spec
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.files import read_json, write_json
from nnunet_ext.processes import progress
from nnunet_ext.processes.children import run_step
from nnunet_ext.processes.commands import console, environment, for_planner


def provide(spec: Spec, benchmark: BenchmarkFolder) -> Spec:
    """Preprocess the data sets of ``spec`` unless that is done, with nnU-Net's variables pointing to the benchmark's.

    Returns:
        ``spec`` with the synthetic data set by its name.

    Raises:
        InputError: a data set is not in the raw folder.
        StepFailed: nnU-Net's command failed.
    """
    from nnunet_ext.benchmark.synthetic import DATASET, write_dataset

    if spec.datasets == (SYNTHETIC,):
        write_dataset(os.environ["nnUNet_raw"])
        spec = spec.model_copy(update={"datasets": (DATASET,)})
    references = [truth for truth in spec.references.values() if not Path(truth).is_dir()]
    for dataset in dict.fromkeys([*spec.datasets, *(arm.dataset for arm in spec.arms if arm.dataset), *references]):
        preprocess(dataset_folder(dataset, "nnUNet_raw"), spec.configurations, benchmark)
    return spec


def preprocess(raw: Path, configurations: tuple[str, ...], benchmark: BenchmarkFolder) -> None:
    """Plan and preprocess one data set, or the configurations that are missing, if its files are still the same."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    folder = preprocessed / raw.name
    description = read_json(raw / "dataset.json")
    key = digest(description, _state_of_files(raw), metadata.version("nnunetv2"))
    before = read_json(folder / STAMP) if (folder / STAMP).is_file() else {}
    done = before.get("configurations", []) if before.get("key") == key else []
    missing = [configuration for configuration in configurations if configuration not in done]
    if not missing:
        return
    number = str(int(raw.name[7:10]))
    own = for_planner(environment(raw=raw.parent, preprocessed=preprocessed, results=benchmark.folder / "results"))
    workers = own["nnUNet_def_n_proc"]
    if done:
        command = ["nnUNetv2_preprocess", "-d", number, "-np", workers, "-c", *missing]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-np", workers, "-npfp", workers, "-c", *missing]
        if raw.parent != benchmark.raw:
            command.append("--verify_dataset_integrity")
    print(f"$ {shlex.join(command)}", flush=True)
    run_step(
        "preprocess",
        console(command),
        shown=shlex.join(command),
        log=benchmark.folder / "preprocess.log",
        env=own,
        progress=progress.preprocessing(),
    )
    write_json(folder / STAMP, {"key": key, "configurations": [*done, *missing]})


def _state_of_files(raw: Path) -> list[tuple[str, int, int]]:
    """State of the raw files, which changes when a training image or label map is added, removed, or written to."""
    files = [path for name in ("imagesTr", "labelsTr") for path in sorted((raw / name).glob("*"))]
    return [(str(path.relative_to(raw)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
