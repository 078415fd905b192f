"""The workflows of GitHub keep what they promise, as far as it can be seen without running them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def content(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_may_only_read_and_names_versions_of_what_it_uses(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", name)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_files_that_a_workflow_runs_exist(file):
    commands = "\n".join(step.get("run", "") for step in steps(yaml.safe_load(file.read_text())))
    files = re.findall(r"bash (\S+)", commands) + re.findall(r'run_path\("([^"]+)"\)', commands)
    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_only_the_job_that_publishes_gets_a_token_and_nobody_has_a_password():
    workflow = content("publish")
    publish = workflow["jobs"].pop("publish")
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert publish["needs"] == "build"
    assert not any("permissions" in job for job in workflow["jobs"].values())
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    assert "UNVERIFIED: this has never run" in text
    assert "secrets." not in text
    # yaml reads the key "on" as true
    assert workflow[True] == {"release": {"types": ["published"]}}


def test_nnunets_master_is_tried_and_may_fail_alone():
    job = content("ci")["jobs"]["test"]
    tried = [row.get("nnunetv2") for row in job["strategy"]["matrix"]["include"]]
    assert tried.count("master") == 1
    assert job["continue-on-error"] == "${{ matrix.nnunetv2 == 'master' }}"
    assert job["strategy"]["fail-fast"] is False


@pytest.mark.skipif(shutil.which("bash") is None, reason="a script of bash")
@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("", []),
        ("2.8.0", ["nnunetv2==2.8.0"]),
        ("master", ["nnunetv2 @ git+https://github.com/MIC-DKFZ/nnUNet.git@master"]),
    ],
)
def test_a_release_or_the_master_of_nnunet_is_installed(version, expected):
    script = (ROOT / ".ci" / "run").read_text()
    chosen = script[script.index("case ") : script.index("if [")]
    environment = {"PATH": os.environ["PATH"], "NNUNETV2": version}
    code = f'set -euo pipefail\npip() {{ printf "%s\\n" "$@"; }}\n{chosen}'
    shown = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ["install", "-q", "-e", ".[test,docs]", *expected]
