"""nnInteractive's remote protocol (client 2.6), so that its plug-ins for napari and 3D Slicer work with our models.

A client of it segments one object at a time, a mask of 0 and 1, and does not say of which class. Here the address
says it: ``http://127.0.0.1:1527/liver`` is the label liver of the model, by name or value, and without a label it is
the first one. Its prompts are prompts for this label, and it gets the mask of this label; all labels are segmented.

Arrays and positions are in the order of the array, z, y, x as nnU-Net reads files (napari and 3D Slicer do the same).
One client at a time: a lease, kept alive by the client's heartbeat.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.desk import Busy, Desk
from nnunet_ext.viewer.wire import pack, unpack

PROTOCOL = "2.6.0"
META, LEASE = "X-Meta", "X-Lease-Token"
BUFFERS = ("bool", "uint8", "uint16", "int16", "int32", "float32")
LIVENESS_SECONDS = 60.0
"""Without a sign of life for so long, a client has gone, and the next one can come."""


@dataclass
class Client:
    """Who has the session now.

    Attributes:
        token: of the lease.
        label: that its prompts are for.
        seen: when it last asked for something, monotonic seconds.
        has_image: it sent one; that of the client before is none of its business.
        dtype: of its target buffer; None before it has one.
    """

    token: str
    label: int
    seen: float
    has_image: bool = False
    dtype: str | None = None


class Gone(Exception):
    """The lease is none, or not any more."""


class Full(Exception):
    """Somebody else has the session."""


def create_remote(session: S2VSession) -> FastAPI:
    """nnInteractive's server, in front of a session with a model."""
    desk = Desk(session)
    current: Client | None = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    router = APIRouter()
    for kind, status in ((InputError, 400), (Gone, 410), (Full, 503), (Busy, 429)):
        app.add_exception_handler(kind, _refusal(status))

    def client(request: Request) -> Client:
        """The one whose lease this is; it is alive."""
        token = request.headers.get(LEASE, "")
        if current is None or not secrets.compare_digest(current.token.encode(), token.encode()):
            raise Gone("The lease is unknown or has ended; connect again.")
        current.seen = time.monotonic()
        return current

    def client_with_image(request: Request) -> Client:
        found = client(request)
        if not found.has_image:
            raise InputError("No image is set; call set_image first.")
        return found

    async def changed(request: Request, call: Callable[[], Box | None], runs: bool = True) -> Response:
        """What a call has changed, as the client reads it; ``runs``: it always predicts."""
        whose = client_with_image(request)

        def work() -> Response:
            before = session.undo_steps
            box = call()
            ran = runs or session.undo_steps < before  # an undo, if there was anything to undo
            if not ran or box is None or whose.dtype is None:
                return _answer(ran, None, b"")
            part = session.target_buffer[tuple(slice(*ends) for ends in box)]
            return _answer(True, box, pack((part == whose.label).astype(whose.dtype)))

        return await desk.do(work)

    @router.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"ok": True}

    @router.post("/claim")
    async def claim(request: Request) -> dict[str, Any]:
        nonlocal current
        label = request.path_params.get("label")
        known = {name: value for name, value in session.labels.items() if value}
        by_value = {str(value): value for value in known.values()}
        value = next(iter(known.values())) if label is None else known.get(label, by_value.get(label))
        if value is None:
            raise InputError(f"The address names the label {label!r}; the model has {', '.join(known)}.")
        if current and time.monotonic() - current.seen < LIVENESS_SECONDS:
            raise Full("Another client is connected; close it, or wait a minute after it was closed.")
        current = Client(secrets.token_hex(16), value, time.monotonic())
        return {
            "lease_token": current.token,
            "idle_timeout_seconds": 0.0,
            "liveness_timeout_seconds": LIVENESS_SECONDS,
            "max_sessions": 1,
        }

    @router.post("/release")
    async def release(request: Request) -> dict[str, Any]:
        nonlocal current
        client(request)
        current = None
        return {"released": True}

    @router.post("/heartbeat")
    async def heartbeat(request: Request) -> dict[str, Any]:
        client(request)
        return {"remaining_seconds": LIVENESS_SECONDS}

    @router.get("/lease_status")
    async def lease_status(request: Request) -> dict[str, Any]:
        client(request)
        return {"remaining_seconds": LIVENESS_SECONDS, "idle_timeout_seconds": 0.0}

    @router.get("/capabilities")
    async def capabilities() -> dict[str, Any]:
        return {
            "supported_interactions": {
                "points": True,
                "scribble": True,
                "lasso": True,
                "bbox2d": True,
                "bbox3d": False,
            },
            # prompts are no channels of an input here
            "channel_mapping": {},
            "num_interaction_channels": 0,
            "supports_initial_label": True,
            "supports_zero_shot_label_refinement": False,
            "supports_undo": True,
            "preferred_scribble_thickness": [2, 2, 2],
            "interaction_decay": None,
            "patch_size": [int(size) for size in session.model.configuration_manager.patch_size],
            "do_autozoom": False,
            "inference_session_version": PROTOCOL,
            "license": None,
        }

    @router.post("/set_image")
    async def set_image(request: Request) -> dict[str, Any]:
        whose = client(request)
        properties = _meta(request).get("image_properties") or {}
        image = unpack(await request.body())
        await desk.do(lambda: session.set_image(image, properties))
        whose.has_image, whose.dtype = True, None
        return {"original_image_shape": list(image.shape)}

    @router.post("/set_target_buffer")
    async def set_target_buffer(request: Request) -> dict[str, Any]:
        whose, wanted = client_with_image(request), await _json(request)
        shape, dtype = wanted.get("shape"), wanted.get("dtype")
        if shape != list(session.case.shape) or dtype not in BUFFERS:
            raise InputError(
                f"The target buffer has shape {shape} and type {dtype!r}, but the image {list(session.case.shape)}; "
                f"the types are {', '.join(BUFFERS)}."
            )
        whose.dtype = dtype
        return {}

    @router.post("/set_do_autozoom")
    async def set_do_autozoom(request: Request) -> dict[str, Any]:
        client(request)  # there is no zoom
        return {}

    @router.post("/reset_interactions")
    async def reset_interactions(request: Request) -> dict[str, Any]:
        client_with_image(request)
        await desk.do(session.reset_interactions)
        return {}

    @router.post("/undo")
    async def undo(request: Request) -> Response:
        return await changed(request, session.undo, runs=False)

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        return await changed(request, session.predict)

    @router.post("/add_point_interaction")
    async def add_point(request: Request) -> Response:
        given, label = await _json(request), client_with_image(request).label
        at, (include, run) = _get(given, "coordinates"), _how(given)
        return await changed(request, lambda: session.add_point_interaction(at, include, run, label=label), run)

    @router.post("/add_bbox_interaction")
    async def add_bbox(request: Request) -> Response:
        given, label = await _json(request), client_with_image(request).label
        box, (include, run) = _box(_get(given, "bbox_coords"), session.case.shape), _how(given)
        return await changed(request, lambda: session.add_bbox_interaction(box, include, run, label=label), run)

    async def add_mask(request: Request, add: Callable[..., Box | None]) -> Response:
        given, label, mask = _meta(request), client_with_image(request).label, unpack(await request.body())
        box, (include, run) = given.get("interaction_bbox"), _how(given)
        return await changed(request, lambda: add(mask, include, run, interaction_bbox=box, label=label), run)

    @router.post("/add_scribble_interaction")
    async def add_scribble(request: Request) -> Response:
        return await add_mask(request, session.add_scribble_interaction)

    @router.post("/add_lasso_interaction")
    async def add_lasso(request: Request) -> Response:
        return await add_mask(request, session.add_lasso_interaction)

    @router.post("/add_initial_seg_interaction")
    async def add_initial_seg(request: Request) -> Response:
        given, label, mask = _meta(request), client_with_image(request).label, unpack(await request.body())
        run = bool(given.get("run_prediction", False))
        labels = np.where(mask != 0, label, 0)
        return await changed(request, lambda: session.add_initial_seg_interaction(labels, run), run)

    app.include_router(router)
    app.include_router(router, prefix="/{label}")
    return app


