"""Where nnU-Net finds our trainers, and what the catalogue promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nnunet_ext import register
from nnunet_ext.catalogue import TRAINERS, resolve
from nnunet_ext.cli import main
from nnunet_ext.discovery import VARIABLE, discovery_folder, extended_value

REPOSITORY = Path(__file__).resolve().parent.parent
OURS = str(discovery_folder())


def joined(*folders: str) -> str:
    return os.pathsep.join(folders)


def test_the_discovery_folder_holds_nothing_but_the_door():
    modules = {path.name for path in Path(OURS).glob("*.py")}
    assert modules == {"__init__.py", "nnunet_ext_trainers.py"}


@pytest.mark.parametrize("current", [None, "", os.pathsep, " "])
def test_our_folder_is_the_whole_value_where_none_is_set(current):
    assert extended_value(current) == OURS


def test_our_folder_is_appended_and_the_order_of_the_others_is_kept():
    assert extended_value(joined("/b", "/a")) == joined("/b", "/a", OURS)


@pytest.mark.parametrize("current", [OURS, joined(OURS, "/a"), joined("/b", OURS, "/a")])
def test_a_value_that_names_our_folder_already_stays_as_it_is(current):
    assert extended_value(current) == current


def test_register_twice_adds_our_folder_once_behind_the_users_own(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/mine")
    register()
    register()
    assert os.environ[VARIABLE] == joined("/mine", OURS)


def test_the_command_path_keeps_a_value_that_is_already_set(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "/mine")
    assert main(["path"]) == 0
    assert capsys.readouterr().out == joined("/mine", OURS) + "\n"


def test_the_command_path_prints_one_line_for_the_shell(monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert main(["path"]) == 0
    assert capsys.readouterr().out == OURS + "\n"


def test_importing_the_package_its_commands_and_its_catalogue_loads_neither_torch_nor_nnunet():
    code = (
        "import sys, nnunet_ext, nnunet_ext.cli, nnunet_ext.catalogue, nnunet_ext.doctor, nnunet_ext.permanent\n"
        "print([name for name in ('torch', 'numpy', 'nnunetv2') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert shown.stdout.strip() == "[]"


def test_the_packages_of_pyproject_are_those_of_the_tree():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    tree = {
        ".".join(path.parent.relative_to(REPOSITORY).parts) for path in REPOSITORY.glob("nnunet_ext/**/__init__.py")
    }
    mapped = settings["package-dir"]
    assert mapped == {"nnunet_ext.plans": "plans", "nnunet_ext.trainers": "trainers"}
    assert all((REPOSITORY / folder / "__init__.py").is_file() for folder in mapped.values())
    assert settings["packages"] == sorted(tree | set(mapped))


def test_no_trainer_is_called_like_a_stock_one():
    spec = find_spec("nnunetv2")
    assert spec is not None
    assert spec.origin is not None
    sources = (Path(spec.origin).parent / "training" / "nnUNetTrainer").rglob("*.py")
    stock = {name for source in sources for name in re.findall(r"(?m)^class (\w+)", source.read_text(encoding="utf-8"))}
    assert "nnUNetTrainer" in stock
    assert not stock & set(TRAINERS)


@pytest.mark.parametrize("name", ["nnUNetTrainerNoSuch", "nnUNetTrainerNoSuch_5epochs", "nnUNetTrainerPnPNet_0epochs"])
def test_an_unknown_trainer_raises_an_error_that_lists_all_trainers(name):
    with pytest.raises(LookupError, match=name) as caught:
        resolve(name)
    assert all(trainer in str(caught.value) for trainer in TRAINERS)
