"""The command with a model that was trained: what it says, what it writes, and what it refuses."""

import json
import re

import pytest

pytest.importorskip("fastapi", reason="the extra viewer is not installed")
from fastapi.testclient import TestClient

from nnunet_ext import cli
from nnunet_ext.viewer import serve as serving
from tests import tiny
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
    ]

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
        (["--image", str(tmp_path / "none.nii.gz")], "no image file"),
        (["--host", "0.0.0.0"], "every address"),
        (["--fold", "3"], "of fold 3"),
    ):
        assert cli.main([*page, *change]) == 2
        assert message in capsys.readouterr().err
    assert len(apps) == 2