def _refusal(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: JSONResponse({"detail": str(error)}, status)


def _answer(ran: bool, box: Box | None, content: bytes) -> Response:
    meta = json.dumps({"ran_prediction": ran, "bbox": box})
    return Response(content, headers={META: meta}, media_type="application/octet-stream")


def _meta(request: Request) -> dict[str, Any]:
    return _object(request.headers.get(META, "{}"), f"The header {META}")


async def _json(request: Request) -> dict[str, Any]:
    return _object(await request.body(), "The request")


def _object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{what} is no JSON object.")
    return found


def _get(given: dict[str, Any], key: str) -> Any:
    if key not in given:
        raise InputError(f"The request has no {key}.")
    return given[key]


def _how(given: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a prompt is for the object, and is predicted at once."""
    return bool(_get(given, "include_interaction")), bool(given.get("run_prediction", True))


def _box(box: Any, shape: Sequence[int]) -> Box:
    """In voxels: viewers send corners with fractions, and beyond the border."""
    try:
        pairs = [(math.floor(float(low) + 0.5), math.ceil(float(high) - 0.5)) for low, high in box]
        return [[max(0, low), min(size, max(low + 1, high))] for (low, high), size in zip(pairs, shape, strict=True)]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"The box is {json.dumps(box)[:80]}; expected is [[z0, z1], [y0, y1], [x0, x1]].") from None
