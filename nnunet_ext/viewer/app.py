"""The page and its API: the image, the label map, prompts, and the files at the end."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.viewer.display import Display
from nnunet_ext.viewer.worker import Busy, Cancelled, Change, SessionWorker

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
CHANGE = "X-Change"
"""Header of an answer with a part of the label map: its version, where it is, and notices, as JSON."""


@dataclass(frozen=True)
class Case:
    """The image in front of the user.

    Attributes:
        images: one file per channel.
        out: where the label map is saved; None: it can only be downloaded.
        display: how the image is turned for the screen.
    """

    images: tuple[Path, ...]
    out: Path | None
    display: Display

    @property
    def stem(self) -> str:
        """``case_0000.nii.gz`` → ``case``: without the ending and nnU-Net's number of the channel."""
        return self.images[0].name.partition(".")[0].removesuffix("_0000") or "case"


def create_app(worker: SessionWorker, images: Sequence[Path], out: Path | None) -> FastAPI:
    """Return the page and its API.

    Args:
        worker: of a session with an image; it is closed with the server.
        images: one file per channel.
        out: where the label map is saved.

    Raises:
        InputError: an image cannot be read, or there are more labels than the page has colours.
    """
    session = worker.session
    if max(session.labels.values()) > 255:
        raise InputError(f"The page shows labels up to 255, but the model has {max(session.labels.values())}.")
    display = Display.of(Geometry.from_properties(session.case.properties), session.case.shape)
    case = Case(tuple(images), out, display)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.open()
        yield
        worker.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _add_refusals(app)
    for router in (_image(worker, case), _prompts(worker, case), _files(worker, case), _page()):
        app.include_router(router)
    return app


def _add_refusals(app: FastAPI) -> None:
    """Answer exceptions with a sentence."""

    @app.exception_handler(InputError)
    async def bad_input(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 429)

    @app.exception_handler(Cancelled)
    async def cancelled(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "Cancelled; nothing has changed."}, 409)

    @app.exception_handler(Exception)  # a full disk, say; the traceback is in the server's log
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": f"The server could not do this: {error or type(error).__name__}"}, 500)


def _image(worker: SessionWorker, case: Case) -> APIRouter:
    """Routes of the image and its description."""
    router, session, display = APIRouter(), worker.session, case.display
    reader = Reader(session.model.plans_manager.plans["image_reader_writer"])
    files = {str(channel): file for channel, file in enumerate(case.images)}

    @router.get("/api/case")
    async def describe() -> dict[str, Any]:
        return {
            "name": case.images[0].name,
            "shape": session.case.shape,
            "axes": display.axes,
            "affine": display.affine.tolist(),
            "slice_axis": display.axes[session.case.slice_axis][0],
            "labels": [{"value": value, "name": label} for label, value in session.labels.items()],
            "channels": channel_names(session.model.dataset_json)[: len(case.images)],
            "saves_to": case.out.name if case.out else None,
        }

    @router.get("/api/image/{channel}.nii")
    def image(channel: str) -> Response:
        if channel not in files:
            raise InputError(f"There is no channel {channel[:80]!r}; there are {', '.join(files)}.")
        array = reader.image(files[channel]).array
        return Response(display.nifti(array.reshape(session.case.shape)), media_type="application/octet-stream")

    return router


def _prompts(worker: SessionWorker, case: Case) -> APIRouter:
    """Routes of the label map and of what changes it."""
    router = APIRouter()

    async def answer(change: Change) -> Response:
        return await run_in_threadpool(_answer, change, case.display)  # it compresses

    @router.get("/api/labels")
    async def labels() -> Response:
        return await answer(await worker.look())

    @router.post("/api/prompt")
    async def prompt(request: Request) -> Response:
        try:
            entry = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise InputError("The request is no JSON.") from None
        return await answer(await worker.apply(entry))

    @router.get("/api/state")
    async def state() -> dict[str, Any]:
        return worker.state

    @router.post("/api/cancel")
    async def cancel() -> dict[str, Any]:
        worker.cancel()
        return worker.state

    return router


def _files(worker: SessionWorker, case: Case) -> APIRouter:
    """Routes of the files that the user keeps."""
    router, session, out = APIRouter(), worker.session, case.out
    name = out.name if out else case.stem + "_segmentation" + session.model.dataset_json["file_ending"]

    @router.post("/api/save")
    async def save() -> dict[str, Any]:
        if out is None:
            raise InputError("The server was started without --out; download the segmentation instead.")
        await worker.do(lambda: session.write(out))
        return {"file": out.name}

    @router.get("/api/segmentation")
    async def segmentation() -> Response:
        return _download(await worker.do(lambda: _written(worker, name)), name)

    @router.get("/api/prompts")
    async def prompts() -> Response:
        return _download(prompt_file(worker.prompts).encode(), f"{case.stem}_prompts.json")

    return router


def _page() -> APIRouter:
    """Routes of the page's files, by name, so that nothing of a request becomes a path."""
    router = APIRouter()
    files = {f"/{path.name}": path for path in sorted(PAGE.glob("*.*"))}
    files["/"] = PAGE / "index.html"

    @router.get("/{path:path}")
    async def page(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            return JSONResponse({"detail": "There is nothing of this name."}, 404)
        return Response(file.read_bytes(), media_type=TYPES[file.suffix])

    return router


def prompt_file(prompts: Sequence[dict[str, Any]]) -> str:
    """Return prompts as a file for ``nnunet-ext s2v interact``."""
    lines = ",\n".join(f"    {json.dumps(prompt, ensure_ascii=False)}" for prompt in prompts)
    return f'{{\n  "axes": "zyx",\n  "prompts": [\n{lines}\n  ]\n}}\n'


def _answer(change: Change, display: Display) -> Response:
    """Return a part of the label map: i fastest, one byte per voxel, compressed."""
    box = None if change.box is None else display.turned_box(change.box)
    headers = {CHANGE: json.dumps({"version": change.version, "box": box, "notices": change.notices})}
    if change.labels is None:
        return Response(headers=headers, media_type="application/octet-stream")
    content = gzip.compress(_bytes(display.turned(change.labels)), 1)
    return Response(content, headers={**headers, "Content-Encoding": "gzip"}, media_type="application/octet-stream")


def _bytes(labels: NDArray) -> bytes:
    return labels.astype(np.uint8, copy=False).tobytes("F")


def _written(worker: SessionWorker, name: str) -> bytes:
    """Return the label map as the session writes it to a file of this name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        worker.session.write(file)
        return file.read_bytes()


def _download(content: bytes, name: str) -> Response:
    quoted = name.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    headers = {"Content-Disposition": f'attachment; filename="{quoted}"'}
    return Response(content, headers=headers, media_type="application/octet-stream")
