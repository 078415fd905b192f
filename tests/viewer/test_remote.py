"""nnInteractive's protocol: with its real client where that is installed, and request by request."""

import contextlib
import json
import re
import socket
import struct
import threading
import warnings

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
from nnunet_ext.viewer.access import AccessMiddleware
from nnunet_ext.viewer.remote import create_remote
from tests.interactive.sessions import SPACING, image, model

SHAPE = (6, 16, 20)
LIMIT = 2**20
"""Bytes of an image."""
KEY = "a-key"
PROPERTIES = {"spacing": SPACING}
SPACED = {"X-Meta": json.dumps({"image_properties": PROPERTIES})}


def session():
    made = S2VSession("cpu")
    made.initialize_from_predictor(model(spacing=tuple(SPACING[1:])))
    return made


def protected(port=1527):
    app = create_remote(session(), LIMIT)
    return AccessMiddleware(app, hosts=frozenset({"127.0.0.1"}), token=KEY, port=port, limit=2**21, bearer=True)


def remote_of(client):
    """The session behind a test client."""
    return client.app.app.state.remote


@pytest.fixture
def address():
    """Address of a real server."""
    with serving.listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(protected(), log_level="warning"))
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
        assert client.supported_interactions["bbox3d"]
        assert client.supports_undo
        client.set_image(volume, PROPERTIES)
        assert client.original_image_shape == (1, *SHAPE)
        client.set_target_buffer(mask)
        client.set_do_autozoom(False)
        with pytest.raises(httpx.HTTPStatusError, match="400"):
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
        same(
            client.add_bbox_interaction([[1, 4], [5, 12], [2, 8]], True),
            local.add_bbox_interaction([[1, 4], [5, 12], [2, 8]], label=2),
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
        assert np.array_equal(wire.unpack(serialization.pack_array(array), LIMIT), array)
        assert np.array_equal(serialization.unpack_array(wire.pack(array)), array)


# --- request by request -----------------------------------------------------------------------------------------------


@pytest.fixture
def client():
    with TestClient(protected(), base_url="http://127.0.0.1:1527", headers={"Authorization": f"Bearer {KEY}"}) as made:
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
        ("set_target_buffer", {"json": {"shape": list(SHAPE), "dtype": "complex128"}}, "expected is bool, uint8,"),
        ("set_target_buffer", {"json": {"shape": 3, "dtype": "uint8"}}, r"shape with 3; expected is \[z, y, x\]"),
        ("add_point_interaction", {"json": {"include_interaction": True}}, "no coordinates"),
        ("add_point_interaction", {"json": {"coordinates": [1, 2, 3]}}, "no include_interaction"),
        ("add_point_interaction", {"content": b"{"}, "no JSON object"),
        ("add_bbox_interaction", {"json": {"bbox_coords": [[0, 2], "a"], "include_interaction": True}}, "expected is"),
        ("add_bbox_interaction", {"json": {"bbox_coords": [[0, 3]] * 4, "include_interaction": True}}, "expected is"),
        ("add_scribble_interaction", {"content": wire.pack(np.ones(3)), "headers": {"X-Meta": "{}"}}, "no include"),
        ("add_point_interaction", {"json": {"coordinates": [1, 2, 3], "include_interaction": "no"}}, "true or false"),
        (
            "add_point_interaction",
            {"content": b" " * (2**20 + 1)},
            "1048577 bytes; without an array it may",
        ),
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


def test_the_body_of_a_request_without_a_key_is_not_waited_for(address):
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /set_image HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 401")


NUMBERS = [
    "1" + "0" * 400,
    "1e300",
    "-1e300",
    "NaN",
    "Infinity",
    "1e400",
    "true",
    "null",
    '"a"',
    "[]",
    "{}",
    "1" * 5000,
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:8])
def test_numbers_that_are_none_are_refused_with_a_sentence_wherever_they_stand(client, number):
    claimed(client)
    small = wire.pack(image(SHAPE))

    def refused(path, headers=None, **request_):
        answer = client.post(f"/{path}", headers=headers, **request_)
        assert answer.status_code == 400, (path, answer.text)
        detail = answer.json()["detail"]
        assert 20 < len(detail) < 300
        assert "\n" not in detail

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for spacing in (f"[{number}, 1, 1]", f"[1, {number}, 1]", f"[1, 1, {number}]", f"[1, {number}]", number):
            meta = {"X-Meta": f'{{"image_properties": {{"spacing": {spacing}}}}}'}
            refused("set_image", meta, content=small)
        refused("set_image", {"X-Meta": f'{{"image_properties": {number}}}'}, content=small)
        assert client.post("/set_image", content=small, headers=SPACED).status_code == 200
        buffer = json.dumps({"shape": list(SHAPE), "dtype": "uint8"})
        assert client.post("/set_target_buffer", content=buffer).status_code == 200
        refused("set_target_buffer", content=buffer.replace("6", number, 1))
        how = '"include_interaction": true'
        refused("add_point_interaction", content=f'{{"coordinates": [1, 2, {number}], {how}}}')
        refused("add_point_interaction", content=f'{{"coordinates": {number}, {how}}}')
        refused("add_bbox_interaction", content=f'{{"bbox_coords": [[1, 2], [3, {number}], [3, 9]], {how}}}')
        refused("add_bbox_interaction", content=f'{{"bbox_coords": [[1, 2], {number}, [3, 9]], {how}}}')
        box = {"X-Meta": f'{{"interaction_bbox": [[1, 2], [3, 4], [5, {number}]], {how}}}'}
        refused("add_scribble_interaction", box, content=wire.pack(np.ones((1, 1, 1), np.uint8)))
        if number != "true":
            how = f'"include_interaction": {number}'
            refused("add_point_interaction", content=f'{{"coordinates": [1, 2, 3], {how}}}')
    assert client.post("/undo").headers["X-Meta"] == '{"ran_prediction": false, "bbox": null}'


