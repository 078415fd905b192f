"""The server: who may come in, what prompts do, and what is saved."""

import asyncio
import gzip
import json
import shutil
import threading

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("fastapi", reason="the extra viewer is not installed")
from fastapi.testclient import TestClient

from nnunet_ext import cli
from nnunet_ext.errors import InputError
from nnunet_ext.viewer import serve as serving
from nnunet_ext.viewer.access import AccessMiddleware
from nnunet_ext.viewer.worker import QUEUE
from tests.interactive.sessions import SPACING
from tests.viewer.cases import HOST, SHAPE, TOKEN, served, session_on, write_image

POINT = {"type": "point", "at": [3, 8, 9], "label": 1}


@pytest.fixture
def room(tmp_path):
    """``(client, worker)``; the client has opened the link."""
    file = write_image(tmp_path)
    out = tmp_path / "out" / "case.nii.gz"
    out.parent.mkdir()
    protected, worker = served(file, out)
    with TestClient(protected, base_url=HOST) as client:
        assert client.get(f"/?token={TOKEN}").status_code == 200
        client.get("/api/labels")  # waits for the automatic result
        yield client, worker


def change_of(answer):
    assert answer.status_code == 200, answer.text
    return json.loads(answer.headers["X-Change"])


def whole(client):
    """The label map as the page sees it, turned back to z, y, x."""
    answer = client.get("/api/labels")
    case = client.get("/api/case").json()
    size = [high for _, high in change_of(answer)["box"]]
    return to_file(np.frombuffer(answer.content, np.uint8).reshape(size, order="F"), case)


def to_file(shown, case):
    """i, j, k → z, y, x, as the page does."""
    index = np.indices(case["shape"])
    where = [None] * 3
    for axis, (to, sign) in enumerate(case["axes"]):
        where[to] = index[axis] if sign > 0 else case["shape"][axis] - 1 - index[axis]
    return shown[tuple(where)]


# --- access -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def protected(tmp_path):
    file = write_image(tmp_path)
    made, _ = served(file)
    with TestClient(made, base_url=HOST, follow_redirects=False):
        yield made


def client_of(protected):
    return TestClient(protected, base_url=HOST, follow_redirects=False)


def test_the_link_works_once_and_leaves_a_cookie_that_scripts_cannot_read(protected):
    client = client_of(protected)
    assert client.get("/").status_code == 401
    assert client.get("/?token=another").status_code == 401
    assert client.get(f"/api/case?token={TOKEN}").status_code == 401
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "nnunet_ext_8123=" in cookie
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200
    assert client.get(f"/?token={TOKEN}").headers["location"] == "/"  # the same browser again: not in the address bar
    other = client_of(protected)
    assert other.get(f"/?token={TOKEN}").status_code == 401
    other.cookies.set("nnunet_ext_8123", "guessed")
    assert other.get("/api/case").status_code == 401


