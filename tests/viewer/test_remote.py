"""nnInteractive's protocol: with its real client where that is installed, and request by request."""

import contextlib
import json
import re
import struct
import threading

import blosc2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra viewer is not installed")
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_ext import cli
from nnunet_ext.errors import InputError
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer import serve as serving
from nnunet_ext.viewer import wire
from nnunet_ext.viewer.access import Doorkeeper
from nnunet_ext.viewer.remote import create_remote
from tests.interactive.sessions import SPACING, image, model

SHAPE = (6, 16, 20)
KEY = "a-key"
PROPERTIES = {"spacing": SPACING}
SPACED = {"X-Meta": json.dumps({"image_properties": PROPERTIES})}


def session():
    made = S2VSession("cpu")
    made.initialize_from_predictor(model(spacing=tuple(SPACING[1:])))
    return made


def door(port=1527):
    app = create_remote(session())
    return Doorkeeper(app, hosts=frozenset({"127.0.0.1"}), token=KEY, port=port, limit=2**20, bearer=True)


@pytest.fixture
def address():
    """Of a real server."""
    with serving.listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(door(), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


# --- the real client --------------------------------------------------------------------------------------------------


@pytest.fixture
def remote():
    return pytest.importorskip("nnInteractive.inference.remote", reason="nninteractive-client is not installed")


@pytest.fixture(autouse=True)
def _few_threads():
    before = blosc2.nthreads
    yield
    blosc2.set_nthreads(before)


def test_the_real_client_gets_what_a_session_gives(remote, address):
    httpx = pytest.importorskip("httpx")
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        remote.nnInteractiveRemoteInferenceSession(address, api_key="another")
    volume = image(SHAPE)
    local = session()
    local.set_image(volume, PROPERTIES)
    mask = np.zeros(SHAPE, np.uint8)
    with remote.nnInteractiveRemoteInferenceSession(f"{address}/right", api_key=KEY) as client:
        assert client.ping()
        assert client.supported_interactions["bbox2d"]
        assert not client.supported_interactions["bbox3d"]
        assert client.supports_undo
        client.set_image(volume, PROPERTIES)
        assert client.original_image_shape == (1, *SHAPE)
        client.set_target_buffer(mask)
        client.set_do_autozoom(True)

        def same(box, expected):
            assert box == expected
            assert np.array_equal(mask, local.target_buffer == 2)

        same(
            client.add_point_interaction([3, 8, 9], True),
            local.add_point_interaction([3, 8, 9], label=2),
        )
        assert mask.any()
        same(
            client.add_point_interaction((2.0, 4.4, 5.0), False),
            local.add_point_interaction([2.0, 4.4, 5.0], False),
        )
        scribble = np.zeros(SHAPE, np.uint8)
        scribble[4, 3, 2:9] = 1
        same(client.add_scribble_interaction(scribble, True), local.add_scribble_interaction(scribble, label=2))
        lasso, where = np.ones((1, 5, 6), np.uint8), [[1, 2], [4, 9], [8, 14]]
        same(
            client.add_lasso_interaction(lasso, True, interaction_bbox=where),
            local.add_lasso_interaction(lasso, label=2, interaction_bbox=where),
        )
        # as napari sends it: fractions, and beyond the border
        same(
            client.add_bbox_interaction([[2.0, 3.0], [3.2, 9.1], [15.0, 21.0]], True),
            local.add_bbox_interaction([[2, 3], [3, 9], [15, 20]], label=2),
        )
        before = mask.copy()
        assert client.add_point_interaction([5, 2, 2], True, run_prediction=False) is None
        local.add_point_interaction([5, 2, 2], run_prediction=False, label=2)
        assert np.array_equal(mask, before)
        same(client._predict(), local.predict())
        for _ in range(8):
            ran = local.undo_steps > 0
            local.undo()
            assert client.undo() is ran
            assert np.array_equal(mask, local.target_buffer == 2)
        start = (np.random.default_rng(0).random(SHAPE) < 0.3).astype(np.uint8)
        client.add_initial_seg_interaction(start, run_prediction=True)
        local.add_initial_seg_interaction(start * 2, run_prediction=True)
        assert np.array_equal(mask, local.target_buffer == 2)
        client.reset_interactions()
        assert not mask.any()
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.add_point_interaction([3, 8, 99], True)
        assert "outside" in refused.value.response.json()["detail"]
        client.heartbeat()
        with pytest.raises(remote.ServerAtCapacityError, match="Another client"):
            remote.nnInteractiveRemoteInferenceSession(address, api_key=KEY)
    with remote.nnInteractiveRemoteInferenceSession(address, api_key=KEY) as client:  # the first has said goodbye
        client._http.headers["X-Lease-Token"] = "old"
        with pytest.raises(remote.SessionExpiredError):
            client.set_image(volume, PROPERTIES)


def test_arrays_of_the_real_client_are_ours(remote):
    from nnInteractive.inference.remote import serialization

    for array in (image(SHAPE), np.zeros((7, 3), np.uint8), np.arange(6, dtype=np.int16)):
        assert np.array_equal(wire.unpack(serialization.pack_array(array)), array)
        assert np.array_equal(serialization.unpack_array(wire.pack(array)), array)


# --- request by request -----------------------------------------------------------------------------------------------


@pytest.fixture
def client():
    with TestClient(door(), base_url="http://127.0.0.1:1527", headers={"Authorization": f"Bearer {KEY}"}) as made:
        yield made


def claimed(client, prefix=""):
    answer = client.post(f"{prefix}/claim")
    assert answer.status_code == 200, answer.text
    client.headers["X-Lease-Token"] = answer.json()["lease_token"]


def test_the_address_names_the_label(client):
    for prefix, there in (
        ("/left", True),
        ("/2", True),
        ("", True),
        ("/liver", False),
        ("/0", False),
        ("/" + "9" * 5000, False),
    ):
        answer = client.post(f"{prefix}/claim")
        assert answer.status_code == (200 if there else 400), prefix
        if there:
            client.post(f"{prefix}/release", headers={"X-Lease-Token": answer.json()["lease_token"]})
        else:
            assert "left, right" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "request_", "message"),
    [
        ("set_image", {"content": b"NNIA"}, "no array"),
        ("set_image", {"content": wire.pack(np.ones(SHAPE))}, "shape"),
        ("set_image", {"content": wire.pack(np.ones((1, *SHAPE)))}, "spacing"),
        ("set_image", {"content": b"", "headers": {"X-Meta": "3"}}, "X-Meta is no JSON object"),
        ("set_target_buffer", {"json": {"shape": [1, 2, 3], "dtype": "uint8"}}, r"\[6, 16, 20\]"),
        ("set_target_buffer", {"json": {"shape": list(SHAPE), "dtype": "complex128"}}, "types are"),
        ("add_point_interaction", {"json": {"include_interaction": True}}, "no coordinates"),
        ("add_point_interaction", {"json": {"coordinates": [1, 2, 3]}}, "no include_interaction"),
        ("add_point_interaction", {"content": b"{"}, "no JSON object"),
        ("add_bbox_interaction", {"json": {"bbox_coords": [[0, 2], "a"], "include_interaction": True}}, "expected is"),
        ("add_bbox_interaction", {"json": {"bbox_coords": [[0, 3]] * 4, "include_interaction": True}}, "expected is"),
        ("add_bbox_interaction", {"json": {"bbox_coords": [[0, 3]] * 3, "include_interaction": True}}, "plane"),
        ("add_scribble_interaction", {"content": wire.pack(np.ones(3)), "headers": {"X-Meta": "{}"}}, "no include"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(client, path, request_, message):
    claimed(client)
    client.post("/set_image", content=wire.pack(image(SHAPE)), headers=SPACED)
    client.post("/set_target_buffer", json={"shape": list(SHAPE), "dtype": "uint8"})
    answer = client.post(f"/{path}", **request_)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["detail"])
    assert client.post("/undo").headers["X-Meta"] == '{"ran_prediction": false, "bbox": null}'


def test_nothing_without_a_key_a_lease_or_an_image(client):
    stranger = TestClient(client.app, base_url="http://127.0.0.1:1527")
    for path in ("/claim", "/release", "/set_image", "/left/undo"):
        assert stranger.post(path).status_code == 401
    assert stranger.get("/capabilities").status_code == 401
    assert stranger.get(f"/capabilities?token={KEY}").status_code == 401
    assert client.post("/undo").status_code == 410
    assert client.post("/set_image", content=b"").status_code == 410
    claimed(client)
    assert client.post("/claim").status_code == 503
    answer = client.post("/undo")
    assert (answer.status_code, "No image" in answer.text) == (400, True)
    client.post("/set_image", content=wire.pack(image(SHAPE)), headers=SPACED)
    assert client.post("/undo").status_code == 200
    client.post("/release")
    claimed(client)
    assert "No image" in client.post("/undo").text  # that of the client before
    assert client.get("/claim").status_code == 405
    assert client.get("/nowhere").status_code == 404


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32, np.bool_, np.float64]),
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    )
)
def test_arrays_survive(array):
    found = wire.unpack(wire.pack(array))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=9), st.booleans())
