"""``nnunet-ext doctor``: finds what prevents a training in this installation, and says how to fix it.

Everything that may crash or is slow to import (torch, torchvision, nnU-Net's trainer search) runs in a fresh Python
with the user's own environment variables, so it sees what ``nnUNetv2_train`` will see.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

from nnunet_ext.discovery import VARIABLE, discovery_folder
from nnunet_ext.findings import CheckReport, Finding, Severity
from nnunet_ext.version import __version__

GB = 1024**3
TRAINER = "nnUNetTrainerReference"
INSTALL_NNUNET = 'pip install "nnunetv2>=2.8,<3"'
REINSTALL_NNUNET = 'pip install --force-reinstall --no-deps "nnunetv2>=2.8,<3"'
EXPORT = f'export {VARIABLE}="$(nnunet-ext path)"  (or, once and for all: nnunet-ext enable)'


@dataclass(frozen=True)
class DoctorReport(CheckReport):
    """Findings, in the order of the checks. ``problem``: something will not work; ``warning``: perhaps, or badly."""

    severities: ClassVar[tuple[Severity, ...]] = ("problem", "warning", "ok")
    failing: ClassVar[tuple[Severity, ...]] = ("problem",)

    def report(self) -> str:
        """A line for each finding, its fix below it, and how many there are."""
        width = max(len(found.kind) for found in self.findings)
        lines = []
        for found in self.findings:
            lines.append(f"{found.severity:<7}  {found.kind:<{width}}  {found.text}")
            if found.fix:
                lines.append(f"{'':<7}  {'':<{width}}  -> {found.fix}")
        counts = self.counts()
        return "\n".join([*lines, f"\n{counts['problem']} problem(s), {counts['warning']} warning(s)"])


def run() -> int:
    """Print all findings; 1 if one of them is a problem, else 0."""
    print(f"nnunet-ext {__version__} in {sys.prefix} (this takes some seconds)", flush=True)
    report = DoctorReport(tuple(diagnose()))
    print(report.report())
    return report.exit_code


def diagnose() -> list[Finding]:
    """Run all checks, at the same time because several wait for another Python."""
    with ThreadPoolExecutor() as pool:
        return [finding for findings in pool.map(_guarded, CHECKS) for finding in findings]


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:  # the doctor itself must survive whatever the machine is like
        found = textwrap.shorten(f"this check failed with {type(error).__name__}: {error}", 300)
        return [
            Finding("problem", check.__name__, found, fix="please report this line, it is a bug of nnunet-ext doctor")
        ]


def _python(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh Python without the current folder on its path, as nnU-Net's commands have it."""
    code = "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n" + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=600)


def _last_line(process: subprocess.CompletedProcess[str]) -> str:
    lines = process.stderr.strip().splitlines()
    return lines[-1].strip() if lines else f"Python ended with exit code {process.returncode}"


# --- what is installed ------------------------------------------------------------------------------------------------


def python_and_nnunet() -> list[Finding]:
    """Versions of Python and nnU-Net."""
    version = sys.version_info
    python = Finding("ok", "Python", ".".join(map(str, version[:3])))
    if version < (3, 10):
        python = Finding("problem", "Python", python.text, fix="make an environment with Python 3.10 or newer")
    try:
        installed = metadata.version("nnunetv2")
    except metadata.PackageNotFoundError:
        return [python, Finding("problem", "nnU-Net", "nnunetv2 is not installed", fix=INSTALL_NNUNET)]
    if (2, 8) <= _major_minor(installed) < (3, 0):
        return [python, Finding("ok", "nnU-Net", f"nnunetv2 {installed}")]
    return [
        python,
        Finding("problem", "nnU-Net", f"nnunetv2 {installed}, but 2.8 or a later 2.x is needed", fix=INSTALL_NNUNET),
    ]