def test_a_link_that_is_clicked_in_webmail_works_once(protected):
    """As browsers do it: the navigation is another site's, before the redirection and after it."""
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    client, other = client_of(protected), client_of(protected)
    answer = client.get(f"/?token={TOKEN}&utm_source=mail", headers=navigation)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    # a strict cookie would not be sent with what follows
    assert "SameSite=lax" in answer.headers["set-cookie"]
    assert client.get("/", headers=navigation).status_code == 200
    assert client.get("/api/case", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    # other sites can do nothing with it but that
    assert client.get("/api/segmentation", headers=navigation).status_code == 403
    assert client.post("/api/prompt", json=POINT, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert other.get(f"/?token={TOKEN}", headers=navigation).status_code == 401
    assert client.get(f"/?token={TOKEN}", headers=navigation).status_code == 303  # a second click in the same browser


def test_looking_at_a_link_does_not_use_it_up(protected):
    mail = client_of(protected)
    assert mail.head(f"/?token={TOKEN}").status_code == 401
    assert mail.post(f"/?token={TOKEN}").status_code == 401
    assert mail.get(f"/?token={TOKEN}", headers={"Sec-Purpose": "prefetch;prerender"}).status_code == 401
    assert mail.get("/").status_code == 401
    assert client_of(protected).get(f"/?token={TOKEN}").status_code == 303


def test_of_many_who_open_the_link_at_once_one_gets_in(protected):
    answers = []
    clicks = [
        threading.Thread(target=lambda: answers.append(client_of(protected).get(f"/?token={TOKEN}").status_code))
        for _ in range(8)
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join(30)
    assert sorted(answers) == [303] + [401] * 7


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"cookie", b'nnunet_ext_8123="' + b"\\" * 60000)],
        [(b"cookie", b";" * 60000)],
        [(b"authorization", b"Bearer " + b"x" * 60000)],
        [(b"content-length", b"9" * 60000)],
    ],
    ids=["none", "backslashes", "semicolons", "bearer", "length"],
)
@pytest.mark.parametrize("query", [b"", b"token=" + b"x" * 60000, b"&" * 60000], ids=["", "long", "many"])
@pytest.mark.parametrize("bearer", [False, True], ids=["page", "protocol"])
def test_a_request_without_a_key_is_refused_without_reading_on(headers, query, bearer, monkeypatch):
    async def nobody(*_):
        raise AssertionError("it went through")

    async def body():
        raise AssertionError("its body was read")

    sent = []

    async def send(message):
        sent.append(message)

    door = AccessMiddleware(nobody, hosts=frozenset({"127.0.0.1"}), token=TOKEN, port=8123, limit=2**16, bearer=bearer)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": query}
    scope["headers"] = [(b"host", b"127.0.0.1:8123"), *headers]

    def quadratic(*_):
        raise AssertionError("http.cookies takes time that is quadratic in the backslashes of a value")

    monkeypatch.setattr("http.cookies.BaseCookie.load", quadratic)
    asyncio.run(door(scope, body, send))
    assert {message["status"] for message in sent if message["type"] == "http.response.start"} == {401}
    # so that the server does not read on either
    assert all((b"connection", b"close") in m["headers"] for m in sent if m["type"] == "http.response.start")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/viewer.js"),
        ("GET", "/api/case"),
        ("GET", "/api/image/0.nii"),
        ("GET", "/api/labels"),
        ("GET", "/api/state"),
        ("GET", "/api/segmentation"),
        ("GET", "/api/prompts"),
        ("POST", "/api/prompt"),
        ("POST", "/api/save"),
        ("POST", "/api/cancel"),
        ("GET", "/no"),
    ],
)
def test_without_the_cookie_nothing_is_answered(protected, method, path):
    answer = client_of(protected).request(method, path)
    assert answer.status_code == 401
    assert "link that was printed" in answer.text


def test_other_names_and_other_sites_are_refused(room):
    client, worker = room
    before = worker.state["version"]
    assert client.get("/api/case", headers={"Host": "evil.example:8123"}).status_code == 421
    assert client.get("/api/case", headers={"Host": "127.0.0.1.evil.example"}).status_code == 421
    for ours in ("localhost:9", "[::1]:8123", "LOCALHOST"):  # a tunnel has another port
        assert client.get("/api/case", headers={"Host": ours}).status_code == 200
    for header in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/api/prompt", json=POINT, headers=header).status_code == 403
    assert client.post("/api/prompt", json=POINT, headers={"Origin": "http://localhost:8123"}).status_code == 403
    assert worker.state["version"] == before
    assert client.post("/api/prompt", json=POINT, headers={"Origin": HOST}).status_code == 200


def test_long_bodies_are_refused(room):
    client, worker = room
    before = worker.state["version"]
    answer = client.post("/api/prompt", content=b"[" * 2**17)
    assert answer.status_code == 413
    assert "65536 bytes" in answer.text

    def endless():
        for _ in range(100):
            yield b"[" * 2**10

    assert client.post("/api/prompt", content=endless()).status_code == 413  # its length is not said before
    assert worker.state["version"] == before


