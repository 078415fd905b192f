"""``nnunet-ext s2v serve``: serves a session as a page, or by nnInteractive's protocol, until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nnunet_ext.data.spacing_files import spacing_file
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing, require_folder_of, require_other_file
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.processes.lock import held
from nnunet_ext.viewer.cases import LEDGER, CaseFiles, Ledger, cases_in, first_open, single_case

PROMPT_BYTES = 2**20
"""Largest request of the page in bytes; enough for a scribble of some ten thousand positions."""

ENVELOPE_BYTES = 2**20
"""Largest overhead of an upload in bytes: its header, and the growth when noise is compressed."""

LOCK = ".serve.lock"
"""File that a server locks in its folder of label maps; beside a single one with its name in front."""


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
    """Serve an image, or a folder of images, as a web page until the server is stopped.

    Every change is saved in a file beside the segmentation, ``case.session`` for ``case.nii.gz``. Opening the image
    again continues from there.

    Args:
        model: folder with ``plans.json`` and ``fold_…``.
        images: one file per channel, or one folder with the images of many cases.
        out: file that the page's button saves to, with the geometry of the image; a folder for a folder of images.
            Without it, the page can only download, and nothing is kept.
        prompts_out: JSON file, written after every prompt; ``nnunet-ext s2v interact`` repeats it.
        fold: as for :func:`nnunet_ext.interactive.interact.interact`.
        checkpoint: as there.
        device: as there.
        options: as there.
        host: address or name of this machine in the page's link; other addresses are refused.
        port: port to listen on; 0 takes a free one.
        say: called with the link and other messages.

    Raises:
        InputError: a library, a file or the model is missing or wrong, the address cannot be used, another server saves
            to ``out``, or ``prompts_out`` holds prompts that would be lost.
    """
    require_viewer_extra()
    from nnunet_ext.viewer.access import AccessMiddleware
    from nnunet_ext.viewer.app import create_app, prompt_file
    from nnunet_ext.viewer.desk import Desk

    loaded = S2VSession(device, **options)
    loaded.initialize_from_trained_model_folder(model, fold, checkpoint)
    paths, target = [Path(image) for image in images], None if out is None else Path(out)
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None:
        if len(paths) > 1 or target is None or prompts_out is not None:
            raise InputError(
                f"{folder} is a folder of images, for which --out is a folder, too, and the prompts of every case are "
                "kept there; give one --image FOLDER and --out FOLDER, without --prompts-out."
            )
        cases = cases_in(folder, target, loaded.model.dataset_json)
    else:
        cases = [single_case(paths, target)]
    if prompts_out is not None:
        _require_own_file(prompts_out, cases[0])

    def fresh() -> S2VSession:
        session = S2VSession(device, **options)
        session.initialize_from_predictor(loaded.model)
        return session

    def keep(prompts: list[dict[str, Any]]) -> None:
        if prompts_out is not None:
            with replacing(Path(prompts_out)) as temporary:
                temporary.write_text(prompt_file(prompts), encoding="utf-8")

    with _alone(target), listening(host, port) as listener:
        ledger = None if folder is None or target is None else Ledger(target / LEDGER)
        first = cases[0] if ledger is None else first_open(cases, ledger)
        desk = Desk(fresh, cases, first, ledger, keep)
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        protected = AccessMiddleware(create_app(desk), hosts=names_of(host), token=token, port=port, limit=PROMPT_BYTES)
        if desk.worker.resumed:
            say(f"{first.name} goes on where it ended, from {first.session}; move that file away to begin anew.")
        if first.session is None:
            say("Nothing is kept if the server ends: give --out FILE to save to, and to go on from.")
        say(f"Open this link; it works once:\n\n    http://{shown(host)}:{port}/?token={token}\n")
        say("Ctrl-C ends the server.")
        run(protected, listener)


def _require_own_file(prompts: str | Path, case: CaseFiles) -> None:
    """Raise InputError if the file of the prompts would replace another one, or prompts that nothing else holds."""
    spacings = [spacing_file(case.images[0], image=True), None if case.out is None else spacing_file(case.out)]
    own = [file for file in (*case.images, case.out, case.session, *spacings) if file is not None]
    require_other_file(prompts, "--prompts-out", own, "the image, the segmentation, a spacing or the session")
    if case.session is None and Path(prompts).is_file() and Path(prompts).stat().st_size:
        raise InputError(
            f"--prompts-out {prompts} holds the prompts of an earlier session, which was not kept without --out, and "
            "the first prompt would replace them; name another file, or repeat them with nnunet-ext s2v interact."
        )


@contextmanager
def _alone(out: Path | None) -> Iterator[None]:
    """Context of the only server that saves to a file or folder.

    Raises:
        InputError: another one does, or the folder is missing or must not be written to.
    """
    if out is None:
        yield
        return
    require_folder_of(out / LOCK if out.is_dir() else out)
    lock = out / LOCK if out.is_dir() else out.with_name(f".{out.name}{LOCK}")
    with held(lock, inherited=False) as free:
        if not free:
            raise InputError(f"Another server saves to {out}; end it first, or give another --out.")
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                lock.unlink()


def serve_demo(folder: str | Path, **how: Any) -> None:
    """Serve a synthetic image with the package's own model until the server is stopped.

    Args:
        folder: folder for the image and the session; it is created, and another call continues in it.
        how: arguments of :func:`serve` other than the model, the image and the file to save to.

    Raises:
        InputError: as for :func:`serve`, or the folder cannot be created.
    """
    from nnunet_ext.viewer.demo import MODEL, write_phantom

    place = Path(folder)
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{place} cannot be made a folder ({error.strerror or error}); choose --out.") from None
    image = write_phantom(place)
    serve(MODEL, [image], out=place / "phantom.nii.gz", **how)


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
    """Serve nnInteractive's remote protocol, for its plug-ins, until the server is stopped.

    Args:
        model: as for :func:`serve`.
        fold: as there.
        checkpoint: as there.
        device: as there.
        options: as there.
        host: address to listen on.
        port: port to listen on.
        upload_mib: largest image in MiB, compressed and unpacked.
        say: called with the addresses and the key.

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
        # a slash would end the label in the address
        labels = [value if "/" in name else quote(name) for name, value in session.labels.items() if value]
        addresses = [f"http://{shown(host)}:{port}/{label}" for label in labels]
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
    """Names that a browser may use for the server: this host, and the local names, for tunnels."""
    return frozenset({host.lower(), "127.0.0.1", "localhost", "::1"})


def shown(host: str) -> str:
    """Return the host as it is written in a link."""
    return f"[{host}]" if ":" in host else host


def listening(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        InputError: this machine has no such address, ``host`` means all addresses, or the port is in use.
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
    """Run uvicorn until it is interrupted."""
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=3
    )
    uvicorn.Server(settings).run(sockets=[listener])
