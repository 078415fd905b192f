"""The command with a model that was trained: what it says, what it writes, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("fastapi", reason="the extra viewer is not installed")
from fastapi.testclient import TestClient

from nnunet_ext import cli
from nnunet_ext.viewer import serve as serving
from nnunet_ext.viewer.demo import LABELS, MODEL, SEED, SLICES, phantom
from tests import tiny
from tests.killing import contents
from tests.s2vnet.test_trainer import trained  # noqa: F401 (a fixture)


def test_the_link_the_files_and_the_protocol(trained, tmp_path, monkeypatch, capsys):  # noqa: F811
    _, model, root = trained(inference_clip=8)
    monkeypatch.delenv("nnUNet_extTrainer")  # a user who only clicks need not know of it
    image = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_0_0000.nii.gz"
    saved, prompts = tmp_path / "saved.nii.gz", tmp_path / "prompts.json"
    apps = []
    monkeypatch.setattr(serving, "run", lambda app, listener: apps.append(app))

    command = ["s2v", "serve", "--model", str(model), "--device", "cpu", "--port", "0"]
    page = [*command, "--image", str(image), "--fold", "0", "--out", str(saved), "--prompts-out", str(prompts)]
    assert cli.main(page) == 0
    address, token = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", capsys.readouterr().out).groups()
    assert len(token) >= 40
    drawn = [
        {"type": "point", "at": [9, 8, 12], "label": "right"},
        {"type": "scribble", "line": [[5, 4, 4], [5, 12, 9]], "label": 1, "include": False},
    ]
    with TestClient(apps[0], base_url=address) as client:
        assert client.get(f"/?token={token}").status_code == 200
        assert client.get("/api/case").json()["saves_to"] == "saved.nii.gz"
        for prompt in drawn:
            assert client.post("/api/prompt", json=prompt).status_code == 200
        assert client.post("/api/save").status_code == 200
    assert json.loads(prompts.read_text())["prompts"] == [{"type": "automatic"}, *drawn]
    again = tmp_path / "again.nii.gz"
    interact = ["s2v", "interact", "-i", str(image), "-m", str(model), "--prompts", str(prompts), "-device", "cpu"]
    assert cli.main([*interact, "-o", str(again)]) == 0
    assert again.read_bytes() == saved.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "again.nii.gz",
        "nnunet",
        "prompts.json",
        "saved.nii.gz",
        "saved.session",
    ]

    # opened again, it goes on
    assert cli.main(page) == 0
    said = capsys.readouterr().out
    assert "tiny_0 goes on where it ended" in said
    address, token = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", said).groups()
    with TestClient(apps.pop(), base_url=address) as client:
        client.get(f"/?token={token}")
        assert client.get("/api/prompts").json()["prompts"] == [{"type": "automatic"}, *drawn]
    # another process saves to the same file
    lock = tmp_path / ".saved.nii.gz.serve.lock"
    hold = "import sys, time, pathlib\nfrom nnunet_ext.processes.lock import held\n"
    hold += "with held(pathlib.Path(sys.argv[1]), inherited=False) as free:\n"
    hold += "    print(free, flush=True)\n    time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline().strip() == b"True"
            before = contents(saved.parent)
            assert cli.main(page) == 2
            assert f"Another server saves to {saved}; end it first" in capsys.readouterr().err
            assert contents(saved.parent) == before
        finally:
            other.kill()
    lock.unlink()
    # prompts that no session keeps
    loose = [*command, "--image", str(image), "--fold", "0", "--prompts-out", str(prompts)]
    assert cli.main(loose) == 2
    assert "holds the prompts of an earlier session, which was not kept without --out" in capsys.readouterr().err
    # a folder of images
    folder = [*command, "--image", str(image.parent), "--fold", "0"]
    assert cli.main([*folder, "--out", str(tmp_path / "corrected")]) == 0
    assert "Nothing is kept" not in capsys.readouterr().out
    with TestClient(apps.pop(), base_url="http://127.0.0.1") as client:
        assert client.get("/api/cases").status_code == 401
    assert cli.main([*command, "--image", str(image), "--fold", "0"]) == 0
    assert "Nothing is kept if the server ends: give --out" in capsys.readouterr().out
    apps.pop()

    assert cli.main([*command, "--nninteractive", "--upload", "1"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"127\.0\.0\.1:\d+/(\w+)", said) == ["left", "right"]
    key = re.search(r"API key, for all of them: (\S+)", said).group(1)
    with TestClient(apps[1], base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.post("/right/claim").status_code == 200
        assert client.post("/right/set_image", content=bytes(2**21 + 1)).status_code == 413
        assert client.get("/").status_code == 404

    for change, message in (
        (["--out", str(tmp_path / "no" / "a.nii.gz")], "does not exist"),
        (["--out", str(tmp_path / "a.txt")], "endings"),
        (["--prompts-out", str(tmp_path / "no" / "a.json")], "does not exist"),
        (["--prompts-out", str(image)], "is the image, the segmentation, a spacing or the session"),
        (["--prompts-out", str(saved)], "is the image, the segmentation, a spacing or the session"),
        (["--image", str(tmp_path / "none.nii.gz")], "no image file"),
        (["--host", "0.0.0.0"], "every address"),
        (["--fold", "3"], "of fold 3"),
        (["--image", str(image.parent)], "is a folder of images, for which --out is a folder"),
        (["--demo"], "--demo has its own image and model"),
        (["--upload", "7"], "--upload limits what --nninteractive receives"),
        (["--threads", "0"], "--threads is 0; give a number from 1 on"),
        (["--threads", "-2"], "--threads is -2; give"),
        (["--cache", "nan"], "--cache is nan MiB; give a number from 0 on"),
        (["--cache", "inf"], "--cache is inf MiB; give"),
        (["--cache", "-5"], "--cache is -5.0 MiB; give"),
    ):
        assert cli.main([*page, *change]) == 2
        assert message in capsys.readouterr().err
    assert len(apps) == 2


def test_the_demo_takes_no_flag_that_it_would_ignore(tmp_path, monkeypatch, capsys):
    demo = ["s2v", "serve", "--demo", "--out", str(tmp_path / "demo")]
    for flags, message in (
        (["-f", "0"], "leave out --image"),
        (["-chk", "checkpoint_best.pth"], "leave out --image"),
        (["--upload", "7"], "--upload limits"),
        (["--cache", "nan"], "--cache is nan"),
    ):
        assert cli.main([*demo, *flags]) == 2
        assert message in capsys.readouterr().err
    asked = {}
    monkeypatch.setattr(serving, "serve", lambda model, images, **how: asked.update(how))
    assert cli.main([*demo, "--cache", "3", "--threads", "2"]) == 0
    assert (asked["cache_bytes"], asked["torch_n_threads"]) == (3 * 2**20, 2)


def test_every_printed_address_is_that_of_its_label(tmp_path, monkeypatch, capsys):
    apps, model = [], tmp_path / "model"
    monkeypatch.setattr(serving, "run", lambda app, listener: apps.append(app))
    shutil.copytree(MODEL, model)
    content = json.loads((model / "dataset.json").read_text())
    content["labels"] = dict(zip(["background", "organ", "cyst/tumour", "50 %", "ends/"], range(5), strict=True))
    (model / "dataset.json").write_text(json.dumps(content))
    assert cli.main(["s2v", "serve", "-m", str(model), "--nninteractive", "--device", "cpu", "--port", "0"]) == 0
    said = capsys.readouterr().out
    addresses = re.findall(r"http://127\.0\.0\.1:\d+(/\S+)", said)
    assert [unquote(address) for address in addresses] == ["/organ", "/2", "/50 %", "/4"]
    key = re.search(r"API key, for all of them: (\S+)", said).group(1)
    with TestClient(apps[0], base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {key}"}) as client:
        for address in addresses:
            answer = client.post(f"{address}/claim")
            assert answer.status_code == 200, address
            client.post(f"{address}/release", headers={"X-Lease-Token": answer.json()["lease_token"]})


def test_the_demo_opens_an_image_with_a_model_that_finds_what_is_there(tmp_path, monkeypatch, capsys):
    apps, folder = [], tmp_path / "demo"
    monkeypatch.setattr(serving, "run", lambda app, listener: apps.append(app))
    assert cli.main(["s2v", "serve", "--demo", "--out", str(folder), "--device", "cpu", "--port", "0"]) == 0
    address, token = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", capsys.readouterr().out).groups()
    _, truth = phantom(np.random.default_rng(SEED), SLICES)
    truth[truth == LABELS["tumour"]] = LABELS["cyst"]
    inside = np.argwhere(truth[SLICES // 2] == LABELS["cyst"]).mean(0).round().astype(int).tolist()

    def dice(value):
        client.post("/api/save")
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "phantom.nii.gz")))
        return 2 * ((found == value) & (truth == value)).sum() / ((found == value).sum() + (truth == value).sum())

    with TestClient(apps[0], base_url=address) as client:
        client.get(f"/?token={token}")
        client.get("/api/labels")
        assert min(dice(LABELS[name]) for name in ("organ", "cyst", "vessel")) > 0.85
        client.post("/api/prompt", json={"type": "point", "at": [SLICES // 2, *inside], "label": "tumour"})
        truth[truth == LABELS["cyst"]] = LABELS["tumour"]
        assert dice(LABELS["tumour"]) > 0.85
    (tmp_path / "file").write_text("")
    assert cli.main(["s2v", "serve", "--demo", "--out", str(tmp_path / "file")]) == 2
    assert "cannot be made a folder" in capsys.readouterr().err
