"""Cases that a page can open: their images, the files of their label maps and sessions, and their status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_ext.data.channels import images_by_case, require_channels, require_numbered
from nnunet_ext.data.spacing_files import spacing_file
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json

Status = Literal["untouched", "in work", "accepted"]

LEDGER = "cases.json"
"""File in the folder of the label maps that lists the accepted cases."""


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case.

    Attributes:
        name: name of the case, as shown to the user.
        images: one file per channel.
        out: file to save the label map to; None allows only downloads.
    """

    name: str
    images: tuple[Path, ...]
    out: Path | None = None

    @property
    def session(self) -> Path | None:
        """File of the session, beside the label map; None if ``out`` is None."""
        return None if self.out is None else self.out.with_name(f"{_without_ending(self.out)}.session")


def single_case(images: Sequence[Path], out: Path | None) -> CaseFiles:
    """The case of one image, given as one file per channel; ``case_0000.nii.gz`` gives the name ``case``."""
    return CaseFiles(_without_ending(images[0]).removesuffix("_0000") or "case", tuple(images), out)


def _without_ending(file: Path) -> str:
    """The name of a file without ``.nii.gz`` or the like; names may hold other dots, as DICOM's UIDs do."""
    return Path(file.name.removesuffix(".gz")).stem


def cases_in(folder: Path, out: Path, description: Mapping[str, Any]) -> list[CaseFiles]:
    """The cases of a folder, by name.

    Args:
        folder: folder of images, named as for ``nnUNetv2_predict``.
        out: folder of the label maps; it is created.
        description: content of the model's ``dataset.json``.

    Raises:
        InputError: there is no image, a case lacks a channel or has one too many, its files would replace the list of
            accepted cases, or ``out`` is a file.
    """
    ending = description["file_ending"]
    found = images_by_case(folder, ending)
    if not found:
        raise InputError(f"{folder} holds no image such as case_0000{ending}; name them as for nnUNetv2_predict.")
    require_channels(
        {name: require_numbered(folder, ending, name, files) for name, files in found.items()}, description
    )
    for name in found:
        spacing = spacing_file(out / f"{name}{ending}")
        if spacing is not None and spacing.name == LEDGER:
            raise InputError(
                f"The spacing of case {name} would replace {spacing}, the list of accepted cases; rename the case."
            )
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"--out {out} cannot be made a folder ({reason}); a folder of images needs one.") from None
    return [CaseFiles(name, tuple(files), out / f"{name}{ending}") for name, files in sorted(found.items())]


class Ledger:
    """List of the accepted cases, kept in a file.

    Args:
        file: JSON file; it is created at the first change.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        content = read_json(file) if file.is_file() else {}
        self._accepted = set(content.get("accepted", []))

    def accept(self, name: str, accepted: bool) -> None:
        """Note that a case is accepted, or no longer accepted."""
        if accepted != (name in self._accepted):
            if self.file.is_file():  # another server may have written it
                self._accepted = set(read_json(self.file).get("accepted", []))
            (self._accepted.add if accepted else self._accepted.discard)(name)
            write_json(self.file, {"accepted": sorted(self._accepted)})

    def status(self, case: CaseFiles) -> Status:
        """The status of a case."""
        if case.name in self._accepted:
            return "accepted"
        return "in work" if case.session is not None and case.session.is_file() else "untouched"


def first_open(cases: Sequence[CaseFiles], ledger: Ledger) -> CaseFiles:
    """The first case that is not accepted; the first of all if every case is."""
    return next((case for case in cases if ledger.status(case) != "accepted"), cases[0])
