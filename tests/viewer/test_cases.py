"""Several cases, and what is kept of them: statuses, sessions that go on, and a server that is killed."""

import asyncio
import json
import shutil
import threading
import time

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("fastapi", reason="the extra viewer is not installed")
from fastapi.testclient import TestClient

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.prompt_list import parse_prompts
from nnunet_ext.interactive.saved import read_notes
from nnunet_ext.viewer import autosave as keeping
from nnunet_ext.viewer.app import create_app
from nnunet_ext.viewer.autosave import Autosave
from nnunet_ext.viewer.cases import LEDGER, Ledger, cases_in, first_open, single_case
from nnunet_ext.viewer.desk import Desk
from tests.interactive.sessions import image
from tests.viewer.cases import HOST, SHAPE, TOKEN, fresh_session, guarded, session_on, write_image

MODEL_DATA = {"file_ending": ".nii.gz", "channel_names": {"0": "MRI"}}
POINT = {"type": "point", "at": [3, 8, 9], "label": 2}
BRUSH = {"type": "brush", "line": [[2, 8, 8], [2, 8, 11]], "width": 3, "label": 1}
UNDO, REDO = {"type": "undo"}, {"type": "redo"}


def opened(folder, name=None):
    """A client of a server that was started anew, on an image with an output file, or on a folder of images."""
    if name is None:
        cases = [single_case([folder / "case_0000.nii.gz"], folder / "out" / "case.nii.gz")]
        desk = Desk(fresh_session, cases, cases[0])
    else:
        cases = cases_in(folder / "images", folder / "out", MODEL_DATA)
        ledger = Ledger(folder / "out" / LEDGER)
        desk = Desk(fresh_session, cases, first_open(cases, ledger), ledger)
    client = TestClient(guarded(create_app(desk)), base_url=HOST)
    client.desk = desk
    return client


@pytest.fixture
def one(tmp_path):
    write_image(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def several(tmp_path):
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        write_image(tmp_path / "images", image(SHAPE, number)[0], name=f"{name}_0000.nii.gz")
    return tmp_path


def enter(client):
    client.get(f"/?token={TOKEN}")
    client.get("/api/labels")  # waits for what is done at the start
    return client


def post(client, prompt, **headers):
    answer = client.post("/api/prompt", json=prompt, headers=headers)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.headers["X-Change"])


def shown(client):
    client.get("/api/labels")
    return client.desk.worker.session.target_buffer.copy()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_server_that_was_killed_goes_on_where_it_ended(one):
    with opened(one) as client:
        enter(client)
        assert client.get("/api/case").json()["resumed"] == 0
        assert not (one / "out" / "case.session").exists()  # it was only looked at
        for prompt in (POINT, BRUSH, {"type": "lock", "label": 1}):
            post(client, prompt)
        before = shown(client)
        prompts = client.get("/api/prompts").json()
        shutil.copytree(one / "out", one / "as it was")  # whatever a server does when it ends, a killed one does not
    shutil.rmtree(one / "out")
    shutil.move(one / "as it was", one / "out")
    with opened(one) as client:
        enter(client)
        assert np.array_equal(shown(client), before)
        assert client.get("/api/prompts").json() == prompts
        state, case = client.get("/api/state").json(), client.get("/api/case").json()
        assert (state["undo"], state["redo"], state["locked"], case["resumed"]) == (0, 0, [1], 4)
        post(client, {"type": "lock", "label": 1, "locked": False})
        post(client, {**POINT, "at": [5, 3, 4]})
        post(client, UNDO)
        assert np.array_equal(shown(client), before)


def test_a_prompt_that_was_being_computed_is_computed_again(one):
    with opened(one) as client:
        enter(client)
        post(client, BRUSH)
        autosave = client.desk.worker._autosave
        number = autosave.begin(POINT)
        assert json.loads(autosave.waiting_file.read_text()) == [[number, POINT]]
    with opened(one) as client:
        enter(client)
        assert [prompt["type"] for prompt in client.get("/api/prompts").json()["prompts"]] == [
            "automatic",
            "brush",
            "point",
        ]
        assert shown(client)[3, 8, 9] == 2
    assert not list((one / "out").glob("*.waiting"))
    # nothing was answered before: the automatic result comes first
    (one / "out" / "case.session").unlink()
    Autosave(one / "out" / "case.session").begin(POINT)
    with opened(one) as client:
        enter(client)
        assert [p["type"] for p in client.get("/api/prompts").json()["prompts"]] == ["automatic", "point"]


