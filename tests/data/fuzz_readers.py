"""Mutated image files for every format that nnU-Net reads, against readers that are not its own.

``python -m tests.data.fuzz_readers [COUNT] [FORMAT …]`` prints, by format: how many of COUNT files were refused in one
sentence, how many were read with the same numbers as the other reader reads, and every other outcome, which is a bug:
another exception, other numbers, or a sentence of several lines. One exception is known: where the pages of a TIFF
contradict each other, nnU-Net's reader follows the first one, and pillow each.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError

SHAPE = (3, 5, 7)
WORDS = (
    b"\xff\xff",
    b"\x00\x00",
    b"\xff\x7f",
    b"\x00\x80",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x00",
    b"\x01",
    b"9",
    b"-",
)

VOLUME = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)


@dataclass(frozen=True)
class Format:
    """Format of label maps.

    Attributes:
        ending: with the dot.
        reader: of nnU-Net.
        other: reads a file in another way, to the values of a label map in the order of nnU-Net's array.
    """

    ending: str
    reader: str
    write: tuple[Callable[[Path], None], ...]
    other: Callable[[Path], NDArray]


def labels(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8)


def by_itk(kind: str = "uint8", *, compress: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = sitk.GetImageFromArray(labels().astype(kind))
        image.SetSpacing((0.5, 1.5, 3.0))
        sitk.WriteImage(image, str(path), compress)

    return write


def by_nibabel(kind: str = "uint8", shape: tuple[int, ...] = SHAPE[::-1]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        array = np.resize(labels(), shape).astype(kind)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 1.5, 3, 1])), path)

    return write


def by_pillow(mode: str, **options: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(labels()[0]).convert(mode).save(path, **options)

    return write


def by_tifffile(array: NDArray, **options: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, array, **options)


def paged(path: Path) -> None:
    """One page after the other, as other programs write them."""
    for page in VOLUME:
        tifffile.imwrite(path, page, append=True, metadata=None)


def with_nibabel(path: Path) -> NDArray:
    return np.asarray(nibabel.load(path).dataobj, dtype=np.float32).T


def with_pynrrd(path: Path) -> NDArray:
    import nrrd

    return np.asarray(nrrd.read(str(path), index_order="C")[0])


def by_hand_metaimage(path: Path) -> NDArray:
    """The few lines of a MetaImage of one part."""
    head, data = re.split(rb"ElementDataFile *= *LOCAL\r?\n", path.read_bytes(), maxsplit=1)
    fields = dict(re.findall(r"(?m)^\W*(\w+) *= *(.*?)\s*$", head.decode("latin1")))
    size = [int(n) for n in fields["DimSize"].split()]
    kind = np.dtype({"MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_CHAR": "i1", "MET_USHORT": "u2"}[fields["ElementType"]])
    kind = kind.newbyteorder(">" if fields.get("BinaryDataByteOrderMSB") == "True" else "<")
    if fields.get("CompressedData") == "True":
        data = zlib.decompressobj().decompress(data)
    return np.frombuffer(data, kind, int(np.prod(size))).reshape(size[::-1])


def by_hand_gipl(path: Path) -> NDArray:
    data = path.read_bytes()
    size = [int(n) for n in np.frombuffer(data, ">u2", 3) if n]  # without a third one it is 2D to ITK
    kind = {7: "i1", 8: "u1", 15: ">i2", 16: ">u2", 31: ">u4", 32: ">i4", 64: ">f4", 65: ">f8"}
    found = kind[int(np.frombuffer(data, ">u2", 1, 8)[0])]
    return np.frombuffer(data, found, int(np.prod(size)), 256).reshape(size[::-1])


def with_pillow(path: Path) -> NDArray:
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            pages = []
            for number in range(image.n_frames):
                image.seek(number)
                pages.append(np.array(image))
            return np.stack(pages)
        array = np.array(image)
        # tifffile, and so nnU-Net, gives the numbers of a file in which 0 is white; pillow gives their brightness
        inverted = path.suffix == ".tif" and image.tag_v2.get(262, 0) == 0 and image.mode in ("1", "L")
        return ~array if inverted else array


FORMATS = {
    "nii": Format(".nii", "NibabelIO", (by_nibabel(), by_nibabel("int16"), by_nibabel("float32")), with_nibabel),
    "nii.gz": Format(
        ".nii.gz", "SimpleITKIO", (by_nibabel(), by_nibabel("int16"), by_nibabel(shape=(7, 5, 3, 2))), with_nibabel
    ),
    "nrrd": Format(
        ".nrrd", "SimpleITKIO", (by_itk(), by_itk("int16", compress=True), by_itk(compress=True)), with_pynrrd
    ),
    "mha": Format(
        ".mha", "SimpleITKIO", (by_itk(), by_itk("int16", compress=True), by_itk("int16")), by_hand_metaimage
    ),
    "gipl": Format(".gipl", "SimpleITKIO", (by_itk(), by_itk("int16")), by_hand_gipl),
    "png": Format(".png", "NaturalImage2DIO", (by_pillow("L"), by_pillow("RGB"), by_pillow("P")), with_pillow),
    "bmp": Format(".bmp", "NaturalImage2DIO", (by_pillow("L"), by_pillow("RGB")), with_pillow),
    "tif": Format(
        ".tif",
        "Tiff3DIO",
        (
            by_tifffile(VOLUME),
            by_tifffile(VOLUME, imagej=True, metadata={"axes": "ZYX"}),
            paged,
        ),
        with_pillow,
    ),
    "flat.tif": Format(".tif", "NaturalImage2DIO", (by_tifffile(VOLUME[0]), by_pillow("L")), with_pillow),
}


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Cut off, with other bytes, or with a part twice or missing; the header, at the beginning, more than the rest."""
    data = bytearray(content)
    if random.random() < 0.25:
        return bytes(data[: random.integers(0, len(data) + 1)])
    for _ in range(int(random.integers(1, 4))):
        end = len(data) if random.random() < 0.5 else min(len(data), 352)
        place = int(random.integers(0, max(end, 1)))
        kind = random.integers(0, 5)
        if kind == 0:
            data[place : place + 1] = bytes([random.integers(0, 256)])
        elif kind == 1 and place < len(data):
            data[place] ^= 1 << int(random.integers(0, 8))
        elif kind == 2:
            word = WORDS[random.integers(0, len(WORDS))]
            data[place : place + len(word)] = word
        elif kind == 3:
            del data[place : place + int(random.integers(1, 9))]
        else:
            data[place:place] = data[place : place + int(random.integers(1, 9))]
    return bytes(data)


