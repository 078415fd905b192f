"""What the page asks for: the image, the label map, prompts, and the files at the end."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.viewer.desk import Busy, Cancelled, Change, Desk
from nnunet_ext.viewer.display import Display

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
CHANGE = "X-Change"
"""Header of an answer with a part of the label map: its version, where it is, and notices, as JSON."""


def create_app(desk: Desk, images: Sequence[Path], out: Path | None) -> FastAPI:
    """The page and its API.

    Args:
        desk: with an image; it is closed with the server.
        images: one file per channel.
        out: where the label map is saved.

    Raises:
        InputError: an image cannot be read, or there are more labels than the page has colours.
    """
    session = desk.session
    if max(session.labels.values()) > 255:
        raise InputError(f"The page shows labels up to 255, but the model has {max(session.labels.values())}.")
    reader = Reader(session.model.plans_manager.plans["image_reader_writer"])
    display = Display.of(Geometry.from_properties(session.case.properties), session.case.shape)
    description = session.model.dataset_json
    channels = channel_names(description)[: len(images)]
    name = out.name if out else _stem(images[0]) + "_segmentation" + description["file_ending"]
    # by name, so that what a request says never becomes a path
    files = {f"/{path.name}": path for path in sorted(PAGE.glob("*.*"))}
    files["/"] = PAGE / "index.html"

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.open()
        yield
        desk.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

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

    @app.get("/api/case")
    async def case() -> dict[str, Any]:
        return {
            "name": images[0].name,
            "shape": session.case.shape,
            "axes": display.axes,
            "affine": display.affine.tolist(),
            "slice_axis": display.axes[session.case.slice_axis][0],
            "labels": [{"value": value, "name": label} for label, value in session.labels.items()],
            "channels": channels,
            "saves_to": out.name if out else None,
        }

    @app.get("/api/image/{channel}.nii")
    def image(channel: int) -> Response:
        if not 0 <= channel < len(images):
            raise InputError(f"There is no channel {channel}.")
        array = reader.image(images[channel]).array
        return Response(display.nifti(array.reshape(session.case.shape)), media_type="application/octet-stream")

    @app.get("/api/labels")
    async def labels() -> Response:
        return _answer(await desk.look(), display)

    @app.post("/api/prompt")
    async def prompt(request: Request) -> Response:
        try:
            entry = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise InputError("The request is no JSON.") from None
        return _answer(await desk.apply(entry), display)

    @app.get("/api/state")
    async def state() -> dict[str, Any]:
        return desk.state

    @app.post("/api/cancel")
    async def cancel() -> dict[str, Any]:
        desk.cancel()
        return desk.state

    @app.post("/api/save")
    async def save() -> dict[str, Any]:
        if out is None:
            raise InputError("The server was started without --out; download the segmentation instead.")
        await desk.do(lambda: session.write(out))
        return {"file": out.name}

    @app.get("/api/segmentation")
    async def segmentation() -> Response:
        return _download(await desk.do(lambda: _written(desk, name)), name)

    @app.get("/api/prompts")
    async def prompts() -> Response:
        return _download(prompt_file(desk.prompts).encode(), _stem(images[0]) + "_prompts.json")

    @app.get("/{path:path}")
    async def page(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            return JSONResponse({"detail": "There is nothing of this name."}, 404)
        return Response(file.read_bytes(), media_type=TYPES[file.suffix])

    return app


def prompt_file(prompts: Sequence[dict[str, Any]]) -> str:
    """Prompts as a file for ``nnunet-ext s2v interact``."""
    lines = ",\n".join(f"    {json.dumps(prompt, ensure_ascii=False)}" for prompt in prompts)
    return f'{{\n  "axes": "zyx",\n  "prompts": [\n{lines}\n  ]\n}}\n'


def _answer(change: Change, display: Display) -> Response:
    """A part of the label map: i fastest, one byte per voxel, compressed."""
    box = None if change.box is None else display.turned_box(change.box)
    headers = {CHANGE: json.dumps({"version": change.version, "box": box, "notices": change.notices})}
    if change.labels is None:
        return Response(headers=headers, media_type="application/octet-stream")
    content = gzip.compress(_bytes(display.turned(change.labels)), 1)
    return Response(content, headers={**headers, "Content-Encoding": "gzip"}, media_type="application/octet-stream")


def _bytes(labels: NDArray) -> bytes:
    return labels.astype(np.uint8, copy=False).tobytes("F")


def _written(desk: Desk, name: str) -> bytes:
    """The label map as the session writes it to a file of this name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        desk.session.write(file)
        return file.read_bytes()


def _download(content: bytes, name: str) -> Response:
    quoted = name.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    headers = {"Content-Disposition": f'attachment; filename="{quoted}"'}
    return Response(content, headers=headers, media_type="application/octet-stream")


def _stem(file: Path) -> str:
    """``case_0000.nii.gz`` → ``case``: without the ending and nnU-Net's number of the channel."""
    return file.name.partition(".")[0].removesuffix("_0000") or "case"
