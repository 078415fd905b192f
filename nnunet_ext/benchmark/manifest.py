"""The manifest of a package: SHA-256 and size of every file. Also replaces an old package by a new one."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write SHA-256 and size of every file of the folder."""
    write_json(folder / MANIFEST, {"files": {name: fingerprint(folder / name) for name in files_in(folder)}})


def fingerprint(file: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, as in the manifest."""
    content = file.read_bytes()
    return {"sha256": sha256(content).hexdigest(), "bytes": len(content)}


def files_in(folder: Path) -> list[str]:
    """Relative paths of all files of a package, without the manifest and hidden files."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix() for path in paths if path.as_posix() != MANIFEST and not any(p[0] == "." for p in path.parts)
    )


def install(new: Path, target: Path) -> None:
    """Move the package ``new`` to ``target``. Files there that belong to no package stay.

    Files move one by one, the manifest last. So after a kill every file is a whole old or new one, and writing the
    package again finishes the work. Files of the earlier package that the new one lacks are removed.
    """
    if not target.exists():
        new.rename(target)
        return
    earlier = _listed_before(target)
    files = files_in(new)
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(target / name)
    for name in earlier - set(files):
        (target / name).unlink(missing_ok=True)
    for name in ("figures", "plans", "logs"):
        if (target / name).is_dir() and not any((target / name).iterdir()):
            (target / name).rmdir()
    (new / MANIFEST).replace(target / MANIFEST)


def manifest_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Read SHA-256 and size of every file from ``manifest.json``.

    Raises:
        InputError: it is missing or broken.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{path} is missing: the report was not written to its end; write it again.")
    files = read_json(path).get("files")
    if not isinstance(files, dict) or not files:
        raise InputError(f"{path} has no list of files; write the report again.")
    for name, entry in files.items():
        parts = Path(name).parts
        inside = parts and not Path(name).is_absolute() and ".." not in parts
        if not inside or not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
            raise InputError(f"{path}: the entry {name!r} is no file of the package with sha256 and bytes.")
    return files


# --- parts ------------------------------------------------------------------------------------------------------------


def _listed_before(folder: Path) -> set[str]:
    """The files of an earlier package in ``folder``; none if its manifest is missing or broken."""
    try:
        return set(manifest_of(folder))
    except InputError:
        return set()