def _major_minor(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def shadowed_nnunet() -> list[Finding]:
    """Check that Python imports the installed nnunetv2: forks contain a package of the same name."""
    title = "package nnunetv2"
    findings = []
    providers = sorted(set(metadata.packages_distributions().get("nnunetv2", [])))
    forks = [name for name in providers if name != "nnunetv2"]
    if forks:
        found = f"brought by {', '.join(forks)} (a fork of nnU-Net?) in place of nnU-Net or mixed with it"
        fix = f"pip uninstall {' '.join(forks)}, then {REINSTALL_NNUNET}; or give the fork an environment of its own"
        findings.append(Finding("problem", title, found, fix=fix))

    probe = _python(
        "import importlib.util, json; spec = importlib.util.find_spec('nnunetv2')\n"
        "print(json.dumps([spec.origin, *(spec.submodule_search_locations or ())] if spec else ['']))"
    )
    origin, *locations = json.loads(probe.stdout)
    if origin == "":
        findings.append(Finding("problem", title, "cannot be found by Python", fix=REINSTALL_NNUNET))
    elif origin is None:
        found = f"only a folder without __init__.py: {', '.join(locations)}"
        findings.append(Finding("problem", title, found, fix=f"delete that folder, then {REINSTALL_NNUNET}"))
    elif "nnunetv2" in providers:
        root = _installed_root(metadata.distribution("nnunetv2"))
        if not Path(origin).resolve().is_relative_to(root):
            found = f"Python imports {Path(origin).parent}, but pip installed it in {root}"
            fix = "take its parent folder out of PYTHONPATH, or uninstall the package that brought it"
            findings.append(Finding("problem", title, found, fix=fix))

    here = Path("nnunetv2").resolve()
    if here.is_dir() and not (origin and Path(origin).resolve().is_relative_to(here)):
        found = f"python -m, python -c and notebooks started in this folder import {here} instead"
        findings.append(Finding("warning", title, found, fix="work in another folder, or rename that one"))
    return findings or [Finding("ok", title, str(Path(origin).parent))]


def _installed_root(distribution: metadata.Distribution) -> Path:
    """The folder below which the modules of ``distribution`` lie; its source folder if it is an editable install."""
    direct: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(direct["url"]).path)).resolve()
    return Path(str(distribution.locate_file(""))).resolve()


def shadowed_ourselves() -> list[Finding]:
    """Check that nnU-Net will import this nnunet_ext: Lifelong-nnUNet contains a package of the same name."""
    title = "package nnunet_ext"
    findings = []
    others = sorted(set(metadata.packages_distributions().get("nnunet_ext", [])) - {"nnunet-ext", "nnunet_ext"})
    if others:
        found = f"also brought by {', '.join(others)} (Lifelong-nnUNet?), whose files mix with these or hide them"
        fix = f"pip uninstall {' '.join(others)}, then install nnunet-ext again; or give each an environment of its own"
        findings.append(Finding("problem", title, found, fix=fix))
    ours = Path(__file__).resolve().parent
    probe = _python(
        "import importlib.util, json; spec = importlib.util.find_spec('nnunet_ext')\n"
        "print(json.dumps(list(spec.submodule_search_locations or ()) if spec else []))"
    )
    imported = [Path(place).resolve() for place in json.loads(probe.stdout)]
    if imported and imported[0] != ours:
        found = f"nnUNetv2_train would import {imported[0]}, another package than {ours}"
        fix = "take its parent folder out of PYTHONPATH, or uninstall the package that brought it (Lifelong-nnUNet?)"
        findings.append(Finding("problem", title, found, fix=fix))
    here = Path("nnunet_ext").resolve()
    if here.is_dir() and here != ours:
        found = f"python -m, python -c and notebooks started in this folder import {here} instead"
        findings.append(Finding("warning", title, found, fix="work in another folder, or rename that one"))
    return findings or [Finding("ok", title, str(ours))]


# --- folders ----------------------------------------------------------------------------------------------------------


def folders() -> list[Finding]:
    """nnU-Net's three folders. Training needs only the last two."""
    return [
        _folder("nnUNet_raw", needed=False),
        _folder("nnUNet_preprocessed", needed=True),
        _folder("nnUNet_results", needed=True),
    ]


