"""Opens checkpoints without running code in them.

A checkpoint is a pickle, and a pickle can name any function to call when it is opened. nnU-Net opens all of them that
way (``weights_only=False``). Here only tensors, plain Python values and the numbers of numpy in nnU-Net's own log are
allowed. Anything else is refused and named, unless the user trusts the file: ``--trust`` of a command, or the
environment variable :data:`TRUST`.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from codecs import encode  # which pickles of numpy's numbers call
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ext.errors import InputError

TRUST = "NNUNET_EXT_TRUST"
"""Environment variable; with the value 1 checkpoints that can run code are opened as nnU-Net opens them."""

_scalar, _reconstruct = (value.__reduce__()[0] for value in (np.float32(0), np.zeros(0)))
_DTYPES = [np.dtype(code) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]


def _both_names(function: Any) -> list[tuple[Any, str]]:
    """numpy 2 renamed ``numpy.core`` to ``numpy._core``; checkpoints were written with either."""
    return [(function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")]


ALLOWED: list[Any] = [
    *_both_names(_scalar),
    *_both_names(_reconstruct),
    np.ndarray,
    np.dtype,
    *{type(dtype) for dtype in _DTYPES},
    encode,
]
"""Contents of a checkpoint that are allowed beside those of ``weights_only=True``: numbers of numpy."""

KINDS: dict[str, tuple[type, str]] = {
    "network_weights": (dict, "a dict"),
    "trainer_name": (str, "text"),
    "init_args": (dict, "a dict"),
    "logging": (dict, "a dict"),
}
"""Types of the content of a checkpoint of nnU-Net, in Python and in words."""


class UntrustedCheckpoint(InputError):
    """A checkpoint can run code, and the user has not said that it is trusted."""


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Context in which checkpoints may run code, in processes started in it, too; ``False`` changes nothing."""
    before = os.environ.get(TRUST)
    if trust:
        os.environ[TRUST] = "1"
    try:
        yield
    finally:
        if trust and before is None:
            del os.environ[TRUST]
        elif trust and before is not None:
            os.environ[TRUST] = before


def load_untrusted(file: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint that may come from anybody.

    Args:
        file: that ``torch.save`` wrote.
        map_location: of ``torch.load``.

    Raises:
        UntrustedCheckpoint: it can run code, and nobody said that it is trusted.
        InputError: there is no such file, it is damaged or no checkpoint, or it holds other types than those of
            nnU-Net.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    _require_uncompressed(path)
    if not hasattr(torch.serialization, "safe_globals"):
        content = _loaded_as_it_is(path, map_location, f"PyTorch {torch.__version__} cannot tell (2.5 can)")
    else:
        try:
            with torch.serialization.safe_globals(ALLOWED):
                content = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            if not _may_be_a_pickle(path):
                raise _damaged(path, error) from None
            content = _loaded_as_it_is(path, map_location, _named(path, error))
        except Exception as error:  # a crafted pickle can make torch and numpy raise anything
            raise _damaged(path, error) from None
    _require_types(content, path)
    return content


def _may_be_a_pickle(path: Path) -> bool:
    """Return whether it begins as the files of ``torch.save`` do, now and formerly; anything else cannot run code."""
    with path.open("rb") as file:
        return file.read(2) in {b"PK", b"\x80\x02"}


def _require_uncompressed(path: Path) -> None:
    """Raise InputError if a zip file unpacks to more than it is; ``torch.save`` never compresses."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # a crafted archive can make zipfile raise anything
        raise _damaged(path, error) from None
    if claimed > path.stat().st_size:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes and would unpack to {claimed}, but torch.save does not compress; "
            "ask for the file as it was written."
        )


def _loaded_as_it_is(path: Path, map_location: Any, named: str) -> Any:
    """Run whatever is in the file, as nnU-Net does, if the user trusts it."""
    if os.environ.get(TRUST) != "1":
        raise UntrustedCheckpoint(
            f"{path} can run code when it is opened: it holds more than weights and numbers, namely {named}; use "
            f"--trust (in scripts {TRUST}=1) if you trust whoever wrote it, or ask for an export (nnunet-ext export)."
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be opened: it holds objects of a package that is not installed here ({error}); ask for a "
            "checkpoint that holds weights only (nnunet-ext export)."
        ) from None
    except Exception as error:
        raise _damaged(path, error) from None


def _named(path: Path, error: Exception) -> str:
    """Return what the file would load, such as ``posix.system, builtins.exec``."""
    query = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    try:
        with torch.serialization.safe_globals(ALLOWED):
            found = sorted(query(path)) if query else []
    except Exception:  # of a crafted pickle; torch's first complaint about it is left
        found = []
    if found:
        return ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
    match = re.search(r"GLOBAL (\S+)", str(error))
    return match[1] if match else "what PyTorch does not name"


def _require_types(content: Any, path: Path) -> None:
    """Raise InputError unless the content is a dict whose entries have the types of nnU-Net's checkpoints."""
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, but a checkpoint of nnU-Net holds a dict.")
    for key, (kind, words) in KINDS.items():
        if key in content and not isinstance(content[key], kind):
            found = type(content[key]).__name__
            raise InputError(f"{path}: {key} is a {found}, but in a checkpoint of nnU-Net it is {words}.")
    weights: Mapping[Any, Any] = content.get("network_weights", {})
    wrong = [key for key, value in weights.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        found = type(weights[wrong[0]]).__name__
        raise InputError(
            f"{path}: {wrong[0]!r} in network_weights is a {found}, but a tensor under a name is expected."
        )


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0][:200]
    return InputError(f"{path} cannot be opened: it is damaged or no checkpoint ({type(error).__name__}: {reason}).")