def test_a_prompt_that_was_answered_is_not_computed_twice(one):
    """The server was killed after it had saved the session, and before it had forgotten the prompt."""
    with opened(one) as client:
        enter(client)
        post(client, POINT)
        last = read_notes(one / "out" / "case.session")["last"]
        keeping.write_text(one / "out" / "case.session.waiting", json.dumps([[last, POINT], [last + 1, BRUSH]]))
    with opened(one) as client:
        enter(client)
        kinds = [prompt["type"] for prompt in client.get("/api/prompts").json()["prompts"]]
        assert kinds == ["automatic", "point", "brush"]


def test_refused_prompts_are_not_kept(one):
    with opened(one) as client:
        enter(client)
        assert client.post("/api/prompt", json={**POINT, "label": 9}).status_code == 400
        assert client.post("/api/prompt", json=[1]).status_code == 400
        assert not list((one / "out").iterdir())
        post(client, POINT)
        assert [file.name for file in (one / "out").iterdir()] == ["case.session"]
        (one / "out" / "case.session").unlink()
        (one / "out").rmdir()
        answer = post(client, {**POINT, "at": [2, 4, 4]})
        assert "The prompts could not be written" in answer["notices"][-1]


def test_a_broken_list_of_waiting_prompts_stops_nobody(one):
    for content in ("", "{", "[[1]]", '[["a", {}]]'):
        (one / "out" / "case.session.waiting").write_text(content)
        with opened(one) as client:
            enter(client)
            assert len(client.get("/api/prompts").json()["prompts"]) == 1


def left_waiting(folder, *prompts):
    """Leave prompts as a killed server does."""
    keeping.write_text(folder / "out" / "case.session.waiting", json.dumps(list(enumerate(prompts, 1))))


def at_first_progress(client, call):
    """Call a function once, in the middle of the first computation of a server that is about to start."""
    inner, calls = client.desk.worker.session.progress, [call]

    def progress(done, of):
        if calls:
            calls.pop()()
        inner(done, of)

    client.desk.worker.session.progress = progress


def kinds(client):
    return [prompt["type"] for prompt in client.get("/api/prompts").json()["prompts"]]


def test_cancelling_the_automatic_result_leaves_the_prompts_that_wait(one):
    left_waiting(one, POINT, BRUSH)
    client = opened(one)
    at_first_progress(client, client.desk.worker.cancel)
    with client:
        enter(client)
        assert kinds(client) == ["point", "brush"]
        cancelled = shown(client)
    (one / "out" / "case.session").unlink()
    left_waiting(one, POINT, BRUSH)
    with opened(one) as client:
        enter(client)
        assert kinds(client) == ["automatic", "point", "brush"]
        assert np.array_equal(shown(client), cancelled)


def test_a_server_that_ends_while_it_computes_what_waited_leaves_it_waiting(one):
    for prepared in ([], ["automatic"]):  # it ends during the automatic result, or during the first of the prompts
        (one / "out" / "case.session").unlink(missing_ok=True)
        left_waiting(one, POINT, BRUSH)
        client = opened(one)
        worker = client.desk.worker
        worker.prompts.extend({"type": kind} for kind in prepared)
        at_first_progress(client, lambda worker=worker: setattr(worker, "_closing", True))
        worker.open()
        worker.close()
        waiting = json.loads((one / "out" / "case.session.waiting").read_text())
        assert waiting == [[1, POINT], [2, BRUSH]]
    with opened(one) as client:
        enter(client)
        assert kinds(client) == ["automatic", "point", "brush"]


def test_a_server_that_ends_before_it_answers_a_request_leaves_the_prompt_waiting(one):
    """As at Ctrl-C: the server cancels its requests, and then closes the worker."""
    client = opened(one)
    worker = client.desk.worker
    started = threading.Event()

    async def interrupted():
        def slow(done, of):
            started.set()
            time.sleep(0.05)
            inner(done, of)

        inner, worker.session.progress = worker.session.progress, slow
        request = asyncio.ensure_future(worker.apply(POINT))
        await asyncio.to_thread(started.wait, 60)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(interrupted())
    worker.close()
    assert json.loads((one / "out" / "case.session.waiting").read_text()) == [[1, POINT]]
    with opened(one) as client:
        enter(client)
        assert kinds(client) == ["automatic", "point"]


def test_a_prompt_that_crashes_the_server_does_so_once(one):
    left_waiting(one, POINT, BRUSH)
    client, waiting, there = opened(one), one / "out" / "case.session.waiting", []
    client.desk.worker.prompts.append({"type": "automatic"})
    at_first_progress(client, lambda: there.append(json.loads(waiting.read_text())))
    with client:
        enter(client)
    assert there == [[[2, BRUSH]]]


