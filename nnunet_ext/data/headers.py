"""Headers of image files: how many bytes a file must have, and how many values each voxel holds.

Readers do not check either. ITK reads a truncated NIfTI file as if zeros followed, tifffile reads the pages that are
left, and skimage takes a stack of three or four pages for colours.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nnunet_ext.errors import InputError

CHUNK = 2**20

PACKED = 100_000
"""Highest compression ratio that a page of a TIFF is believed to have."""

SLOPE = 2.3e-16
"""Smallest scale of a NIfTI header that is accepted. ITK ignores smaller ones, nibabel applies them."""

NIFTI_BYTES = {
    **{2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2},
    **{768: 4, 1024: 8, 1280: 8, 1536: 16, 1792: 16, 2048: 32, 2304: 4},
}
"""Bytes per voxel, by NIfTI's code of the data type."""

NIFTI_PARTS = {128: (3, "colours (RGB)"), 2304: (4, "colours (RGBA)")} | dict.fromkeys(
    (32, 1792, 2048), (2, "parts (complex numbers)")
)
"""NIfTI data types with several numbers per voxel: how many numbers, and their kind."""

FIX = {
    "frames": "export the frame that was labelled as a 3D label map",
    "layers": "segments that overlap lie in layers; export one label map of all (3D Slicer: Export to new labelmap)",
    "pages": "save one image, or a stack whose pages are slices (z)",
    "axes": "if its pages are slices, save them as such (axes ZYX), otherwise the one that was labelled",
    "parts": "save whole numbers",
    "colours": "save a greyscale image whose grey values are the numbers of the labels",
}
"""Fix for each kind of values that a voxel may hold instead of one label."""


@dataclass(frozen=True)
class Values:
    """Number of values per voxel, and their kind, such as ``frames`` or ``colours (RGB)``."""

    count: int
    kind: str


# --- bytes ------------------------------------------------------------------------------------------------------------


def require_whole(path: Path) -> None:
    """Raise InputError if a file holds fewer bytes than its header claims, or is damaged.

    Not checked: formats whose reader reports damage itself (bmp), and voxels in a file other than the header's.
    """
    name = path.name.lower()
    with _damage_named(path):
        if name.endswith((".nii", ".nii.gz")):
            _whole_nifti(path)
        elif name.endswith((".nrrd", ".mha", ".gipl")):
            _whole_itk(path)
        elif name.endswith(".png"):
            _whole_png(path)
        elif name.endswith((".tif", ".tiff")):
            _whole_tiff(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries that read files; our own messages say what matters."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # every library raises its own type of error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is damaged or not complete ({reason}); restore it, or write it again.") from None


def _require_bytes(path: Path, claimed: int, there: int) -> None:
    if there < claimed:
        raise InputError(
            f"{path} is not complete: its header claims {claimed} bytes of voxels, but there are {max(there, 0)}; "
            "restore it, or write it again."
        )


def _whole_nifti(path: Path) -> None:
    zipped = path.name.lower().endswith(".gz")
    with gzip.open(path) if zipped else path.open("rb") as file:
        header = _nifti(head := file.read(544))
        there = len(head) + _rest(file) if zipped else path.stat().st_size
    _require_bytes(path, math.prod(header.size) * NIFTI_BYTES[header.kind], there - header.offset)


