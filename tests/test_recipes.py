"""The recipes for Docker, Apptainer and conda are pinned, complete, and install what the package says it needs.

Nothing is built here: what can be wrong without building is looked for.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.cli import _parser
from nnunet_ext.version import __version__

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
PROGRAMS = {"apt-get", "chown", "mkdir", "nnunet-ext", "python", "rm", "set", "useradd"}
SOURCES = {"pyproject.toml", "README.md", "LICENSE", "nnunet_ext", "trainers", "plans"}
"""All that ``pip install`` of a checkout reads."""


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile, comments left out and continued lines joined."""
    lines = (PACKAGING / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def sections() -> dict[str, list[str]]:
    """Those of the Apptainer recipe, and its header under an empty name."""
    found: dict[str, list[str]] = {"": []}
    for line in (PACKAGING / "nnunet-ext.def").read_text().splitlines():
        if line.startswith("%"):
            found[name := line.removeprefix("%").strip()] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            found[name if len(found) > 1 else ""].append(line.strip())
    return found


def of(kind: str) -> list[str]:
    return [value for name, value in instructions() if name == kind]


DOCKER_COMMANDS = [command for line in of("RUN") for command in re.split(r"\s*&&\s*", line)]
COMMANDS = [*DOCKER_COMMANDS, *sections()["post"], *sections()["test"]]
"""Every command that the recipes for Docker and Apptainer run."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_known_one_and_leaves_no_caches(command):
    shell = shutil.which("bash")
    if shell:
        subprocess.run([shell, "-n", "-c", command], check=True)
    words = shlex.split(command)
    assert words[0] in PROGRAMS
    if words[:2] == ["apt-get", "install"]:
        assert {"--yes", "--no-install-recommends"} <= set(words)
    if words[0] == "python":
        assert words[1:5] == ["-m", "pip", "install", "--no-cache-dir"]
    if words[0] == "nnunet-ext":
        _parser().parse_args(words[1:])


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_the_versions_of_torch_are_the_same_in_both_and_allowed_by_nnunet(name):
    arguments = dict(value.split("=") for value in of("ARG"))
    others = dict(value.split("=") for value in sections()["arguments"])
    assert arguments == {key.upper(): value for key, value in others.items()}
    assert arguments["TORCH"] == "cpu"
    assert not arguments["TORCH_VERSION"].startswith("2.9.")
    # torchvision 0.N belongs to torch 2.(N - 15)
    minor = {key: int(arguments[f"{key.upper()}_VERSION"].split(".")[1]) for key in ("torch", "torchvision")}
    assert minor["torchvision"] == minor["torch"] + 15
    docker, apptainer = (
        next(line for line in lines if f'"{name}==' in line) for lines in (of("RUN"), sections()["post"])
    )
    assert f"{name}==${{{name.upper()}_VERSION}}" in docker
    assert f"{name}=={{{{ {name}_version }}}}" in apptainer


def test_both_begin_with_the_same_image_of_an_exact_version():
    (base,) = of("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert f"From: {base}" in sections()[""]
    assert "Bootstrap: docker" in sections()[""]


def test_the_image_holds_what_is_installed_and_nothing_else_of_the_checkout():
    copied = {source for value in of("COPY") for source in value.split()[:-1]}
    allowed = [
        line for line in (PACKAGING / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    files = [line.split() for line in sections()["files"]]
    assert copied == {line.removeprefix("!") for line in allowed} == {source for source, _ in files} == SOURCES
    assert all((ROOT / source).exists() for source in SOURCES)
    assert all(target == f"/source/{source}" for source, target in files)
    assert all(value.split()[-1] in {"/source/", f"/source/{value.split()[0]}"} for value in of("COPY"))


def test_the_container_does_not_run_as_root_and_has_nnunets_folders():
    kinds = [kind for kind, _ in instructions()]
    assert kinds.index("USER") > max(index for index, kind in enumerate(kinds) if kind == "RUN")
    assert of("USER") == ["1000"]
    assert any("--uid 1000" in line for line in of("RUN"))
    folders = dict(pair.split("=") for pair in of("ENV")[0].split())
    assert folders == {f"nnUNet_{name}": f"/data/{name}" for name in ("raw", "preprocessed", "results")}
    assert all(folder in DOCKER_COMMANDS[-2].split() for folder in folders.values())


def requirements(lines: list[str]) -> dict[str, str]:
    found = [re.fullmatch(r"([\w.-]+) ?(.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_the_conda_recipe_says_what_pyproject_says():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    recipe = yaml.safe_load((PACKAGING / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == __version__
    assert recipe["package"] == {"name": project["name"], "version": "${{ version }}"}
    entries = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == entries
    python = f"python {project['requires-python']}"
    needed = [line.replace("matplotlib-base ", "matplotlib ") for line in recipe["requirements"]["run"]]
    spaced = [re.sub(r"([<>=!].*)", r" \1", line, count=1) for line in project["dependencies"]]
    assert requirements(needed) == requirements([python, *spaced])
    build = [re.sub(r"([<>=!].*)", r" \1", line, count=1) for line in pyproject["build-system"]["requires"]]
    assert requirements(recipe["requirements"]["host"]) == requirements([python, "pip", *build])
    assert recipe["about"]["license"] == project["license"]
    assert recipe["about"]["license_file"] == project["license-files"]
    assert recipe["about"]["summary"] == project["description"]
    assert ((PACKAGING / "conda") / recipe["source"]["path"]).resolve() == ROOT
    for command in recipe["tests"][1]["script"]:
        _parser().parse_args(shlex.split(command)[1:])


def test_the_page_says_that_nothing_was_built_and_names_arguments_that_exist():
    page = (ROOT / "docs" / "containers.md").read_text()
    assert "None of these recipes was built" in page
    given = re.findall(r"--build-arg (\w+)=", page)
    assert sorted(given) == ["TORCH", "torch"]
    assert set(re.findall(r"packaging/[\w./-]+", page)) == {
        f"packaging/{name}" for name in ("Dockerfile", "nnunet-ext.def", "conda")
    }
    assert set(re.findall(r"-tr (\w+)", page)) <= set(TRAINERS)