def same_folders() -> list[Finding]:
    """Variables that name one folder: nnU-Net keeps a folder of the same name for a data set in each of them."""
    by_folder: dict[Path, list[str]] = {}
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        if value := os.environ.get(variable):
            by_folder.setdefault(Path(value).resolve(), []).append(variable)
    findings = []
    for folder, (first, *others) in by_folder.items():
        for variable in others:
            found = f"{folder} is {first} as well: nnU-Net would mix the files of a data set that it keeps in both"
            fix = f"export {variable}=/another/folder, and move there what belongs there"
            findings.append(Finding("problem", variable, found, fix=fix))
    return findings


def _folder(variable: str, needed: bool) -> Finding:
    value = os.environ.get(variable)
    level: Literal["warning", "problem"] = "problem" if needed else "warning"
    if not value:
        return Finding(level, variable, "not set", fix=f"export {variable}=/a/folder/of/yours")
    quoted = shlex.quote(value)
    if not os.path.isdir(value):
        return Finding(level, variable, f"{value} is no folder", fix=f"mkdir -p {quoted}, or correct the variable")
    if not os.access(value, os.R_OK | os.X_OK | (os.W_OK if needed else 0)):
        right = "written to" if needed else "read"
        return Finding(
            level,
            variable,
            f"{value} cannot be {right}",
            fix=f"give yourself that right, or export {variable}=/another/folder",
        )
    free = shutil.disk_usage(value).free / GB
    found = f"{value} ({free:.0f} GB free)"
    if needed and free < 5:
        return Finding(
            "warning", variable, found, fix="free some space: preprocessed data and checkpoints take gigabytes"
        )
    return Finding("ok", variable, found)


# --- the search for trainers ------------------------------------------------------------------------------------------


def torchvision_fits() -> list[Finding]:
    """Check that torchvision fits torch: nnU-Net's search imports all stock trainers, and through timm torchvision."""
    probe = _python("import torchvision; print(torchvision.__version__)")
    if probe.returncode == 0:
        return [Finding("ok", "torchvision", probe.stdout.strip().splitlines()[-1])]
    error = _last_line(probe)
    why = "torch and torchvision do not fit together" if "operator torchvision::" in error else "it cannot be imported"
    found = f"{why}, which breaks the search for every trainer but nnUNetTrainer: {error}"
    fix = (
        "install both in one command, from the index that your torch came from (https://pytorch.org/get-started): "
        "pip install --force-reinstall torch torchvision"
    )
    return [Finding("problem", "torchvision", found, fix=fix)]


def discovery() -> list[Finding]:
    """Check that nnU-Net finds our trainers with the variable as the user has set it."""
    value = os.environ.get(VARIABLE, "")
    entries = [entry for entry in value.split(os.pathsep) if entry.strip()]
    findings = []
    for entry in entries:
        if not os.path.exists(entry):
            fix = f"correct it or take it out of {VARIABLE}"
            findings.append(Finding("warning", VARIABLE, f"{entry} does not exist; nnU-Net skips it silently", fix=fix))
        elif harm := _harm(entry):
            fix = f"take it out of {VARIABLE}, then {EXPORT}"
            findings.append(Finding("problem", VARIABLE, f"{entry} {harm}", fix=fix))
    if any(finding.severity == "problem" for finding in findings):
        return findings
    if discovery_folder().resolve() not in [Path(entry).resolve() for entry in entries]:
        found = f"does not name {discovery_folder()}" if entries else "not set, so nnU-Net does not find these trainers"
        return [*findings, Finding("problem", VARIABLE, found, fix=EXPORT)]
    return [*findings, _lookup()]


def _harm(entry: str) -> str:
    """Reason why nnU-Net must not search ``entry``: it imports every module in it and then forgets these modules."""
    folder, package = Path(entry).resolve(), Path(__file__).resolve().parent
    installed = {*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))}
    if folder == discovery_folder().resolve():
        return ""
    if folder in {Path(path).resolve() for path in installed}:
        return "is site-packages: nnU-Net would import everything in it"
    if folder.is_relative_to(package) or (folder / "nnunet_ext" / "__init__.py").is_file():
        return "holds the code of nnunet_ext: its classes could not be pickled for data-loader workers"
    return ""


