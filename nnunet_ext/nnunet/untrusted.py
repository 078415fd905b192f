"""Opens checkpoints without running what is in them, where that is possible.

A checkpoint is a pickle, and a pickle can name any function to call when it is opened. nnU-Net opens all of them that
way (``weights_only=False``). Here only tensors, plain Python values and what nnU-Net puts into its own log (numbers of
numpy) are allowed at first; anything else is opened after a warning that names it.
"""

from __future__ import annotations

import pickle
import warnings
from codecs import encode  # which pickles of numpy's numbers call
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ext.errors import InputError

_scalar, _reconstruct = (value.__reduce__()[0] for value in (np.float32(0), np.zeros(0)))
_DTYPES = [np.dtype(code) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]


def _both_names(function: Any) -> list[tuple[Any, str]]:
    """numpy 2 renamed ``numpy.core`` to ``numpy._core``; checkpoints were written with either."""
    return [(function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")]


ALLOWED = [
    *_both_names(_scalar),
    *_both_names(_reconstruct),
    np.ndarray,
    np.dtype,
    *{type(dtype) for dtype in _DTYPES},
    encode,
]
"""What may be in a checkpoint beside what ``weights_only=True`` allows: numbers of numpy."""


class UntrustedCheckpoint(UserWarning):
    """A file was opened that can run code."""


def _allow_list() -> AbstractContextManager[Any]:
    # torch has it since 2.5; without it every checkpoint of nnU-Net is opened with the warning
    context = getattr(torch.serialization, "safe_globals", None)
    return nullcontext() if context is None else context(ALLOWED)


def load_untrusted(file: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint that may come from anybody.

    First with ``weights_only=True`` and :data:`ALLOWED`; if the file holds anything else, without, as nnU-Net does,
    after the warning :class:`UntrustedCheckpoint`.

    Args:
        file: that ``torch.save`` wrote.
        map_location: of ``torch.load``.

    Raises:
        InputError: there is no such file, it is damaged or no checkpoint, or it holds no dict.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        with _allow_list():
            content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if not _may_be_a_pickle(path):
            raise _damaged(path, error) from None
        content = _opened_with_a_warning(path, map_location)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, but a checkpoint of nnU-Net holds a dict.")
    return content


def _may_be_a_pickle(path: Path) -> bool:
    """Whether it begins as the files of ``torch.save`` do, now and formerly; of anything else nobody need be warned."""
    with path.open("rb") as file:
        return file.read(2) in {b"PK", b"\x80\x02"}


def _opened_with_a_warning(path: Path, map_location: Any) -> Any:
    warnings.warn(
        f"{path} holds more than weights and numbers{_named(path)}, so opening it can run any code; it is opened all "
        "the same, as nnU-Net does. Use only checkpoints of people you trust.",
        UntrustedCheckpoint,
        stacklevel=3,
    )
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be opened: it holds objects of a package that is not installed here ({error}); ask for a "
            "checkpoint that holds weights only (nnunet-ext export)."
        ) from None


def _named(path: Path) -> str:
    """``" (a.b, c.d)"``: what is not allowed in the file, where torch can tell."""
    query = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    try:
        with _allow_list():
            found = sorted(query(path)) if query else []
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError):
        found = []
    return f" ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})" if found else ""


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0][:200]
    return InputError(f"{path} cannot be opened: it is damaged or no checkpoint ({type(error).__name__}: {reason}).")