def _whole_itk(path: Path) -> None:
    start, packed = _itk_data(path)
    image = _itk_information(path)
    parts = image.GetNumberOfComponents()
    bits = re.search(r"(\d+)-bit", _pixel_type(image))
    claimed = math.prod(image.GetSize()) * parts * (int(bits[1]) // 8 if bits else 1)
    if not claimed:
        raise OSError("its header claims no voxels")
    if start is None:
        return
    with path.open("rb") as file:
        file.seek(start)
        there = _unzipped(file.read(packed), claimed) if packed is not None else path.stat().st_size - start
    _require_bytes(path, claimed, there)


def _itk_data(path: Path) -> tuple[int | None, int | None]:
    """Where the voxels begin, and how many compressed bytes they take.

    The offset is None if the voxels are in another file, or encoded in a way that only ITK checks. The number of bytes
    is -1 if the compressed voxels fill the rest of the file, and None if they are not compressed.
    """
    if path.name.lower().endswith(".gipl"):
        return 256, None
    with path.open("rb") as file:
        head = file.read(CHUNK)
    if path.name.lower().endswith(".nrrd"):
        end = re.search(rb"\r?\n\r?\n", head)
        fields = dict(re.findall(rb"(?m)^([\w ]+): *(.*?)\r?$", head[: end.start()])) if end else {}
        encoding = fields.get(b"encoding", b"").lower()
        attached = not {b"data file", b"datafile", b"byte skip", b"line skip"} & set(fields)
        if end and attached and encoding in (b"raw", b"gz", b"gzip"):
            return end.end(), None if encoding == b"raw" else -1
        return None, None
    if b"ElementDataFile" not in head:
        raise OSError("its header does not end")
    axes = re.search(rb"(?m)^NDims *= *([2-4])\r?$", head)
    size = re.search(rb"(?m)^DimSize *=((?: +\d+)+) *\r?$", head)
    if axes is None or size is None or len(size[1].split()) != int(axes[1]):  # ITK crashes on some other numbers
        raise OSError("its header has no NDims from 2 to 4 with as many numbers in DimSize")
    end = re.search(rb"(?m)^ElementDataFile *= *LOCAL\r?\n", head)
    if end is None:
        return None, None
    lines = head[: end.end()].splitlines()
    if wrong := [line for line in lines if not re.match(rb"\w+ *=", line)]:
        raise OSError(f"its header has the line {wrong[0][:40]!r}")
    keys = [line.partition(b"=")[0].strip() for line in lines]
    if len(set(keys)) < len(keys):
        raise OSError("its header says something twice")
    fields = dict(zip(keys, (line.partition(b"=")[2].strip() for line in lines), strict=True))
    compressed = fields.get(b"CompressedData", b"False").lower()
    if compressed not in (b"true", b"false"):  # ITK takes anything that begins with "true" as true
        raise OSError("its header does not say whether the voxels are compressed")
    if compressed == b"false":
        return end.end(), None
    packed = re.search(rb"(?m)^CompressedDataSize *= *(\d+)\r?$", head[: end.end()])
    if packed is None:  # without it ITK accepts any number of bytes, even if they do not unpack
        raise OSError("its header has no CompressedDataSize")
    return end.end(), int(packed[1])


def _whole_png(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()  # the checksums of all chunks


def _whole_tiff(path: Path) -> None:
    """Raise unless the chain of pages ends and the voxels of every page are there."""
    import tifffile

    for _ in _tiff_pages(path):
        pass
    size = path.stat().st_size
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            first: Any = page.keyframe
            claimed = math.prod(page.shape) * first.bitspersample // 8
            packed = first.compression != 1
            _require_bytes(path, claimed, sum(page.databytecounts) * (PACKED if packed else 1))
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                _require_bytes(path, count, size - start)
                if not count or start < 8:  # tifffile reads such voxels as zeros
                    raise OSError(f"its header claims {count} bytes of voxels from byte {start} on")


def _tiff_pages(path: Path) -> Iterator[int]:
    """Offsets of the pages. Each page holds the offset of the next one; the last page holds 0."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order = {b"II": "<", b"MM": ">"}.get(file.read(2), "")
        kind = struct.unpack(f"{order}H", file.read(2))[0] if order else 0
        if kind not in (42, 43):
            raise OSError("it does not begin like a TIFF file")
        count, entry, pointer = ("H", 12, "I") if kind == 42 else ("Q", 20, "Q")
        file.seek(4 if kind == 42 else 8)
        seen: set[int] = set()
        offset = struct.unpack(order + pointer, file.read(struct.calcsize(pointer)))[0]
        while offset:
            if offset >= size or offset in seen:
                raise OSError(f"page {len(seen) + 1} is not there")
            seen.add(offset)
            yield offset
            file.seek(offset)
            entries = struct.unpack(order + count, file.read(struct.calcsize(count)))[0]
            file.seek(entries * entry, 1)
            offset = struct.unpack(order + pointer, file.read(struct.calcsize(pointer)))[0]


def _rest(file: IO[bytes] | gzip.GzipFile) -> int:
    """Count the remaining bytes by reading them. In a gzip stream this also verifies the checksums."""
    count = 0
    while block := file.read(CHUNK):
        count += len(block)
    return count


def _unzipped(packed: bytes, enough: int) -> int:
    """Count the bytes that a zlib or gzip stream unpacks to; stop soon after ``enough``."""
    unpack, count = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    while packed and not unpack.eof and count <= enough:
        count += len(unpack.decompress(packed, CHUNK))
        packed = unpack.unconsumed_tail
    if not unpack.eof and count <= enough:
        raise EOFError("the compressed voxels end too early")
    return count


# --- values per voxel -------------------------------------------------------------------------------------------------


def require_one_value(path: Path, reader: str) -> None:
    """Raise InputError if a label map holds more than one value per voxel.

    Args:
        path: a file that :func:`require_whole` accepts.
        reader: name of nnU-Net's reader, which decides whether the pages of a TIFF are slices.
    """
    found = values_of(path, reader)
    if found.count > 1:
        fix = next(text for kind, text in FIX.items() if kind in found.kind)
        raise InputError(f"{path} holds {found.count} {found.kind}, but a label map has one value per voxel; {fix}.")


def values_of(path: Path, reader: str) -> Values:
    """Return how many values each voxel of a file holds; one if its format does not say.

    Raises:
        InputError: the header cannot be read.
    """
    with _damage_named(path):
        return _values_of(path, reader)


def _values_of(path: Path, reader: str) -> Values:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
            header = _nifti(file.read(544))
        frames = math.prod(header.size[3:])
        return Values(frames, "frames") if frames > 1 else Values(*NIFTI_PARTS.get(header.kind, (1, "")))
    if name.endswith((".nrrd", ".mha", ".gipl")):
        image = _itk_information(path)
        if "complex" in _pixel_type(image):
            return Values(2, "parts (complex numbers)")
        if (layers := image.GetNumberOfComponents()) > 1:
            return Values(layers, "layers (numbers in each voxel)")
        return Values(math.prod(image.GetSize()[3:]), "frames")
    if name.endswith((".png", ".bmp")):
        return _picture(path)
    if name.endswith((".tif", ".tiff")):
        return _tiff(path, flat="Natural" in reader)
    return Values(1, "")


def _picture(path: Path) -> Values:
    from PIL import Image

    with Image.open(path) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            return Values(frames, "frames")
        if image.mode == "P":
            return Values(3, "colours of a palette")
        bands = image.getbands()
        return Values(len(bands), f"colours ({''.join(bands)})" if len(bands) > 1 else "")


def _tiff(path: Path, *, flat: bool) -> Values:
    """``flat``: nnU-Net reads the file as one 2D image, not as a volume."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.series) > 1:
            return Values(len(file.series), "pages of different kinds")
        axes, shape = file.series[0].axes, file.series[0].shape
        interleaved = axes.endswith("S")
    size = dict(zip(axes, shape, strict=True))
    # nnU-Net's own volumes of three or four slices have S first, because tifffile writes them as planes of colours
    if size.get("S", 1) > 1 and (interleaved or flat):
        return Values(size["S"], "colours")
    if (frames := size.get("T", 1) * size.get("C", 1)) > 1:
        return Values(frames, f"channels or times (its axes are {axes})")
    pages = math.prod(shape) // math.prod(shape[-2:])
    return Values(pages, "pages") if flat else Values(1, "")


# --- headers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Nifti:
    """Entries of a header: ``size`` of up to seven axes, ``kind`` of data type, byte ``offset`` of the first voxel."""

    size: tuple[int, ...]
    kind: int
    offset: int


def _nifti(head: bytes) -> _Nifti:
    """Parse the NIfTI header, version 1 or 2, in the first bytes of a file.

    Raises:
        OSError: there is no header, or its entries are impossible.
    """
    order = next((order for order in "<>" if head[:4] in (struct.pack(f"{order}i", n) for n in (348, 540))), None)
    new = order is not None and struct.unpack_from(f"{order}i", head)[0] == 540
    if order is None or len(head) < (540 if new else 348):
        raise OSError("it does not begin like a NIfTI file")
    magic = head[4:7] if new else head[344:347]
    if magic != (b"n+2" if new else b"n+1"):
        raise OSError(f"its magic word is {magic!r}, but a NIfTI file of one part has n+1 or n+2")
    if new:
        kind = struct.unpack_from(f"{order}h", head, 12)[0]
        dims: tuple[int, ...] = struct.unpack_from(f"{order}8q", head, 16)
        offset, slope = struct.unpack_from(f"{order}qd", head, 168)
    else:
        dims = struct.unpack_from(f"{order}8h", head, 40)
        kind = struct.unpack_from(f"{order}h", head, 70)[0]
        start, slope = struct.unpack_from(f"{order}2f", head, 108)
        offset = int(start) if math.isfinite(start) else -1
    size = dims[1 : dims[0] + 1] if 1 <= dims[0] <= 7 else ()
    if not size or min(size) < 1 or kind not in NIFTI_BYTES or offset < (540 if new else 348):
        raise OSError(f"its header claims sizes {list(dims)}, data type {kind} and voxels from byte {offset}")
    if 0 < abs(slope) < SLOPE:
        raise OSError(f"its header claims a scale of {slope:g}, which some readers take for none")
    return _Nifti(tuple(size), kind, offset)


def _itk_information(path: Path) -> Any:
    """The header of an image, read with ITK."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise OSError(str(error).rpartition("ERROR: ")[2] or str(error)) from None
    return reader


def _pixel_type(image: Any) -> str:
    import SimpleITK as sitk

    return sitk.GetPixelIDValueAsString(image.GetPixelID()).lower()
