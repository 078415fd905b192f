"""The libraries of the extra ``viewer``, or a sentence that says how to get them."""

from __future__ import annotations

from importlib import import_module

from nnunet_ext.errors import InputError


def require_viewer_extra() -> None:
    """Raise InputError if FastAPI or uvicorn is missing."""
    for library in ("fastapi", "uvicorn"):
        try:
            import_module(library)
        except ImportError:
            raise InputError(
                f"The viewer needs {library}, which is not installed; pip install 'nnunet-ext[viewer]'."
            ) from None