def test_a_few_bytes_that_unpack_to_a_lot_are_refused_before_they_are_unpacked(client, monkeypatch):
    bomb = wire.pack(np.zeros((1, 4, 512, 1024), np.uint8))
    assert len(bomb) < 250
    claimed(client)
    unpacked = []
    decompress = blosc2.decompress2
    monkeypatch.setattr(blosc2, "decompress2", lambda *given, **how: unpacked.append(1) or decompress(*given, **how))
    answer = client.post("/set_image", content=bomb, headers=SPACED)
    assert answer.status_code == 400
    assert f"{LIMIT} bytes are the limit" in answer.json()["detail"]
    client.post("/set_image", content=wire.pack(image(SHAPE)), headers=SPACED)
    assert unpacked == [1]
    # a mask has at most as many voxels as the image
    meta = {"X-Meta": json.dumps({"include_interaction": True})}
    mask = wire.pack(np.ones((7, 16, 20), np.int64))
    for path in ("scribble", "lasso", "initial_seg"):
        answer = client.post(f"/add_{path}_interaction", content=mask, headers=meta)
        assert answer.status_code == 400
        assert f"{8 * 6 * 16 * 20} bytes are the limit" in answer.json()["detail"]
    assert unpacked == [1]


def test_an_image_that_resampling_would_blow_up_is_refused(client):
    claimed(client)
    for spacing, found in (([3, 1e4, 1e4], "133333 × 222222"), ([3, 1e-4, 1], "0 × 22")):
        meta = {"X-Meta": json.dumps({"image_properties": {"spacing": spacing}})}
        answer = client.post("/set_image", content=wire.pack(image(SHAPE)), headers=meta)
        assert answer.status_code == 400
        assert found in answer.json()["detail"]
        assert "Is the spacing in mm?" in answer.json()["detail"]


# --- two clients ------------------------------------------------------------------------------------------------------


def post(client, lease, path, **request_):
    """With another lease than that of the client."""
    headers = {"X-Lease-Token": lease, **request_.pop("headers", {})}
    return client.post(f"/{path}", headers=headers, **request_)


CLICK = {"coordinates": [3, 8, 9], "include_interaction": True}


def expected(volume):
    """Mask that a session gives for the click."""
    local = session()
    local.set_image(volume, PROPERTIES)
    box = local.add_point_interaction(CLICK["coordinates"], label=1)
    return local.target_buffer[tuple(slice(*ends) for ends in box)] == 1


def clicked(client, lease):
    """Mask that a client gets for the click."""
    buffer = {"shape": list(SHAPE), "dtype": "uint8"}
    answer = post(client, lease, "set_target_buffer", json=buffer)
    assert answer.status_code == 200, answer.text
    answer = post(client, lease, "add_point_interaction", json=CLICK)
    assert answer.status_code == 200, answer.text
    return wire.unpack(answer.content, LIMIT)