def files(chosen: Format, count: int, folder: Path, seed: int = 0) -> Iterator[Path]:
    """``count`` mutated files, one after the other under the same name; the same for the same seed."""
    random = np.random.default_rng(seed)
    wholes = []
    for number, write in enumerate(chosen.write):
        write(source := folder / f"whole{number}{chosen.ending}")
        wholes.append(source.read_bytes())
        source.unlink()
    path = folder / f"mutated{chosen.ending}"
    for number in range(count):
        whole = wholes[number % len(wholes)]
        if chosen.ending.endswith(".gz") and random.random() < 0.7:  # else the checksum finds every mutation
            path.write_bytes(gzip.compress(mutated(gzip.decompress(whole), random), 1))
        else:
            path.write_bytes(mutated(whole, random))
        yield path


def outcome(chosen: Format, path: Path) -> str:
    """``refused``, ``the same``, ``only ours`` (the other reader refuses), or what is wrong."""
    try:
        ours = Reader(chosen.reader).labels(path).array
    except InputError as error:
        return "refused" if "\n" not in str(error) and path.name in str(error) else f"BAD SENTENCE: {error}"
    except BaseException as error:
        return f"TRACEBACK: {type(error).__name__}: {error}"
    try:
        with warnings.catch_warnings(action="ignore"):
            theirs = np.asarray(chosen.other(path))
    except Exception:
        return "only ours"
    theirs = theirs.reshape(theirs.shape[-ours.ndim :]) if theirs.size == ours.size else theirs
    if chosen.ending == ".tif" and not np.array_equal(ours, theirs):
        theirs = in_one_block(path, ours.shape, theirs)
    if ours.shape != theirs.shape or not np.array_equal(ours, np.rint(theirs.astype(float))):
        return f"OTHER NUMBERS: {ours.shape} {ours.ravel()[:5]}, other reader {theirs.shape} {theirs.ravel()[:5]}"
    return "the same"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """ITK prints below Python."""
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


def in_one_block(path: Path, shape: tuple[int, ...], pages: NDArray) -> NDArray:
    """The voxels from the first page on, as tifffile reads its own files and those of ImageJ, whatever others say."""
    with Image.open(path) as image:
        start, size = image.tag_v2[273][0], int(np.prod(shape))
    data = np.frombuffer(path.read_bytes(), pages.dtype, offset=start)
    return data[:size].reshape(shape) if len(data) >= size else pages


def fuzz(name: str, count: int, keep: Path | None = None) -> Counter[str]:
    """Outcomes of one format; files that show a bug are kept in a folder."""
    found: Counter[str] = Counter()
    with TemporaryDirectory() as folder, silent():
        for number, path in enumerate(files(FORMATS[name], count, Path(folder))):
            result = outcome(FORMATS[name], path)
            if keep is not None and result not in ("refused", "the same"):
                (keep / f"{name}.{number}{FORMATS[name].ending}").write_bytes(path.read_bytes())
            found[result] += 1
    return found


if __name__ == "__main__":
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    kept = Path(os.environ["KEEP"]) if "KEEP" in os.environ else None
    for one in sys.argv[2:] or FORMATS:
        results = fuzz(one, how_many, kept)
        print(one, dict(results.most_common(20)), flush=True)