def _lookup() -> Finding:
    """nnU-Net's own search, in a fresh Python."""
    title = "trainer search"
    probe = _python(
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        f"print(find({TRAINER!r}).__module__)"
    )
    lines = probe.stdout.strip().splitlines()
    if probe.returncode == 0:
        if lines[-1].startswith("nnunet_ext."):
            return Finding("ok", title, f"nnU-Net finds {TRAINER} in {lines[-1]}")
        found = f"{TRAINER} comes from {lines[-1]}, not from nnunet_ext"
        return Finding("problem", title, found, fix=f"put {discovery_folder()} first in {VARIABLE}")
    searched = [line.partition(": ")[2] for line in lines if line.startswith("Searching in: ")]
    if not searched:
        found = f"nnU-Net cannot import its own trainers: {_last_line(probe)}"
        return Finding("problem", title, found, fix="install what the error names; if it names torchvision, see there")
    entry = searched[-1]
    if Path(entry).resolve() == discovery_folder().resolve():
        found = f"{TRAINER} cannot be imported: {_last_line(probe)}"
        return Finding("problem", title, found, fix="install what the error names, or install nnunet-ext again")
    found = f"a module in {entry} cannot be imported: {_last_line(probe)}"
    fix = f"repair it or take {entry} out of {VARIABLE}: nnU-Net stops there and finds nothing that comes after it"
    return Finding("problem", title, found, fix=fix)


# --- the machine ------------------------------------------------------------------------------------------------------

_TORCH = """
import json, torch
try:
    import triton
except Exception as error:
    triton = None
cuda = torch.cuda
devices = range(cuda.device_count()) if cuda.is_available() else ()
print(json.dumps({
    "version": torch.__version__,
    "built_for": torch.version.cuda or torch.version.hip,
    "gpus": [[cuda.get_device_name(i), cuda.get_device_properties(i).total_memory] for i in devices],
    "mps": torch.backends.mps.is_available(),
    "triton": triton is not None,
}))
"""


def torch_and_gpu() -> list[Finding]:
    """Find the devices that torch can use, and whether torch.compile, which nnU-Net switches on for CUDA, can work."""
    probe = _python(_TORCH)
    if probe.returncode:
        fix = "install torch and torchvision as https://pytorch.org/get-started says, in one command"
        return [Finding("problem", "torch", f"cannot be imported: {_last_line(probe)}", fix=fix)]
    facts: dict[str, Any] = json.loads(probe.stdout.strip().splitlines()[-1])
    version = Finding("ok", "torch", facts["version"])
    if _major_minor(facts["version"]) == (2, 9):
        found = f"{facts['version']}: 3D convolutions with mixed precision are several times slower (pytorch #166122)"
        version = Finding(
            "warning",
            "torch",
            found,
            fix="another version, in one command: pip install 'torch!=2.9.*' torchvision",
        )
    return [version, _gpu(facts), _compile(facts)]


def _gpu(facts: dict[str, Any]) -> Finding:
    if facts["gpus"]:
        found = ", ".join(f"{name} ({memory / GB:.0f} GB)" for name, memory in facts["gpus"])
        return Finding("ok", "GPU", found)
    if facts["mps"]:
        return Finding("ok", "GPU", "Apple GPU; train and predict with: -device mps")
    if facts["built_for"]:
        found, fix = "none that torch can use", "if there is a GPU, update its driver"
    else:
        found, fix = "this torch was built without GPU support", "if there is a GPU, install a torch for it"
    return Finding("warning", "GPU", found, fix=f"{fix}; otherwise train and predict with -device cpu (slow)")