def test_a_refused_prompt_does_not_hide_those_that_wait_before_it(one):
    left_waiting(one, POINT, BRUSH)
    client = opened(one)
    autosave = client.desk.worker._autosave
    autosave.end(autosave.begin({**POINT, "label": 9}))
    autosave.save(client.desk.worker.session, [POINT], 1)  # and then the server is killed
    _, unanswered = Autosave(one / "out" / "case.session").restore(client.desk.worker.session)
    assert unanswered == [(2, BRUSH)]


def test_names_with_dots_have_a_session_each(several):
    for number, name in enumerate(("1.3.6.4", "1.3.6.5")):
        write_image(several / "images", image(SHAPE, number)[0], name=f"{name}_0000.nii.gz")
    sessions = [case.session.name for case in cases_in(several / "images", several / "out", MODEL_DATA)]
    assert sessions == ["1.3.6.4.session", "1.3.6.5.session", "a.session", "b.session", "c.session"]
    for file, name, session in (
        ("1.3.6_0000.nii.gz", "1.3.6", "1.3.6.session"),
        ("case_0000.nrrd", "case", "case.session"),
        ("case_0000.nii", "case", "case.session"),
    ):
        case = single_case([several / file], several / file.replace("_0000", ""))
        assert (case.name, case.session.name) == (name, session)


def test_a_session_without_the_prompts_of_a_page_is_refused_and_kept(one):
    made = session_on(one / "case_0000.nii.gz")
    made.predict_automatic()
    for notes in (None, {"prompts": []}):
        made.save(one / "out" / "case.session", notes)
        with pytest.raises(InputError, match=r"without the prompts that a page keeps in it.*; move it away"):
            opened(one)


def test_without_a_result_nothing_is_saved_and_no_case_is_accepted(several):
    with opened(several, "folder") as client:
        enter(client)
        assert client.post("/api/save").status_code == 200
        saved = (several / "out" / "a.nii.gz").read_bytes()
        post(client, {"type": "reset"})
        for path in ("/api/save", "/api/accept"):
            answer = client.post(path, json={})
            assert (answer.status_code, "There is no label map yet" in answer.json()["detail"]) == (400, True)
        assert client.get("/api/segmentation").status_code == 400
        assert (several / "out" / "a.nii.gz").read_bytes() == saved
        assert statuses(client)["a"] == "in work"


def test_the_image_is_no_file_to_save_to(one):
    case = single_case([one / "case_0000.nii.gz"], one / "case_0000.nii.gz")
    with pytest.raises(InputError, match="is the image itself; choose another name"):
        Desk(fresh_session, [case], case)


def test_a_session_of_another_image_is_refused_and_kept(one):
    with opened(one) as client:
        enter(client)
        post(client, POINT)
    kept = (one / "out" / "case.session").read_bytes()
    write_image(one, image(SHAPE, 7)[0])
    with pytest.raises(InputError, match="is a session with another image; open the image"):
        opened(one)
    assert (one / "out" / "case.session").read_bytes() == kept


# --- what the page is told --------------------------------------------------------------------------------------------


def test_undone_prompts_are_done_again(one):
    with opened(one) as client:
        enter(client)
        maps = [shown(client)]
        for prompt in (POINT, BRUSH):
            post(client, prompt)
            maps.append(shown(client))
        refused = client.post("/api/prompt", json=REDO)
        assert (refused.status_code, refused.json()["detail"]) == (400, "There is nothing to do again.")
        for prompt, expected, undo, redo in ((UNDO, 1, 1, 1), (UNDO, 0, 0, 2), (REDO, 1, 1, 1), (REDO, 2, 2, 0)):
            post(client, prompt)
            assert np.array_equal(shown(client), maps[expected])
            state = client.get("/api/state").json()
            assert (state["undo"], state["redo"]) == (undo, redo)
        assert client.post("/api/prompt", json=REDO).status_code == 400
        # the same without a screen
        same = session_on(one / "case_0000.nii.gz")
        for prompt in parse_prompts(client.get("/api/prompts").json(), "p", lambda name: None):
            prompt.apply(same)
        assert np.array_equal(same.target_buffer, maps[2])


def test_a_prompt_that_changed_nothing_says_so(one):
    with opened(one) as client:
        enter(client)
        change = post(client, BRUSH)
        assert (change["box"] is None, change["notices"]) == (False, [])
        change = post(client, BRUSH)
        assert change["box"] is None
        assert change["notices"] == ["Nothing has changed: these voxels had this label already."]
        post(client, UNDO), post(client, UNDO)
        change = post(client, {"type": "automatic"})
        assert change["notices"] == ["Nothing has changed: this is the automatic result."]
        change = post(client, {"type": "lock", "label": 2})
        assert change["notices"] == []


# --- several cases ----------------------------------------------------------------------------------------------------


def statuses(client):
    return {case["name"]: case["status"] for case in client.get("/api/cases").json()["cases"]}


