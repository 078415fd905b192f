"""``nnunet-ext doctor`` on healthy and on broken installations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from nnunet_ext import discovery_folder, doctor
from nnunet_ext.cli import main
from nnunet_ext.discovery import VARIABLE
from nnunet_ext.doctor import GB
from nnunet_ext.findings import Finding

OURS = str(discovery_folder())
OK = Finding("ok", "all", "well")
WARNING = Finding("warning", "something", "may fail", fix="look at it")
PROBLEM = Finding("problem", "something", "fails", fix="repair it")

Usage = namedtuple("Usage", "total used free")


def answer(text: object):
    """A stand-in for the fresh Python, which prints ``text``."""
    return lambda code: subprocess.CompletedProcess([], 0, f"{text}\n", "")


def severities(findings: list[Finding]) -> list[str]:
    return [finding.severity for finding in findings]


def the_one(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("findings", "code"), [([OK], 0), ([OK, WARNING], 0), ([OK, WARNING, PROBLEM], 1)])
def test_the_exit_code_is_1_only_if_something_blocks(monkeypatch, capsys, findings, code):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: findings,))
    assert main(["doctor"]) == code
    shown = capsys.readouterr().out
    assert all(finding.text in shown and finding.fix in shown for finding in findings)


def test_a_check_that_crashes_becomes_a_problem_and_the_others_still_run(monkeypatch, capsys):
    def crashing():
        raise OSError("no such luck")

    monkeypatch.setattr(doctor, "CHECKS", (crashing, lambda: [OK]))
    assert doctor.run() == 1
    shown = capsys.readouterr().out
    assert "OSError: no such luck" in shown
    assert OK.text in shown


def test_every_finding_that_is_not_ok_on_this_machine_says_how_to_fix_it(monkeypatch):
    for variable in (VARIABLE, "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    findings = [finding for check in (doctor.folders, doctor.discovery, doctor.workers) for finding in check()]
    assert all(finding.fix for finding in findings if finding.severity != "ok")


# --- what is installed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.8", "ok"),
        ("2.8.1", "ok"),
        ("2.11.0", "ok"),
        ("2.7.9", "problem"),
        ("1.7.1", "problem"),
        ("3.0.0", "problem"),
    ],
)
def test_nnunet_from_2_8_to_below_3_is_accepted(monkeypatch, version, level):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: version)
    assert doctor.python_and_nnunet()[1].severity == level


def test_a_missing_nnunet_is_a_problem_with_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    assert "pip install" in doctor.python_and_nnunet()[1].fix


def test_the_installed_nnunet_is_not_shadowed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert the_one(doctor.shadowed_nnunet()).severity == "ok"


def test_a_fork_that_brings_the_same_package_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fork = tmp_path / "fork" / "umamba-2.1.1.dist-info"
    fork.mkdir(parents=True)
    (fork / "METADATA").write_text("Metadata-Version: 2.1\nName: umamba\nVersion: 2.1.1\n")
    (fork / "top_level.txt").write_text("nnunetv2\n")
    monkeypatch.syspath_prepend(str(fork.parent))
    finding = the_one(doctor.shadowed_nnunet())
    assert finding.severity == "problem"
    assert "pip uninstall umamba" in finding.fix


def test_an_nnunet_imported_from_another_place_than_the_installed_one_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "fork" / "nnunetv2"
    copy.mkdir(parents=True)
    (copy / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(copy.parent))
    finding = the_one(doctor.shadowed_nnunet())
    assert finding.severity == "problem"
    assert str(copy) in finding.text


def test_an_nnunet_without_code_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_python", answer('[null, "/venv/nnunetv2"]'))
    finding = the_one(doctor.shadowed_nnunet())
    assert finding.severity == "problem"
    assert "/venv/nnunetv2" in finding.text


def test_an_nnunet_that_is_not_there_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_python", answer('[""]'))
    assert the_one(doctor.shadowed_nnunet()).severity == "problem"


def test_an_nnunet_in_the_current_folder_is_a_warning(monkeypatch, tmp_path):
    (tmp_path / "nnunetv2").mkdir()
    (tmp_path / "nnunetv2" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    finding = the_one(doctor.shadowed_nnunet())
    assert finding.severity == "warning"
    assert str(tmp_path) in finding.text


def test_this_package_is_not_shadowed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert the_one(doctor.shadowed_ourselves()).severity == "ok"


def test_another_package_of_our_name_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    providers = {"nnunet_ext": ["nnunet-ext", "lifelong-nnunet"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: providers)
    finding = the_one(doctor.shadowed_ourselves())
    assert finding.severity == "problem"
    assert "brought by lifelong-nnunet (Lifelong-nnUNet?)" in finding.text
    assert finding.fix.startswith("pip uninstall lifelong-nnunet, then")


def test_another_package_of_our_name_that_python_finds_first_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "other" / "nnunet_ext").mkdir(parents=True)
    (tmp_path / "other" / "nnunet_ext" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    finding = the_one(doctor.shadowed_ourselves())
    assert finding.severity == "problem"
    assert f"would import {tmp_path / 'other' / 'nnunet_ext'}" in finding.text
    assert "PYTHONPATH" in finding.fix
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(tmp_path / "other")
    assert severities(doctor.shadowed_ourselves()) == ["warning"]


def test_an_editable_nnunet_may_lie_where_its_source_is(tmp_path):
    record = tmp_path / "nnunetv2-2.8.1.dist-info"
    record.mkdir()
    source = tmp_path / "my source"
    (record / "direct_url.json").write_text(json.dumps({"dir_info": {"editable": True}, "url": source.as_uri()}))
    assert doctor._installed_root(metadata.PathDistribution(record)) == source.resolve()


# --- folders ----------------------------------------------------------------------------------------------------------


def test_unset_folders_are_problems_except_the_one_for_raw_data(monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    findings = doctor.folders()
    assert severities(findings) == ["warning", "problem", "problem"]
    assert all(finding.fix.startswith(f"export {finding.kind}=") for finding in findings)


def test_folders_that_do_not_exist_are_found(monkeypatch, tmp_path):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / "not there"))
    findings = doctor.folders()
    assert severities(findings) == ["warning", "problem", "problem"]
    assert f"mkdir -p '{tmp_path / 'not there'}'" in findings[1].fix


def test_existing_folders_are_ok_and_little_space_is_a_warning_where_nnunet_writes(monkeypatch, tmp_path):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(9 * GB, 3 * GB, 6 * GB))
    assert severities(doctor.folders()) == ["ok", "ok", "ok"]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(9 * GB, 5 * GB, 4 * GB))
    assert severities(doctor.folders()) == ["ok", "warning", "warning"]


@pytest.mark.parametrize("shared", [("raw", "preprocessed"), ("preprocessed", "results"), ("raw", "results")])
def test_two_variables_for_one_folder_are_a_problem(monkeypatch, tmp_path, shared):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    assert doctor.same_folders() == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path / shared[0])
    monkeypatch.setenv(f"nnUNet_{shared[1]}", str(link))
    finding = the_one(doctor.same_folders())
    assert finding.severity == "problem"
    assert finding.kind == f"nnUNet_{shared[1]}"
    assert f"{tmp_path / shared[0]} is nnUNet_{shared[0]} as well" in finding.text
    assert f"export nnUNet_{shared[1]}=/another/folder" in finding.fix


def test_raw_data_only_need_to_be_readable(monkeypatch, tmp_path):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: not mode & os.W_OK)
    assert severities(doctor.folders()) == ["ok", "problem", "problem"]


# --- the search for trainers ------------------------------------------------------------------------------------------


def test_a_torchvision_that_does_not_fit_torch_is_explained(monkeypatch, tmp_path):
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = the_one(doctor.torchvision_fits())
    assert finding.severity == "problem"
    assert "do not fit together" in finding.text
    assert "operator torchvision::nms does not exist" in finding.text
    assert "in one command" in finding.fix


def test_an_unset_variable_is_a_problem_with_the_line_to_type(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    finding = the_one(doctor.discovery())
    assert finding.severity == "problem"
    assert f'export {VARIABLE}="$(nnunet-ext path)"' in finding.fix
    assert "nnunet-ext enable" in finding.fix


def test_a_variable_that_names_only_a_missing_folder_gets_both_findings(monkeypatch, tmp_path):
    missing = str(tmp_path / "missing")
    monkeypatch.setenv(VARIABLE, missing)
    skipped, unnamed = doctor.discovery()
    assert (skipped.severity, unnamed.severity) == ("warning", "problem")
    assert missing in skipped.text
    assert OURS in unnamed.text


def test_a_missing_folder_beside_ours_is_only_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_lookup", lambda: OK)
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path / "missing"), OURS]))
    assert severities(doctor.discovery()) == ["warning", "ok"]


def test_a_variable_that_names_the_package_its_parent_or_site_packages_is_a_problem(monkeypatch, tmp_path):
    package = Path(doctor.__file__).parent
    (tmp_path / "nnunet_ext").mkdir()
    (tmp_path / "nnunet_ext" / "__init__.py").touch()
    for folder in (package, package / "nnunet", package.parent, tmp_path, sysconfig.get_path("purelib")):
        monkeypatch.setenv(VARIABLE, os.pathsep.join([OURS, str(folder)]))
        finding = the_one(doctor.discovery())
        assert finding.severity == "problem"
        assert str(folder) in finding.text


def test_a_folder_of_the_same_name_as_ours_elsewhere_does_not_count_as_ours(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert the_one(doctor.discovery()).severity == "problem"


def test_a_trainer_of_our_name_from_somewhere_else_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_python", answer("my_trainers"))
    assert "my_trainers" in doctor._lookup().text
    assert doctor._lookup().severity == "problem"


def test_an_error_in_nnunets_own_trainers_is_not_blamed_on_an_entry(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nModuleNotFoundError: No module named 'timm'\n")
    monkeypatch.setattr(doctor, "_python", lambda code: failed)
    finding = doctor._lookup()
    assert finding.severity == "problem"
    assert "nnU-Net cannot import its own trainers: ModuleNotFoundError: No module named 'timm'" in finding.text


def test_nnunet_itself_finds_our_trainer(monkeypatch):
    monkeypatch.setenv(VARIABLE, OURS)
    finding = the_one(doctor.discovery())
    assert finding.severity == "ok"
    assert "nnUNetTrainerReference in nnunet_ext." in finding.text


@pytest.mark.slow
def test_a_broken_module_in_an_entry_before_ours_is_named_with_its_error(monkeypatch, tmp_path):
    (tmp_path / "half_written.py").write_text("import no_such_module\n")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), OURS]))
    finding = the_one(doctor.discovery())
    assert finding.severity == "problem"
    assert str(tmp_path) in finding.text
    assert "ModuleNotFoundError: No module named 'no_such_module'" in finding.text


# --- the machine ------------------------------------------------------------------------------------------------------


def facts(**changes):
    return {
        "version": "2.8.0+cu128",
        "built_for": "12.8",
        "gpus": [["NVIDIA H200", 140 * GB]],
        "mps": False,
        "triton": True,
    } | changes


def test_the_gpu_is_named_with_its_memory():
    assert doctor._gpu(facts()) == Finding("ok", "GPU", "NVIDIA H200 (140 GB)")


@pytest.mark.parametrize(("built_for", "words"), [("12.8", "update its driver"), (None, "install a torch for it")])
def test_without_a_gpu_the_cpu_is_offered(built_for, words):
    finding = doctor._gpu(facts(gpus=[], built_for=built_for))
    assert finding.severity == "warning"
    assert words in finding.fix
    assert "-device cpu" in finding.fix


def test_an_apple_gpu_is_offered():
    assert "-device mps" in doctor._gpu(facts(gpus=[], built_for=None, mps=True)).text


@pytest.mark.skipif(sys.platform == "win32", reason="nnU-Net does not compile on Windows")
@pytest.mark.parametrize(
    ("changes", "compiler", "setting", "level"),
    [
        ({}, "gcc", None, "ok"),
        ({}, "clang", "t", "ok"),
        ({}, None, None, "problem"),
        ({"triton": False}, "gcc", "True", "problem"),
        ({"triton": False}, None, "f", "ok"),
        ({"gpus": []}, None, None, "ok"),
    ],
)
def test_compiling_needs_triton_and_a_compiler_where_nnunet_compiles(monkeypatch, changes, compiler, setting, level):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("nnUNet_compile", raising=False)
    if setting is not None:
        monkeypatch.setenv("nnUNet_compile", setting)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == compiler else None)
    finding = doctor._compile(facts(**changes))
    assert finding.severity == level
    assert (setting or "not set") in finding.text


def test_torch_2_9_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "_python", answer(json.dumps(facts(version="2.9.1+cu128"))))
    version, _, _ = doctor.torch_and_gpu()
    assert version.severity == "warning"
    assert "166122" in version.text


def test_a_torch_that_cannot_be_imported_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = the_one(doctor.torch_and_gpu())
    assert finding.severity == "problem"
    assert "libcudart.so" in finding.text


def test_no_workers_is_a_warning_because_planning_crashes(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    finding = next(finding for finding in doctor.workers() if finding.kind == "nnUNet_n_proc_DA")
    assert finding.severity == "warning"
    assert "nnUNetv2_plan_and_preprocess" in finding.fix


@pytest.mark.parametrize("variable", ["nnUNet_n_proc_DA", "nnUNet_def_n_proc"])
def test_a_number_of_workers_that_is_no_number_is_a_problem(monkeypatch, variable):
    monkeypatch.setenv(variable, "many")
    finding = the_one(doctor.workers())
    assert (finding.severity, finding.kind) == ("problem", variable)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="Windows does not tell")
def test_little_memory_for_each_worker_is_a_warning(monkeypatch):
    pages = 16 * GB // 4096
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else pages)
    assert the_one(doctor._memory(7)).severity == "ok"
    finding = the_one(doctor._memory(18))
    assert finding.severity == "warning"
    assert finding.fix.endswith("nnUNet_n_proc_DA=4")  # 4 + 2 workers and the main process


def test_little_shared_memory_is_a_warning_only_if_there_are_workers(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(GB // 16, 0, GB // 16))  # Docker's default
    finding = the_one(doctor._shared_memory(6, str(tmp_path)))
    assert finding.severity == "warning"
    assert "--ipc=host" in finding.fix
    assert the_one(doctor._shared_memory(0, str(tmp_path))).severity == "ok"
    assert doctor._shared_memory(6, str(tmp_path / "no Linux")) == []


def test_few_open_files_are_a_warning(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    assert the_one(doctor._open_files()).severity == "warning"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert the_one(doctor._open_files()).severity == "ok"