def _compile(facts: dict[str, Any]) -> Finding:
    """nnU-Net compiles on CUDA outside Windows unless nnUNet_compile says no (``nnUNetTrainer._do_i_compile``)."""
    title = "torch.compile"
    setting = os.environ.get("nnUNet_compile")
    said = "nnUNet_compile is not set" if setting is None else f"nnUNet_compile={setting}"
    if not facts["gpus"] or os.name == "nt":
        return Finding("ok", title, f"not used by nnU-Net here ({said})")
    if setting is not None and setting.lower() not in ("true", "1", "t"):
        return Finding("ok", title, f"switched off ({said})")
    missing = [] if facts["triton"] else ["triton"]
    # triton takes no other compiler: triton/runtime/build.py
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        missing.append("a C compiler (gcc or clang)")
    if missing:
        found = f"training will stop at its first iteration: {' and '.join(missing)} not found ({said})"
        return Finding("problem", title, found, fix="install it, or switch compiling off: export nnUNet_compile=f")
    return Finding("ok", title, f"triton and a C compiler found ({said})")


def workers() -> list[Finding]:
    """Processes and their shared memory: the usual reasons for 'background workers are no longer alive'."""
    # As nnU-Net computes them: default_n_proc_DA.py, configuration.py.
    augmentation, fix_a = _count("nnUNet_n_proc_DA", 12)
    preprocessing, fix_b = _count("nnUNet_def_n_proc", 8)
    if fix_a or fix_b:
        return [finding for finding in (fix_a, fix_b) if finding]
    cpus = os.cpu_count() or 1
    augmentation = min(augmentation, cpus)
    processes = augmentation + max(1, augmentation // 2) if augmentation else 0  # training and validation loader
    return [
        _augmentation_workers(augmentation, processes, cpus),
        _preprocessing_workers(preprocessing, cpus),
        *_memory(processes),
        *_shared_memory(processes),
        *_open_files(),
    ]


def _count(variable: str, default: int) -> tuple[int, Finding | None]:
    value = os.environ.get(variable, str(default))
    try:
        return int(value), None
    except ValueError:
        found = f"{value!r} is no number; nnU-Net stops when it is imported"
        return default, Finding("problem", variable, found, fix=f"export {variable}={default}")


def _augmentation_workers(augmentation: int, processes: int, cpus: int) -> Finding:
    title = "nnUNet_n_proc_DA"
    if augmentation == 0:
        found = "0: fine for training, but planning crashes (it calls torch.set_num_threads with it)"
        return Finding("warning", title, found, fix=f"unset {title} before nnUNetv2_plan_and_preprocess")
    return Finding("ok", title, f"{processes} worker processes in a training on {cpus} CPUs")


def _preprocessing_workers(preprocessing: int, cpus: int) -> Finding:
    title = "nnUNet_def_n_proc"
    found = f"{preprocessing} processes for preprocessing and export on {cpus} CPUs"
    if preprocessing > cpus:
        return Finding("warning", title, found, fix=f"export {title}={cpus}")
    return Finding("ok", title, found)


def _memory(processes: int) -> list[Finding]:
    if not hasattr(os, "sysconf"):  # Windows
        return []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    share = memory / (processes + 1)
    found = f"{memory:.0f} GB, {share:.1f} GB for each of the {processes + 1} processes of a training"
    if share < 2:
        fewer = max(1, int((memory / 2 - 1) / 1.5))  # n + n / 2 workers and the main process, 2 GB each
        return [Finding("warning", "memory", found, fix=f"fewer workers: export nnUNet_n_proc_DA={fewer}")]
    return [Finding("ok", "memory", found)]


def _shared_memory(processes: int, folder: str = "/dev/shm") -> list[Finding]:
    if not os.path.isdir(folder):  # only Linux has it
        return []
    usage = shutil.disk_usage(folder)
    found = f"{folder}: {usage.total / GB:.1f} GB, {usage.free / GB:.1f} GB free"
    if usage.free < GB and processes:
        fix = "with Docker: docker run --ipc=host (or --shm-size=8g); otherwise export nnUNet_n_proc_DA=0 for training"
        return [Finding("warning", "shared memory", found, fix=fix)]
    return [Finding("ok", "shared memory", found)]


def _open_files() -> list[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        return [
            Finding("warning", "open files", f"at most {soft}; workers pass arrays through files", fix="ulimit -n 4096")
        ]
    return [Finding("ok", "open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    python_and_nnunet,
    shadowed_nnunet,
    shadowed_ourselves,
    folders,
    same_folders,
    torchvision_fits,
    discovery,
    torch_and_gpu,
    workers,
)
