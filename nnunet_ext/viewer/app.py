"""The page and its API: the image, the label map, prompts, and the files at the end."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.desk import Desk
from nnunet_ext.viewer.display import Display
from nnunet_ext.viewer.worker import Busy, Cancelled, Change

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
CHANGE = "X-Change"
"""Header of an answer with a part of the label map: version, box and notices, as JSON."""

CASE = "X-Case"
"""Header of the page's requests: the name of the case that it shows, quoted as in a URL."""


class OtherCase(Exception):
    """Another tab has opened another case meanwhile; nothing has changed."""


def create_app(desk: Desk) -> FastAPI:
    """Return the page and its API; the server closes the worker of the desk at its end."""
    worker = desk.worker

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.open()
        yield
        worker.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _add_refusals(app)
    for router in (_image(desk), _prompts(desk), _cases(desk), _files(desk), _page()):
        app.include_router(router)
    return app


def _add_refusals(app: FastAPI) -> None:
    """Add handlers that answer exceptions with a sentence."""

    @app.exception_handler(InputError)
    async def bad_input(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 429)

    @app.exception_handler(Cancelled)
    async def cancelled(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "Cancelled; nothing has changed."}, 409)

    @app.exception_handler(OtherCase)
    async def other_case(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(Exception)  # such as a full disk; the server's log has the traceback
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": f"The server could not do this: {error or type(error).__name__}"}, 500)


def _image(desk: Desk) -> APIRouter:
    """Routes of the image and its description."""
    router = APIRouter()

    @router.get("/api/case")
    async def describe() -> dict[str, Any]:
        case, display, session = desk.case, desk.display, desk.worker.session
        return {
            "name": case.name,
            "shape": session.case.shape,
            "spacing": [float(mm) for mm in session.case.properties["spacing"]],
            "axes": display.axes,
            "affine": display.affine.tolist(),
            "slice_axis": display.axes[session.case.slice_axis][0],
            "labels": [{"value": value, "name": label} for label, value in session.labels.items()],
            "channels": channel_names(session.model.dataset_json)[: len(case.images)],
            "saves_to": case.out.name if case.out else None,
            "kept_in": case.session.name if case.session else None,
            "resumed": desk.worker.resumed,
        }

    @router.get("/api/image/{channel}.nii")
    def image(channel: str) -> Response:
        files = {str(number): file for number, file in enumerate(desk.case.images)}
        if channel not in files:
            raise InputError(f"There is no channel {channel[:80]!r}; there are {', '.join(files)}.")
        session = desk.worker.session
        array = Reader(session.model.plans_manager.plans["image_reader_writer"]).image(files[channel]).array
        return Response(desk.display.nifti(array.reshape(session.case.shape)), media_type="application/octet-stream")

    return router


def _prompts(desk: Desk) -> APIRouter:
    """Routes of the label map and of prompts."""
    router, worker = APIRouter(), desk.worker

    async def answer(change: Change) -> Response:
        return await run_in_threadpool(_answer, change, desk.display)  # in a thread, because it compresses

    @router.get("/api/labels")
    async def labels() -> Response:
        return await answer(await worker.look())

    @router.post("/api/prompt")
    async def prompt(request: Request) -> Response:
        try:
            entry = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise InputError("The request is no JSON.") from None
        return await answer(await worker.apply(entry, lambda: _require_case(desk, request)))

    @router.get("/api/state")
    async def state() -> dict[str, Any]:
        return {**worker.state, "case": desk.case.name}

    @router.post("/api/cancel")
    async def cancel() -> dict[str, Any]:
        worker.cancel()
        return worker.state

    return router


def _cases(desk: Desk) -> APIRouter:
    """Routes of the list of cases."""
    router = APIRouter()

    @router.get("/api/cases")
    async def cases() -> dict[str, Any]:
        return {"open": desk.case.name, "cases": await run_in_threadpool(desk.listed)}

    @router.post("/api/open")
    async def open_(request: Request) -> dict[str, Any]:
        await desk.open(str((await _object(request)).get("name")))
        return {"open": desk.case.name}

    @router.post("/api/accept")
    async def accept(request: Request) -> dict[str, Any]:
        accepted = (await _object(request)).get("accepted", True)
        await desk.accept(accepted is True, lambda: _require_case(desk, request))
        return {"cases": desk.listed()}

    return router


async def _object(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body of a request."""
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError("The request is no JSON object.")
    return content


def _require_case(desk: Desk, request: Request) -> None:
    """Raise OtherCase if the page does not show the open case."""
    shown = request.headers.get(CASE)
    if shown is not None and unquote(shown) != desk.case.name:
        raise OtherCase(f"{desk.case.name} is open now, from another tab; reload the page. Nothing has changed.")


def _files(desk: Desk) -> APIRouter:
    """Routes for saving and downloading files."""
    router, worker = APIRouter(), desk.worker

    @router.post("/api/save")
    async def save(request: Request) -> dict[str, Any]:
        def work() -> str:
            _require_case(desk, request)
            out = desk.case.out
            if out is None:
                raise InputError("The server was started without --out; download the segmentation instead.")
            worker.session.write(out)
            return out.name

        return {"file": await worker.do(work)}

    @router.get("/api/segmentation")
    async def segmentation() -> Response:
        def work() -> tuple[bytes, str]:
            case, ending = desk.case, worker.session.model.dataset_json["file_ending"]
            name = case.out.name if case.out else f"{case.name}_segmentation{ending}"
            return _written(worker.session, name), name

        return _download(*await worker.do(work))

    @router.get("/api/prompts")
    async def prompts() -> Response:
        return _download(prompt_file(worker.prompts).encode(), f"{desk.case.name}_prompts.json")

    return router


def _page() -> APIRouter:
    """Routes of the page's files. Requests only look up names, so no part of a request becomes a path."""
    router = APIRouter()
    files = {f"/{path.name}": path for path in sorted(PAGE.glob("*.*"))}
    files["/"] = PAGE / "index.html"

    @router.get("/{path:path}")
    async def page(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            return JSONResponse({"detail": "There is no file of this name."}, 404)
        return Response(file.read_bytes(), media_type=TYPES[file.suffix])

    return router


def prompt_file(prompts: Sequence[dict[str, Any]]) -> str:
    """Return prompts as the content of a file for ``nnunet-ext s2v interact``."""
    lines = ",\n".join(f"    {json.dumps(prompt, ensure_ascii=False)}" for prompt in prompts)
    return f'{{\n  "axes": "zyx",\n  "prompts": [\n{lines}\n  ]\n}}\n'


def _answer(change: Change, display: Display) -> Response:
    """Return an answer with a part of the label map: one byte per voxel, i fastest, compressed."""
    box = None if change.box is None else display.turned_box(change.box)
    headers = {CHANGE: json.dumps({"version": change.version, "box": box, "notices": change.notices})}
    if change.labels is None:
        return Response(headers=headers, media_type="application/octet-stream")
    content = gzip.compress(_bytes(display.turned(change.labels)), 1)
    return Response(content, headers={**headers, "Content-Encoding": "gzip"}, media_type="application/octet-stream")


def _bytes(labels: NDArray) -> bytes:
    return labels.astype(np.uint8, copy=False).tobytes("F")


def _written(session: S2VSession, name: str) -> bytes:
    """Return the bytes of the file that a session writes its label map to under this name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        session.write(file)
        return file.read_bytes()


def _download(content: bytes, name: str) -> Response:
    quoted = name.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    headers = {"Content-Disposition": f'attachment; filename="{quoted}"'}
    return Response(content, headers=headers, media_type="application/octet-stream")
