"""nnInteractive's remote protocol (client 2.6), so that its plug-ins for napari and 3D Slicer work with our models.

A client of this protocol segments one object at a time, as a mask of 0 and 1, and does not name its class. Here the
address names it: ``http://127.0.0.1:1527/liver`` is the label liver of the model, by name or value; an address without
a label means the first label. The client's prompts are prompts for this label, and it gets the mask of this label; the
session segments all labels.

Arrays and positions are in the order of the array, z, y, x as nnU-Net reads files (napari and 3D Slicer do the same).
One client at a time holds a lease, which its heartbeat keeps alive. Requests take time to arrive and wait for each
other. So the lease is checked again in the thread that uses the session, where nothing can change between the check
and the work. An image belongs to the client that sent it; the next client begins without one.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.session import NO_ZOOM, S2VSession
from nnunet_ext.viewer.lease import LIVENESS_SECONDS, Client, Full, Gone, Lease
from nnunet_ext.viewer.requests import (
    BoxRequest,
    BufferRequest,
    ImageRequest,
    InitialRequest,
    MaskRequest,
    PointRequest,
    ZoomRequest,
    read,
)
from nnunet_ext.viewer.wire import pack, unpack
from nnunet_ext.viewer.worker import Busy, SessionWorker

Result = TypeVar("Result")

PROTOCOL = "2.6.0"
META, LEASE = "X-Meta", "X-Lease-Token"
MASK_ITEM_BYTES = 8
"""Largest size of a voxel of a mask in bytes."""


class RemoteSession:
    """A session, the thread that uses it, and the client that holds it.

    Args:
        session: a session that nobody else uses.
        image_bytes: largest unpacked image, in bytes.
    """

    def __init__(self, session: S2VSession, image_bytes: int) -> None:
        self.session, self.image_bytes = session, image_bytes
        self.worker, self.lease = SessionWorker(), Lease()
        self.worker.use(session)
        self._image_of: Client | None = None

    def client(self, request: Request) -> Client:
        """Return the client that holds the lease named in the request; raise Gone if there is none."""
        return self.lease.of(request.headers.get(LEASE, ""))

    def label(self, name: str | None) -> int:
        """Return the value of a label, given by name or value; None means the first foreground label.

        Raises:
            InputError: the model has no such label.
        """
        known = {name: value for name, value in self.session.labels.items() if value}
        if name is None:
            return next(iter(known.values()))
        found = known.get(name, {str(value): value for value in known.values()}.get(name))
        if found is None:
            raise InputError(f"The address names the label {name[:80]!r}; the model has {', '.join(known)}.")
        return found

    async def set_image(self, client: Client, content: bytes, properties: dict[str, Any]) -> list[int]:
        """Unpack and preprocess an image, which then belongs to the client, and return its shape."""

        def work() -> list[int]:
            self.lease.require(client)
            image = unpack(content, self.image_bytes)
            self.session.set_image(image, properties)
            self._image_of, client.dtype = client, None
            return list(image.shape)

        return await self.worker.do(work)

    async def on_image(self, client: Client, call: Callable[[], Result]) -> Result:
        """Call a function that needs the client's image, in the worker's thread.

        Raises:
            Gone: the lease has ended meanwhile.
            InputError: the client has sent no image.
        """

        def work() -> Result:
            self.lease.require(client)
            if self._image_of is not client:  # an image of the previous client is private
                raise InputError("No image is set; call set_image first.")
            return call()

        return await self.worker.do(work)

    async def change(self, client: Client, call: Callable[[], Box | None], runs: bool = True) -> Response:
        """Call a function that changes the label map, and return the change in the client's format.

        Args:
            client: the client that asks.
            call: function that returns the changed box.
            runs: whether the call always predicts.
        """

        def work() -> Response:
            before = self.session.undo_steps
            box = call()
            ran = runs or self.session.undo_steps < before  # an undo, if there was anything to undo
            if not ran or box is None or client.dtype is None:
                return _answer(ran, None, b"")
            part = self.session.target_buffer[tuple(slice(*ends) for ends in box)]
            return _answer(True, box, pack((part == client.label).astype(client.dtype)))

        return await self.on_image(client, work)

    def mask(self, content: bytes) -> NDArray:
        """Unpack a mask of a client, at most as large as the image; call this in the worker's thread."""
        return unpack(content, MASK_ITEM_BYTES * math.prod(self.session.case.shape))