def test_damaged_arrays_are_refused_or_read_but_never_crash(at, damage, cut):
    content = bytearray(wire.pack(np.arange(60, dtype=np.int16).reshape(3, 4, 5)))
    at %= len(content)
    if cut:
        del content[at:]
    else:
        content[at : at + len(damage)] = damage
    with contextlib.suppress(InputError):
        wire.unpack(bytes(content))


def test_an_array_that_claims_to_be_huge_is_refused_before_memory_is_taken():
    content = struct.pack("<4s4B", b"NNIA", 1, 1, 3, 5) + b"uint8" + struct.pack("<3qI", 2**20, 2**20, 2**20, 1)
    with pytest.raises(InputError, match="limit"):
        wire.unpack(content + bytes(64))
    content = struct.pack("<4s4B", b"NNIA", 1, 1, 1, 6) + b"object" + struct.pack("<qI", 1, 1)
    with pytest.raises(InputError, match="its type is object"):
        wire.unpack(content + bytes(64))


def test_the_page_and_the_protocol_are_one_or_the_other(capsys):
    assert cli.main(["s2v", "serve", "-m", "no", "--nninteractive", "-i", "case_0000.nii.gz"]) == 2
    assert "leave out --image" in capsys.readouterr().err
    assert cli.main(["s2v", "serve", "-m", "no"]) == 2
    assert "Which image?" in capsys.readouterr().err