def test_an_image_that_arrives_after_its_lease_has_ended_is_not_set(client):
    remote = remote_of(client)
    late, own = image(SHAPE, seed=1), image(SHAPE, seed=2)
    first = client.post("/claim").json()["lease_token"]
    go_on, answers = threading.Event(), []
    remote.worker._thread.submit(go_on.wait, 30)  # the upload waits behind something
    sending = threading.Thread(
        target=lambda: answers.append(post(client, first, "set_image", content=wire.pack(late), headers=SPACED))
    )
    sending.start()
    while remote.worker._waiting == 0:
        go_on.wait(0.01)
    post(client, first, "release")
    second = client.post("/claim").json()["lease_token"]
    go_on.set()
    sending.join(30)
    assert (answers[0].status_code, answers[0].json()["detail"]) == (
        410,
        "The lease ended before the request was done; connect again.",
    )
    assert "No image" in post(client, second, "undo").text
    assert post(client, second, "set_image", content=wire.pack(own), headers=SPACED).status_code == 200
    assert np.array_equal(clicked(client, second), expected(own))


def test_an_image_that_is_being_set_when_its_lease_ends_is_none_of_the_next_clients_business(client, monkeypatch):
    remote = remote_of(client)
    late, own = image(SHAPE, seed=1), image(SHAPE, seed=2)
    begun, go_on, answers = threading.Event(), threading.Event(), []
    set_image = remote.session.set_image

    def slowly(*given):
        begun.set()
        assert go_on.wait(30)
        set_image(*given)

    monkeypatch.setattr(remote.session, "set_image", slowly)
    first = client.post("/claim").json()["lease_token"]
    sending = threading.Thread(
        target=lambda: answers.append(post(client, first, "set_image", content=wire.pack(late), headers=SPACED))
    )
    sending.start()
    assert begun.wait(30)
    post(client, first, "release")
    second = client.post("/claim").json()["lease_token"]
    go_on.set()
    sending.join(30)
    assert answers[0].status_code == 200
    assert post(client, first, "undo").status_code == 410
    answer = post(client, second, "add_point_interaction", json=CLICK)
    assert (answer.status_code, answer.json()["detail"]) == (400, "No image is set; call set_image first.")
    assert post(client, second, "set_image", content=wire.pack(own), headers=SPACED).status_code == 200
    assert np.array_equal(clicked(client, second), expected(own))


def test_two_clients_that_race_never_see_each_others_image(client):
    """Both claim, send, click and leave as fast as they can, also in the middle of what they have asked for."""
    volumes = [image(SHAPE, seed=seed) for seed in (1, 2)]
    packed, masks = [wire.pack(volume) for volume in volumes], [expected(volume) for volume in volumes]
    assert not np.array_equal(*masks)
    right, refused = [], []

    def race(number):
        rng = np.random.default_rng(number)
        for _ in range(12):
            answer = client.post("/claim")
            if answer.status_code != 200:
                continue
            lease = answer.json()["lease_token"]
            leaving = threading.Timer(rng.uniform(0, 0.2), lambda lease=lease: post(client, lease, "release"))
            if rng.random() < 0.6:
                leaving.start()
            try:
                answer = post(client, lease, "set_image", content=packed[number], headers=SPACED)
                if answer.status_code == 200:
                    right.append(np.array_equal(clicked(client, lease), masks[number]))
            except AssertionError as gone:
                refused.append(str(gone))
            leaving.cancel()
            post(client, lease, "release")

    racing = [threading.Thread(target=race, args=(number,)) for number in (0, 1)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join(120)
    lease = client.post("/claim").json()["lease_token"]
    post(client, lease, "set_image", content=packed[0], headers=SPACED)
    assert np.array_equal(clicked(client, lease), masks[0])
    assert right
    assert all(right)
    assert all("The lease" in sentence for sentence in refused)


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
    found = wire.unpack(wire.pack(array), LIMIT)
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
        wire.unpack(bytes(content), LIMIT)


def test_an_array_that_claims_to_be_huge_is_refused_before_memory_is_taken():
    content = struct.pack("<4s4B", b"NNIA", 1, 1, 3, 5) + b"uint8" + struct.pack("<3qI", 2**20, 2**20, 2**20, 1)
    with pytest.raises(InputError, match="limit"):
        wire.unpack(content + bytes(64), LIMIT)
    content = struct.pack("<4s4B", b"NNIA", 1, 1, 1, 6) + b"object" + struct.pack("<qI", 1, 1)
    with pytest.raises(InputError, match="its type is 'object'; the types are bool, int8"):
        wire.unpack(content + bytes(64), LIMIT)


def test_the_page_and_the_protocol_are_one_or_the_other(capsys):
    assert cli.main(["s2v", "serve", "-m", "no", "--nninteractive", "-i", "case_0000.nii.gz"]) == 2
    assert "leave out --image" in capsys.readouterr().err
    assert cli.main(["s2v", "serve", "-m", "no"]) == 2
    assert "Which image?" in capsys.readouterr().err
