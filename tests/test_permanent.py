"""``nnunet-ext enable`` and ``disable`` in a real, otherwise empty virtual environment."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunet_ext import discovery_folder, permanent, register
from nnunet_ext.discovery import VARIABLE
from nnunet_ext.errors import InputError

OURS = str(discovery_folder())
SHOW = f"import os; print(os.environ.get({VARIABLE!r}))"


@dataclass
class Environment:
    """A virtual environment in which nnunet_ext is installed like an editable package: through a ``.pth`` file."""

    python: str
    site_packages: Path

    @property
    def link(self) -> Path:
        return self.site_packages / "__editable__.nnunet_ext-0.pth"

    def run(self, *arguments: str, value: str | None = None) -> subprocess.CompletedProcess[str]:
        variables = {name: text for name, text in os.environ.items() if name not in (VARIABLE, "PYTHONPATH")}
        if value is not None:
            variables[VARIABLE] = value
        return subprocess.run(
            [self.python, *arguments], env=variables, cwd=self.site_packages.parent, capture_output=True, text=True
        )

    def command(self, name: str) -> str:
        done = self.run("-m", "nnunet_ext", name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def variable(self, value: str | None = None) -> str:
        """The variable as a new Python sees it."""
        done = self.run("-c", SHOW, value=value)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def files(self) -> set[str]:
        return {path.name for path in self.site_packages.iterdir()}


@pytest.fixture
def environment(tmp_path) -> Environment:
    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site_packages = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    made = Environment(str(python), site_packages)
    made.link.write_text(f"{Path(permanent.__file__).resolve().parent.parent}\n")
    return made


def test_nothing_is_set_before_enable(environment):
    assert environment.variable() == "None"


def test_after_enable_every_new_python_names_our_folder(environment):
    said = environment.command("enable")
    assert (
        str(environment.site_packages.parents[2] if os.name != "nt" else environment.site_packages.parents[1]) in said
    )
    assert environment.variable() == OURS


def test_enable_keeps_the_users_own_value_first(environment):
    environment.command("enable")
    assert environment.variable("/mine") == os.pathsep.join(["/mine", OURS])
    assert environment.variable(OURS) == OURS


def test_enable_twice_is_enable_once(environment):
    environment.command("enable")
    files = environment.files()
    assert "already" in environment.command("enable")
    assert environment.files() == files
    assert environment.variable() == OURS


def test_enable_repairs_a_file_of_an_older_version(environment):
    environment.command("enable")
    (environment.site_packages / "nnunet_ext_discovery.pth").write_text("# old\n")
    environment.command("enable")
    assert environment.variable() == OURS


def test_disable_restores_what_was_there(environment):
    files = environment.files()
    environment.command("enable")
    assert environment.files() > files
    assert "Removed" in environment.command("disable")
    assert environment.files() == files
    assert environment.variable() == "None"


def test_disable_says_when_there_is_nothing_to_remove(environment):
    assert "nothing to remove" in environment.command("disable")


def test_python_starts_quietly_after_the_package_was_uninstalled(environment):
    environment.command("enable")
    environment.link.unlink()
    assert environment.variable() == "None"


def test_python_starts_quietly_after_an_uninstall_that_left_a_folder_behind(environment):
    environment.command("enable")
    environment.link.unlink()
    (environment.site_packages / "nnunet_ext" / "__pycache__").mkdir(parents=True)
    assert environment.variable() == "None"


def test_an_enabled_python_starts_without_torch_and_nnunet(environment):
    environment.command("enable")
    done = environment.run(
        "-c", "import sys; print('nnunet_ext' in sys.modules, {'torch', 'nnunetv2'} & {*sys.modules})"
    )
    assert done.stdout.strip() == "True set()"


def test_python_from_3_18_on_gets_an_entry_point_of_pep_829():
    assert set(permanent._files((3, 17))) == {"nnunet_ext_discovery.pth"}
    entry_point = permanent._files((3, 18))["nnunet_ext_discovery.start"]
    assert pkgutil.resolve_name(entry_point.strip()) is register


def test_an_environment_that_cannot_be_written_to_is_an_input_error_that_names_the_export(monkeypatch, tmp_path):
    missing = tmp_path / "missing"
    monkeypatch.setattr(permanent.sysconfig, "get_paths", lambda: {"purelib": str(missing)})
    with pytest.raises(InputError, match="export nnUNet_extTrainer") as caught:
        permanent.enable()
    assert str(missing) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_enable_leaves_the_old_file_and_nothing_else(monkeypatch, tmp_path):
    old = tmp_path / "nnunet_ext_discovery.pth"
    old.write_text("# old\n")
    monkeypatch.setattr(permanent.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        permanent.enable()
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_text() == "# old\n"


def test_a_disable_that_may_not_delete_says_what_to_delete(monkeypatch, tmp_path):
    file = tmp_path / "nnunet_ext_discovery.pth"
    file.mkdir()  # a folder cannot be unlinked
    monkeypatch.setattr(permanent.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    with pytest.raises(InputError, match="delete"):
        permanent.disable()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
def test_all_users_of_a_shared_environment_may_read_the_file(environment):
    environment.command("enable")
    link = environment.link.stat().st_mode & 0o777
    assert (environment.site_packages / "nnunet_ext_discovery.pth").stat().st_mode & 0o777 == link