def test_cases_are_opened_and_accepted_one_after_the_other(several):
    with opened(several, "folder") as client:
        enter(client)
        assert statuses(client) == dict.fromkeys("abc", "untouched")
        assert client.get("/api/case").json()["name"] == "a"
        post(client, POINT, **{"X-Case": "a"})
        first = shown(client)
        assert statuses(client)["a"] == "in work"
        assert client.post("/api/open", json={"name": "b"}).json() == {"open": "b"}
        assert client.get("/api/case").json()["name"] == "b"
        assert client.get("/api/state").json()["undo"] == 0
        assert not np.array_equal(shown(client), first)
        assert statuses(client) == {"a": "in work", "b": "untouched", "c": "untouched"}
        stale = client.post("/api/prompt", json=POINT, headers={"X-Case": "a"})
        assert (stale.status_code, "b is open now" in stale.json()["detail"]) == (409, True)
        assert client.post("/api/accept", json={"accepted": True}, headers={"X-Case": "a"}).status_code == 409
        assert client.post("/api/save", headers={"X-Case": "a"}).status_code == 409
        answer = client.post("/api/accept", json={"accepted": True}, headers={"X-Case": "b"})
        assert answer.json()["cases"][1] == {"name": "b", "status": "accepted"}
        saved = sitk.GetArrayFromImage(sitk.ReadImage(str(several / "out" / "b.nii.gz")))
        assert np.array_equal(saved, shown(client))
        client.post("/api/open", json={"name": "a"})
        assert np.array_equal(shown(client), first)
        client.post("/api/accept", json={})
        assert statuses(client)["a"] == "accepted"
    with opened(several, "folder") as client:
        enter(client)
        assert client.get("/api/case").json()["name"] == "c"  # the first that is not accepted
        client.post("/api/open", json={"name": "b"})
        client.get("/api/labels")
        post(client, POINT)
        assert statuses(client) == {"a": "accepted", "b": "in work", "c": "untouched"}
        client.post("/api/accept", json={"accepted": True})
        client.post("/api/accept", json={"accepted": False})
        assert statuses(client)["b"] == "in work"


def test_what_cannot_be_opened_leaves_the_open_case(several):
    with opened(several, "folder") as client:
        enter(client)
        post(client, POINT)
        before = shown(client)
        (several / "out" / "b.session").write_text("nothing")
        (several / "images" / "c_0000.nii.gz").write_text("nothing")
        for name, why in (("b", "no saved session"), ("c", "c_0000.nii.gz"), ("d", "There is no case 'd'")):
            answer = client.post("/api/open", json={"name": name})
            assert (answer.status_code, why in answer.json()["detail"]) == (400, True)
            assert client.get("/api/case").json()["name"] == "a"
            assert np.array_equal(shown(client), before)
        for body in (b"", b"[]", b"{"):
            assert client.post("/api/open", content=body).status_code == 400


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"holds no image such as case_0000\.nii\.gz"):
        cases_in(tmp_path, tmp_path / "out", MODEL_DATA)
    write_image(tmp_path)
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="cannot be made a folder"):
        cases_in(tmp_path, tmp_path / "out", MODEL_DATA)


def test_a_case_without_one_of_its_channels_is_named_and_not_opened_with_another(tmp_path):
    two = {**MODEL_DATA, "channel_names": {"0": "T1", "1": "T2"}}
    for channel in (0, 2):
        write_image(tmp_path, name=f"a_{channel:04d}.nii.gz")
    with pytest.raises(InputError, match=r"Case a: .* has no a_0001\.nii\.gz; add the file"):
        cases_in(tmp_path, tmp_path / "out", two)
    (tmp_path / "a_0002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"(?i)case a"):
        cases_in(tmp_path, tmp_path / "out", two)


def test_two_servers_keep_each_others_accepted_cases(tmp_path):
    one, other = (Ledger(tmp_path / LEDGER) for _ in range(2))
    one.accept("a", True)
    other.accept("b", True)
    one.accept("c", True)
    assert json.loads((tmp_path / LEDGER).read_text()) == {"accepted": ["a", "b", "c"]}


def test_one_image_has_no_list(one):
    with opened(one) as client:
        enter(client)
        assert client.get("/api/cases").json() == {"open": "case", "cases": []}
        answer = client.post("/api/accept", json={})
        assert (answer.status_code, "not a folder" in answer.json()["detail"]) == (400, True)


def test_the_spacing_of_a_tif_does_not_replace_the_list_of_accepted_cases(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "cases_0000.tif").touch()
    with pytest.raises(InputError, match=r"The spacing of case cases would replace .*cases\.json.* rename the case"):
        cases_in(images, tmp_path / "out", MODEL_DATA | {"file_ending": ".tif"})
    assert not (tmp_path / "out").exists()