def create_remote(session: S2VSession, image_bytes: int = 2**31) -> FastAPI:
    """Return nnInteractive's server, in front of a session with a model; see :class:`RemoteSession`."""
    remote = RemoteSession(session, image_bytes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        remote.worker.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.remote = remote
    for kind, status in ((InputError, 400), (Gone, 410), (Full, 503), (Busy, 429)):
        app.add_exception_handler(kind, _refusal(status))
    for router in (_connection(remote), _image(remote), _prompts(remote)):
        app.include_router(router)
        app.include_router(router, prefix="/{label}")
    return app


def _connection(remote: RemoteSession) -> APIRouter:
    """Routes of the lease and of the server's capabilities."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"ok": True}

    @router.post("/claim")
    async def claim(request: Request) -> dict[str, Any]:
        client = remote.lease.claim(remote.label(request.path_params.get("label")))
        return {
            "lease_token": client.token,
            "idle_timeout_seconds": 0.0,
            "liveness_timeout_seconds": LIVENESS_SECONDS,
            "max_sessions": 1,
        }

    @router.post("/release")
    async def release(request: Request) -> dict[str, Any]:
        remote.lease.end(remote.client(request))
        return {"released": True}

    @router.post("/heartbeat")
    async def heartbeat(request: Request) -> dict[str, Any]:
        remote.client(request)
        return {"remaining_seconds": LIVENESS_SECONDS}

    @router.get("/lease_status")
    async def lease_status(request: Request) -> dict[str, Any]:
        remote.client(request)
        return {"remaining_seconds": LIVENESS_SECONDS, "idle_timeout_seconds": 0.0}

    @router.get("/capabilities")
    async def capabilities() -> dict[str, Any]:
        return _capabilities([int(size) for size in remote.session.model.configuration_manager.patch_size])

    return router


def _image(remote: RemoteSession) -> APIRouter:
    """Routes of the image and of the client's target buffer."""
    router = APIRouter()

    @router.post("/set_image")
    async def set_image(request: Request) -> dict[str, Any]:
        client, said = remote.client(request), read(ImageRequest, request.headers.get(META, "{}"), f"The header {META}")
        spacing = said.image_properties and said.image_properties.spacing
        shape = await remote.set_image(client, await request.body(), {"spacing": spacing})
        return {"original_image_shape": shape}

    @router.post("/set_target_buffer")
    async def set_target_buffer(request: Request) -> dict[str, Any]:
        client, wanted = remote.client(request), read(BufferRequest, await request.body())

        def work() -> None:
            shape = list(remote.session.case.shape)
            if wanted.shape != shape:
                raise InputError(f"The target buffer has shape {wanted.shape[:5]}, but the image {shape}.")
            client.dtype = wanted.dtype

        await remote.on_image(client, work)
        return {}

    @router.post("/set_do_autozoom")
    async def set_do_autozoom(request: Request) -> dict[str, Any]:
        remote.client(request)
        if read(ZoomRequest, await request.body()).do_autozoom:
            raise InputError(NO_ZOOM)
        return {}

    @router.post("/reset_interactions")
    async def reset_interactions(request: Request) -> dict[str, Any]:
        await remote.on_image(remote.client(request), remote.session.reset_interactions)
        return {}

    return router


def _prompts(remote: RemoteSession) -> APIRouter:
    """Routes of prompts and of undo."""
    router, session = APIRouter(), remote.session

    @router.post("/undo")
    async def undo(request: Request) -> Response:
        return await remote.change(remote.client(request), session.undo, runs=False)

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        return await remote.change(remote.client(request), session.predict)

    @router.post("/add_point_interaction")
    async def add_point(request: Request) -> Response:
        client, said = remote.client(request), read(PointRequest, await request.body())
        how = said.include_interaction, said.run_prediction

        def call() -> Box | None:
            return session.add_point_interaction(said.coordinates, *how, label=client.label)

        return await remote.change(client, call, said.run_prediction)

    @router.post("/add_bbox_interaction")
    async def add_bbox(request: Request) -> Response:
        client, said = remote.client(request), read(BoxRequest, await request.body())
        how = said.include_interaction, said.run_prediction

        def call() -> Box | None:
            box = _whole(said.bbox_coords, session.case.shape)
            return session.add_bbox_interaction(box, *how, label=client.label)

        return await remote.change(client, call, said.run_prediction)

    async def add_mask(request: Request, add: Callable[..., Box | None]) -> Response:
        client, said = remote.client(request), read(MaskRequest, request.headers.get(META, "{}"), f"The header {META}")
        content, how = await request.body(), (said.include_interaction, said.run_prediction)

        def call() -> Box | None:
            return add(remote.mask(content), *how, interaction_bbox=said.interaction_bbox, label=client.label)

        return await remote.change(client, call, said.run_prediction)

    @router.post("/add_scribble_interaction")
    async def add_scribble(request: Request) -> Response:
        return await add_mask(request, session.add_scribble_interaction)

    @router.post("/add_lasso_interaction")
    async def add_lasso(request: Request) -> Response:
        return await add_mask(request, session.add_lasso_interaction)

    @router.post("/add_initial_seg_interaction")
    async def add_initial_seg(request: Request) -> Response:
        client, said = (
            remote.client(request),
            read(InitialRequest, request.headers.get(META, "{}"), f"The header {META}"),
        )
        content = await request.body()

        def call() -> Box | None:
            labels = np.where(remote.mask(content) != 0, client.label, 0)
            return session.add_initial_seg_interaction(labels, said.run_prediction)

        return await remote.change(client, call, said.run_prediction)

    return router


def _capabilities(patch_size: list[int]) -> dict[str, Any]:
    return {
        "supported_interactions": {"points": True, "scribble": True, "lasso": True, "bbox2d": True, "bbox3d": True},
        # here prompts are no channels of the input
        "channel_mapping": {},
        "num_interaction_channels": 0,
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": False,
        "supports_undo": True,
        "preferred_scribble_thickness": [2, 2, 2],
        "interaction_decay": None,
        "patch_size": patch_size,
        "do_autozoom": False,
        "inference_session_version": PROTOCOL,
        "license": None,
    }


def _refusal(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: JSONResponse({"detail": str(error)}, status)


def _answer(ran: bool, box: Box | None, content: bytes) -> Response:
    meta = json.dumps({"ran_prediction": ran, "bbox": box})
    return Response(content, headers={META: meta}, media_type="application/octet-stream")


def _whole(box: Sequence[Sequence[float]], shape: Sequence[int]) -> Box:
    """Round a box to whole voxels within the image, at least one along each axis."""
    pairs = [(math.floor(low + 0.5), math.ceil(high - 0.5)) for low, high in box]
    return [[max(0, low), min(size, max(low + 1, high))] for (low, high), size in zip(pairs, shape, strict=True)]
