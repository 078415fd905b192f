"""``nnunet-ext enable`` and ``disable``: let nnU-Net find our trainers without an export, in one Python environment.

Python runs the import lines of ``.pth`` files in site-packages when it starts. Ours calls :func:`nnunet_ext.register`,
which appends our folder to the user's own value and never replaces it. The line first checks whether the package is
there (a folder left behind by an uninstall has no ``origin``), so Python starts quietly after ``pip uninstall``. Files
are read alphabetically: those of editable installs (``__editable__…``, ``_….pth``, ``easy-install.pth``) come before
ours.

PEP 829 replaces import lines by ``.start`` files, which name a function. Python 3.15 reads both, 3.18 ignores import
lines. A ``.start`` file switches the import line off and cannot ask whether the package is there (Python would report
a missing one at every start), so we write it only where the import line no longer works.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing

_PTH = "nnunet_ext_discovery.pth"
_START = "nnunet_ext_discovery.start"
_IMPORT_LINE = (
    "import importlib.util; "
    'getattr(importlib.util.find_spec("nnunet_ext"), "origin", None) and __import__("nnunet_ext").register()\n'
)
_ENTRY_POINT = "nnunet_ext.discovery:register\n"


def _site_packages() -> Path:
    return Path(sysconfig.get_paths()["purelib"])


def _files(python: tuple[int, ...] = sys.version_info[:2]) -> dict[str, str]:
    """Content of the files that this version of Python reads at its start, by file name."""
    return {_PTH: _IMPORT_LINE} | ({_START: _ENTRY_POINT} if python >= (3, 18) else {})


def _write(path: Path, text: str) -> None:
    # Replaced as a whole: another Python may start and read the file at any moment.
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def enable() -> str:
    """Let nnU-Net find our trainers in this environment; returns the sentence to print.

    Raises:
        InputError: the environment cannot be written to.
    """
    folder = _site_packages()
    files = _files()
    if all((folder / name).is_file() and (folder / name).read_text() == text for name, text in files.items()):
        return f"nnU-Net already finds these trainers in the environment {sys.prefix}; undo with: nnunet-ext disable"
    try:
        for name, text in files.items():
            _write(folder / name, text)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); put this line into your shell's start-up file instead: "
            'export nnUNet_extTrainer="$(nnunet-ext path)"'
        ) from error
    return (
        f"From now on nnU-Net finds these trainers in the environment {sys.prefix} "
        f"(wrote {', '.join(str(folder / name) for name in files)}); undo with: nnunet-ext disable"
    )


def disable() -> str:
    """Undo :func:`enable`; returns the sentence to print.

    Raises:
        InputError: the environment cannot be written to.
    """
    folder = _site_packages()
    there = [path for path in (folder / _PTH, folder / _START) if path.exists()]
    if not there:
        return f"There was nothing to remove: enable has not been used in the environment {sys.prefix}."
    try:
        for path in there:
            path.unlink()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); delete {' and '.join(map(str, there))} "
            "as the user who owns it."
        ) from error
    return (
        f"Removed {', '.join(map(str, there))}; in the environment {sys.prefix} nnU-Net finds these trainers only "
        "where nnUNet_extTrainer is exported."
    )
