"""``nnunet-ext s2v serve``: a session with a page, or with nnInteractive's protocol, until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing, require_folder_of
from nnunet_ext.interactive.session import S2VSession

PROMPT_BYTES = 2**20
"""Bytes of a request of the page at most: a scribble of some ten thousand positions."""


ENVELOPE_BYTES = 2**20
"""Bytes of an upload beside its array at most: its header, and what compression adds to noise."""


def serve(
    model: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    prompts_out: str | Path | None = None,
    fold: int | str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    say: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Open an image in a web page; returns when the server is stopped.

    Args:
        model: folder with ``plans.json`` and ``fold_…``.
        images: one file per channel.
        out: file that the page's button saves to, with the geometry of the image; without it, the page can only
            download.
        prompts_out: JSON file, written after every prompt; ``nnunet-ext s2v interact`` repeats it.
        fold: as for :func:`nnunet_ext.interactive.interact.interact`.
        checkpoint: as there.
        device: as there.
        options: as there.
        host: address or name of this machine that the page is opened with; others are refused.
        port: 0: any that is free.
        say: is told the link.

    Raises:
        InputError: a library, a file or the model is missing or wrong, or the address cannot be used.
    """
    require_viewer_extra()
    from nnunet_ext.viewer.access import AccessMiddleware
    from nnunet_ext.viewer.app import create_app, prompt_file
    from nnunet_ext.viewer.worker import SessionWorker

    session = S2VSession(device, **options)
    session.initialize_from_trained_model_folder(model, fold, checkpoint)
    session.set_image_from_files(images)
    if out is not None:
        session.case.require_writable(out)
    if prompts_out is not None:
        require_folder_of(prompts_out)

    def keep(prompts: list[dict[str, Any]]) -> None:
        if prompts_out is not None:
            with replacing(Path(prompts_out)) as temporary:
                temporary.write_text(prompt_file(prompts), encoding="utf-8")

    worker = SessionWorker(session, keep)
    app = create_app(worker, [Path(image) for image in images], None if out is None else Path(out))
    with listening(host, port) as listener:
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        protected = AccessMiddleware(app, hosts=names_of(host), token=token, port=port, limit=PROMPT_BYTES)
        say(f"Open this link; it works once:\n\n    http://{shown(host)}:{port}/?token={token}\n")
        say("Ctrl-C ends the server.")
        run(protected, listener)


def serve_remote(
    model: str | Path,
    *,
    fold: int | str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = 1527,
    upload_mib: int = 2048,
    say: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Serve nnInteractive's remote protocol, for its plug-ins; returns when the server is stopped.

    Args:
        model: as for :func:`serve`.
        fold: as there.
        checkpoint: as there.
        device: as there.
        options: as there.
        host: to listen on.
        port: to listen on.
        upload_mib: what an image may have, compressed and unpacked.
        say: is told addresses and the key.

    Raises:
        InputError: see :func:`serve`.
    """
    require_viewer_extra()
    from nnunet_ext.viewer.access import AccessMiddleware
    from nnunet_ext.viewer.remote import create_remote

    session = S2VSession(device, **options)
    session.initialize_from_trained_model_folder(model, fold, checkpoint)
    app = create_remote(session, upload_mib * 2**20)
    with listening(host, port) as listener:
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        limit = upload_mib * 2**20 + ENVELOPE_BYTES
        protected = AccessMiddleware(app, hosts=names_of(host), token=token, port=port, limit=limit, bearer=True)
        addresses = [f"http://{shown(host)}:{port}/{quote(name)}" for name, value in session.labels.items() if value]
        say("Addresses for nnInteractive's plug-ins, one per label:\n\n    " + "\n    ".join(addresses))
        say(f"\nAPI key, for all of them: {token}\n\nCtrl-C ends the server.")
        run(protected, listener)


def require_viewer_extra() -> None:
    """Raise InputError if FastAPI or uvicorn is missing."""
    for library in ("fastapi", "uvicorn"):
        try:
            import_module(library)
        except ImportError:
            raise InputError(
                f"The viewer needs {library}, which is not installed; pip install 'nnunet-ext[viewer]'."
            ) from None


def names_of(host: str) -> frozenset[str]:
    """Names by which a browser may address the server: this, and those of the machine itself, for tunnels."""
    return frozenset({host.lower(), "127.0.0.1", "localhost", "::1"})


def shown(host: str) -> str:
    """Return the host as it stands in a link."""
    return f"[{host}]" if ":" in host else host


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: this machine has no such address, all of them are meant, or the port is in use.
    """
    if host in ("", "0.0.0.0", "::"):
        raise InputError(
            f"--host {host} means every address of this machine, and a page must be opened with one; name it, or keep "
            "127.0.0.1 and use a tunnel: ssh -L 8000:127.0.0.1:8000 MACHINE."
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=64)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The server cannot listen on {host}, port {port} ({reason}); choose others with --host and --port (0: any "
            "that is free)."
        ) from None


def run(app: Any, listener: socket.socket) -> None:
    """uvicorn, until it is interrupted."""
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=3
    )
    uvicorn.Server(settings).run(sockets=[listener])
