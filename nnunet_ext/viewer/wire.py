"""Arrays in the format of nnInteractive's client (2.6): a small header, and chunks compressed by blosc2.

::

    "NNIA"  version 1  codec  ndim  length of dtype     4 × uint8 after the name
    dtype, ASCII
    shape, int64 each
    number of chunks, uint32
    for each chunk: its size, its compressed size (uint64 each), the compressed bytes

All numbers are little-endian. A chunk holds at most 1 GiB, because blosc2 counts bytes with 32 bits.
"""

from __future__ import annotations

import math
import struct

import blosc2
import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError

MAGIC, VERSION, ZSTD = b"NNIA", 1, 1
CHUNK = 2**30
TYPES = {np.dtype(code).name: np.dtype(code) for code in "?bBhHiIlLqQefd"}


def pack(array: NDArray) -> bytes:
    """Pack an array into bytes; see the module's docstring."""
    array = np.ascontiguousarray(array)
    name = array.dtype.name.encode()
    parts = [struct.pack("<4s4B", MAGIC, VERSION, ZSTD, array.ndim, len(name)), name]
    parts.append(struct.pack(f"<{array.ndim}q", *array.shape))
    raw = array.reshape(-1).view(np.uint8).data
    chunks = [raw[start : start + CHUNK] for start in range(0, len(raw), CHUNK)]
    parts.append(struct.pack("<I", len(chunks)))
    for chunk in chunks:
        # with another typesize, blosc2 cannot read back zeros whose number the typesize does not divide
        small = blosc2.compress2(chunk, typesize=array.itemsize, codec=blosc2.Codec.ZSTD, clevel=1)
        parts += [struct.pack("<2Q", len(chunk), len(small)), small]
    return b"".join(parts)


def unpack(content: bytes, limit: int) -> NDArray:
    """Unpack an array from :func:`pack` or from nnInteractive's client.

    Args:
        content: body of a request.
        limit: largest array in bytes; a few compressed bytes can claim any size.

    Raises:
        InputError: the content is no array, or the array is larger than the limit.
    """
    try:
        return _unpacked(content, limit)
    except (struct.error, UnicodeDecodeError, RuntimeError, ValueError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"The request holds no array of nnInteractive's protocol ({VERSION}): {reason}") from None


def _unpacked(content: bytes, limit: int) -> NDArray:
    magic, version, _, ndim, length = struct.unpack_from("<4s4B", content)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"it begins with {magic!r}, version {version}.")
    name = content[8 : 8 + length].decode("ascii")
    if name not in TYPES:
        raise ValueError(f"its type is {name[:20]!r}; the types are {', '.join(TYPES)}.")
    dtype = TYPES[name]
    at = 8 + length
    shape = struct.unpack_from(f"<{ndim}q", content, at)
    (chunks,) = struct.unpack_from("<I", content, at + 8 * ndim)
    at += 8 * ndim + 4
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > limit:
        raise ValueError(f"its shape is {str(shape)[:80]} and its type {name}; {limit} bytes are the limit.")
    array = np.empty(shape, dtype)
    raw, done = array.reshape(-1).view(np.uint8).data, 0
    for _ in range(chunks):
        whole, small = struct.unpack_from("<2Q", content, at)
        chunk = content[at + 16 : at + 16 + small]
        if len(chunk) != small or done + whole > size or blosc2.get_cbuffer_sizes(chunk)[:2] != (whole, small):
            raise ValueError("a chunk has another length than it says.")
        blosc2.decompress2(chunk, dst=raw[done : done + whole])
        at, done = at + 16 + small, done + whole
    if done != size:
        raise ValueError(f"it has {done} of {size} bytes.")
    return array
