"""Wheel and sdist hold the package, its data and its licences, and nothing else that lies in a checkout."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

from nnunet_ext.version import __version__

pytestmark = [pytest.mark.xdist_group("distributions"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FOLDERS = {"nnunet_ext": "nnunet_ext", "trainers": "nnunet_ext/trainers", "plans": "nnunet_ext/plans"}
"""Folders of a checkout that are installed, and where."""

DATA = {".css", ".html", ".j2", ".js", ".json", ".md", ".pth", ".txt", ".yaml"}
RUBBISH = (
    "nnunet_ext/benchmark/low-acdc/results/checkpoint_final.pth",
    "nnunet_ext/benchmark/specs/case_0000.nii.gz",
    "nnunet_ext/demo/raw/labelsTr/case.nii.gz",
    "nnunet_ext/viewer/page/.DS_Store/notes.txt",
    "nnunet_ext_benchmark_cpu-smoke/scores.csv",
    "nnunet_ext_demo/raw/imagesTr/case_0000.nii.gz",
    "docs/results/low-acdc/cases.csv",
    "tests/data/large.npz",
    "tests/test_half.py",
    "viewer/node_modules/x/index.js",
)
"""Files that lie about in a checkout after some work."""

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    copy = tmp_path_factory.mktemp("source") / "nnunet-ext"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    for name in RUBBISH:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"rubbish")
    return copy


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """The folder with the wheel and the sdist of a checkout; the wheel is made of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(checkout)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # new versions of pip show a user the warnings of a build
    assert "Package would be ignored" not in done.stdout + done.stderr
    return folder


def sources() -> set[str]:
    """Where the files of the package are after an installation."""
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"nnunet_ext-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 2 * MEGABYTE
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if not name.startswith(f"nnunet_ext-{__version__}.dist-info/")}
    assert package == sources()
    assert {PurePosixPath(name).suffix for name in package} <= {".py", *DATA}


def test_the_sdist_holds_what_a_build_needs_and_no_data(built):
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.stat().st_size < 2 * MEGABYTE
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in archive if member.isfile()}
    made = {name for name in names if name.parts[0] in {"PKG-INFO", "setup.cfg", "nnunet_ext.egg-info"}}
    needed = {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff"}
    package = {
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names - made == package | {PurePosixPath(name) for name in needed}


def test_the_metadata_name_the_licences_the_authors_and_the_command(built):
    (wheel,) = built.glob("*.whl")
    folder = f"nnunet_ext-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read(f"{folder}/METADATA").decode())
        licences = {name: archive.read(name) for name in archive.namelist() if name.startswith(f"{folder}/licenses/")}
        commands = archive.read(f"{folder}/entry_points.txt").decode().split("\n")
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == (
        "nnunet-ext",
        __version__,
        "Apache-2.0",
    )
    assert metadata["Author"] == "The nnunet-ext maintainers"
    assert metadata["Description-Content-Type"] == "text/markdown"
    bundled = "nnunet_ext/viewer/page/licences.txt"
    assert metadata.get_all("License-File") == ["LICENSE", bundled]
    assert licences == {f"{folder}/licenses/{name}": (ROOT / name).read_bytes() for name in ("LICENSE", bundled)}
    assert commands[:2] == ["[console_scripts]", "nnunet-ext = nnunet_ext.cli:main"]