def test_pages_may_load_nothing_from_elsewhere(room):
    client, _ = room
    for path in ("/", "/api/case", "/no"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    for path in ("/", "/viewer.js", "/viewer.css", "/licences.txt"):
        assert client.get(path).status_code == 200
    page = client.get("/").text
    assert "http:" not in page
    assert "https:" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/../app.py",
        "/..%2fapp.py",
        "/%2e%2e/app.py",
        "/page/../app.py",
        "//etc/passwd",
        "/api/image/../../app.py",
        "/api/image/1.nii",
        "/api/image/-1.nii",
        "/api/image/1e300.nii",
        f"/api/image/{'9' * 5000}.nii",
        "/api/image/..%2f..%2fapp.nii",
        "/index.html/../../serve.py",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_other_file_can_be_read(room, path):
    client, _ = room
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "def " not in answer.text
    assert "root:" not in answer.text


# --- the image and the label map --------------------------------------------------------------------------------------


def test_the_image_is_turned_to_the_patient_and_back_by_whole_numbers(room, tmp_path):
    client, worker = room
    case = client.get("/api/case").json()
    shown = nibabel.Nifti1Image.from_bytes(client.get("/api/image/0.nii").content)
    volume = sitk.ReadImage(str(tmp_path / "case_0000.nii.gz"))
    array = sitk.GetArrayFromImage(volume)
    assert np.array_equal(to_file(shown.get_fdata(dtype=np.float32), case), array)
    assert case["shape"] == list(SHAPE)
    assert [to for to, _ in case["axes"]] == [1, 2, 0]  # slices are coronal, rows run down
    assert shown.header.get_zooms() == pytest.approx([SPACING[2], SPACING[0], SPACING[1]])
    # to the right, anterior, superior; and the voxel's place in the world, as ITK has it
    affine = np.array(case["affine"])
    for axis, (to, sign) in enumerate(case["axes"]):
        step = affine[:3, 2 - axis]
        assert np.abs(step).argmax() == to
        assert np.sign(step[to]) == sign
    lps = volume.TransformIndexToPhysicalPoint((7, 3, 2))
    assert affine[:3] @ [7, 3, 2, 1] == pytest.approx([-lps[0], -lps[1], lps[2]], abs=1e-3)
    assert case["slice_axis"] == 1
    assert case["labels"] == [{"value": i, "name": n} for i, n in enumerate(("background", "left", "right"))]
    assert np.array_equal(whole(client), worker.session.target_buffer)


def test_prompts_answer_with_what_they_changed(room, tmp_path):
    client, _ = room
    same = session_on(tmp_path / "case_0000.nii.gz")
    same.predict_automatic()
    assert np.array_equal(whole(client), same.target_buffer)
    assert client.get("/api/state").json()["undo"] == 0
    before = whole(client)
    answer = client.post("/api/prompt", json=POINT)
    box = same.add_point_interaction([3, 8, 9], label=1)
    assert np.array_equal(whole(client), same.target_buffer)
    assert not np.array_equal(before, same.target_buffer)
    change = change_of(answer)
    assert change["version"] == 2
    # the page's box of i, j, k, with what is there now
    assert answer.headers["content-encoding"] == "gzip"
    shown = np.zeros([high for _, high in change_of(client.get("/api/labels"))["box"]], np.uint8)
    part = tuple(slice(*ends) for ends in change["box"])
    shown[part] = np.frombuffer(answer.content, np.uint8).reshape(shown[part].shape, order="F")
    case = client.get("/api/case").json()
    inside = tuple(slice(*ends) for ends in box)
    expected = np.zeros_like(same.target_buffer)
    expected[inside] = same.target_buffer[inside]
    assert np.array_equal(to_file(shown, case), expected)
    # undo goes back to the automatic result, and not beyond it
    assert change_of(client.post("/api/prompt", json={"type": "undo"}))["version"] == 3
    assert np.array_equal(whole(client), before)
    refused = client.post("/api/prompt", json={"type": "undo"})
    assert (refused.status_code, refused.json()["detail"]) == (400, "There is nothing to undo.")
    for prompt in (
        {"type": "scribble", "line": [[2, 3, 4], [2, 9, 12]], "label": 1},
        {"type": "lasso", "line": [[4, 3, 4], [4, 9, 12], [4, 12, 2]], "label": 2, "include": False},
        {"type": "box", "box": [[1, 2], [3, 9], [4, 12]], "label": "left"},
        {"type": "automatic"},
    ):
        change_of(client.post("/api/prompt", json=prompt))
    assert np.array_equal(whole(client), before)
    change_of(client.post("/api/prompt", json={"type": "reset"}))
    assert not whole(client).any()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 60000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "type None"),
        (b'{"type": "click"}', "the types are"),
        (b'{"type": "point", "at": [1, 2], "label": 1}', "expected is"),
        (b'{"type": "point", "at": [1, 2, 99], "label": 1}', "outside"),
        (b'{"type": "point", "at": [1, 2, NaN], "label": 1}', "expected is"),
        (b'{"type": "point", "at": [1, 2, 1e300], "label": 1}', "at is [1, 2, 1e+300]; expected is"),
        (b'{"type": "point", "at": [1, 2, 1' + b"0" * 400 + b'], "label": 1}', "expected is"),
        (b'{"type": "point", "at": [1, 2, 1' + b"0" * 5000 + b'], "label": 1}', "no JSON"),
        (b'{"type": "point", "at": [1, 2, 3], "label": 1' + b"0" * 400 + b"}", "expected is its value or its name"),
        (b'{"type": "point", "at": [1, 2, 3], "label": NaN}', "label is nan; expected"),
        (b'{"type": "point", "at": [1, 2, 3], "label": "\\ud800"}', "label"),
        (b'{"type": "scribble", "line": [[1, 2, 3], [1, 2, 1e300]]}', "expected is"),
        (b'{"type": "box", "box": [[0, 1], [0, 1' + b"0" * 400 + b"], [0, 3]]}", "expected is"),
        (b'{"type": "box", "box": [[0, 1], [0, 2000000000], [0, 3]]}', "not inside of the image"),
        (b'{"type": "lasso", "line": [[1, 2, 3], [1, 2, -1e9]]}', "outside"),
        (b'{"type": "point", "at": [1, 2, 3], "label": 7}', "no label 7"),
        (b'{"type": "scribble", "file": "../../etc/passwd", "label": 1}', "files are not read here"),
        (b'{"type": "initial", "file": "/etc/passwd"}', "files are not read here"),
        (b'{"type": "brush", "line": [[0, 3, 3], [1, 4, 5]], "width": 3, "label": 1}', "planes"),
    ],
)
def test_bad_prompts_are_refused_with_one_sentence_and_change_nothing(room, body, message):
    client, _ = room
    client.post("/api/prompt", json=POINT)
    before, state = whole(client), client.get("/api/state").json()
    answer = client.post("/api/prompt", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 250
    assert client.get("/api/state").json() == state
    assert np.array_equal(whole(client), before)


def test_progress_is_told_and_work_can_be_cancelled(room):
    client, worker = room
    before, steps = whole(client), client.get("/api/state").json()["undo"]
    reported, go_on = threading.Event(), threading.Event()
    inner = worker.session.progress

    def slowly(done, of):
        inner(done, of)
        reported.set()
        assert go_on.wait(30)
        inner(done, of)

    worker.session.progress = slowly
    answers = []
    clicking = threading.Thread(target=lambda: answers.append(client.post("/api/prompt", json=POINT)))
    clicking.start()
    assert reported.wait(30)
    state = client.get("/api/state").json()
    assert state["busy"]
    done, of = state["progress"]
    assert 0 < done <= of
    client.post("/api/cancel")
    go_on.set()
    clicking.join(30)
    assert (answers[0].status_code, answers[0].json()["detail"]) == (409, "Cancelled; nothing has changed.")
    assert not client.get("/api/state").json()["busy"]
    assert client.get("/api/state").json()["undo"] == steps
    assert np.array_equal(whole(client), before)
    worker.session.progress = inner
    assert client.post("/api/prompt", json=POINT).status_code == 200


def test_requests_wait_for_each_other_but_not_too_many(room):
    client, worker = room
    go_on = threading.Event()
    worker._thread.submit(go_on.wait, 30)
    answers = []
    clicks = [
        threading.Thread(target=lambda: answers.append(client.post("/api/prompt", json=POINT).status_code))
        for _ in range(QUEUE + 3)
    ]
    for click in clicks:
        click.start()
    while len(answers) < 3:
        go_on.wait(0.01)
    go_on.set()
    for click in clicks:
        click.join(60)
    assert sorted(answers) == [200] * QUEUE + [429] * 3
    assert client.get("/api/state").json()["version"] == 1 + QUEUE


def test_what_is_cropped_away_is_said_and_only_the_drawing_changes(tmp_path):
    array = np.zeros(SHAPE, np.float32)
    array[:, 4:, :] = np.random.default_rng(0).random((6, 12, 20)) + 1
    file = write_image(tmp_path, array)
    protected, _ = served(file)
    with TestClient(protected, base_url=HOST) as client:
        client.get(f"/?token={TOKEN}")
        client.get("/api/labels")
        change = change_of(client.post("/api/prompt", json={"type": "point", "at": [3, 1, 4], "label": 1}))
        assert [high - low for low, high in change["box"]] == [1, 1, 1]  # the clicked voxel
        assert "crops away" in change["notices"][0]
        assert client.get("/api/state").json()["undo"] == 1


def test_structures_are_locked_and_slices_accepted(room):
    client, _ = room
    client.get("/api/labels")

    def post(**prompt):
        return client.post("/api/prompt", json=prompt)

    assert change_of(post(type="lock", label=2))["box"] is None
    assert post(type="accept", slice=3).status_code == 200
    state = client.get("/api/state").json()
    assert (state["locked"], state["accepted"], state["undo"]) == ([2], [3], 2)
    for refused, why in (
        (post(type="point", at=[2, 8, 8], label=2), "is locked"),
        (post(type="point", at=[3, 8, 8], label=1), "Slice 3 is accepted"),
        (post(type="accept", slice=99), "There is no slice 99"),
    ):
        assert (refused.status_code, why in refused.json()["detail"]) == (400, True)
    post(type="undo"), post(type="lock", label=2, locked=False)
    state = client.get("/api/state").json()
    assert (state["locked"], state["accepted"]) == ([], [])


# --- files ------------------------------------------------------------------------------------------------------------


def test_saved_and_downloaded_files_have_the_geometry_of_the_image(room, tmp_path):
    client, worker = room
    client.post("/api/prompt", json=POINT)
    assert client.post("/api/save").json() == {"file": "case.nii.gz"}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["case.nii.gz", "case.session"]
    answer = client.get("/api/segmentation")
    assert 'filename="case.nii.gz"' in answer.headers["content-disposition"]
    saved = (tmp_path / "out" / "case.nii.gz").read_bytes()
    assert gzip.decompress(answer.content) == gzip.decompress(saved)
    image, labels = (
        sitk.ReadImage(str(tmp_path / "case_0000.nii.gz")),
        sitk.ReadImage(str(tmp_path / "out/case.nii.gz")),
    )
    assert labels.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
    assert labels.GetOrigin() == pytest.approx(image.GetOrigin())
    assert labels.GetSpacing() == pytest.approx(image.GetSpacing())
    assert np.array_equal(sitk.GetArrayFromImage(labels), worker.session.target_buffer)
    prompts = client.get("/api/prompts")
    assert 'filename="case_prompts.json"' in prompts.headers["content-disposition"]
    assert prompts.json() == {"axes": "zyx", "prompts": [{"type": "automatic"}, POINT]}


def test_without_an_output_file_saving_says_so(tmp_path):
    file = write_image(tmp_path)
    protected, _ = served(file)
    with TestClient(protected, base_url=HOST) as client:
        client.get(f"/?token={TOKEN}")
        answer = client.post("/api/save")
        assert answer.status_code == 400
        assert "--out" in answer.json()["detail"]
        assert 'filename="case_segmentation.nii.gz"' in client.get("/api/segmentation").headers["content-disposition"]


def test_what_the_disk_refuses_is_said(tmp_path):
    file = write_image(tmp_path)
    out = tmp_path / "out" / "case.nii.gz"
    out.parent.mkdir()

    def full(prompts):
        raise OSError("no space left")

    protected, _ = served(file, out, changed=full)
    with TestClient(protected, base_url=HOST, raise_server_exceptions=False) as client:
        client.get(f"/?token={TOKEN}")
        answer = client.post("/api/prompt", json=POINT)
        assert change_of(answer)["notices"] == ["The prompts could not be written: no space left."]
        assert answer.content
        shutil.rmtree(out.parent)
        answer = client.post("/api/save")
        assert answer.status_code in (400, 500)
        assert str(out.parent) in answer.json()["detail"]


def test_an_image_of_one_slice(tmp_path):
    array = np.random.default_rng(0).random((16, 20)).astype(np.float32)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(SPACING[:0:-1])
    file = tmp_path / "flat_0000.nii.gz"
    sitk.WriteImage(made, str(file))
    protected, worker = served(file, tmp_path / "flat.nii.gz")
    with TestClient(protected, base_url=HOST) as client:
        client.get(f"/?token={TOKEN}")
        case = client.get("/api/case").json()
        assert case["shape"] == [1, 16, 20]
        shown = nibabel.Nifti1Image.from_bytes(client.get("/api/image/0.nii").content)
        assert np.array_equal(to_file(shown.get_fdata(dtype=np.float32), case)[0], array)
        change_of(client.post("/api/prompt", json={"type": "point", "at": [0, 8, 9], "label": 2}))
        assert np.array_equal(whole(client), worker.session.target_buffer)
        assert client.post("/api/save").status_code == 200
    assert sitk.ReadImage(str(tmp_path / "flat.nii.gz")).GetSize() == (20, 16)


# --- the command ------------------------------------------------------------------------------------------------------


def test_addresses_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match=r"every address .* ssh -L"):
        serving.listening("0.0.0.0", 0)
    with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1, port 70000"):
        serving.listening("127.0.0.1", 70000)
    with serving.listening("127.0.0.1", 0) as taken, pytest.raises(InputError, match="choose others"):
        serving.listening("127.0.0.1", taken.getsockname()[1])
    assert serving.shown("::1") == "[::1]"


def test_a_missing_library_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert cli.main(["s2v", "serve", "-i", "no.nii.gz", "-m", "no"]) == 2
    assert "needs uvicorn" in capsys.readouterr().err
