"""Texts that leave the machine with a report: no folders of it, and logs that are small."""

import pytest

from nnunet_ext.benchmark.portable import LOG_BYTES, Folders, last_line, shortened


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnU-Net" / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnU-Net"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    return Folders({"$BENCHMARK": tmp_path / "out"})


def test_folders_have_names_and_the_innermost_wins(folders, tmp_path):
    assert folders.without(f"-i {tmp_path}/nnU-Net/raw/Dataset4/x.json") == "-i $nnUNet_raw/Dataset4/x.json"
    assert folders.without(f"'{tmp_path}/nnU-Net/splits.json'") == "'$nnUNet_preprocessed/splits.json'"
    assert folders.without(f"{tmp_path}/out: done") == "$BENCHMARK: done"
    assert folders.without(f"{tmp_path}/outer/a") == "…/a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/data/x.nii.gz is missing", "…/x.nii.gz is missing"),
        ('File "/usr/lib/python3/a.py", line 3', 'File "…/a.py", line 3'),
        (r"C:\Users\me\x.txt", "…/x.txt"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("2 mm/mm, 5/7/9 and and/or", "2 mm/mm, 5/7/9 and and/or"),
        ("a/b/c.txt", "a/b/c.txt"),
        ("-x=/data/a/b", "-x=…/b"),
        ("$nnUNet_raw/Dataset4/imagesTs", "$nnUNet_raw/Dataset4/imagesTs"),
        ("</p>/<b>", "</p>/<b>"),
    ],
)
def test_other_absolute_paths_keep_their_last_part(folders, text, expected):
    assert folders.without(text) == expected
    assert folders.everywhere({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


def log(epochs: int) -> str:
    epoch = "12:0: \n12:0: Epoch {0}\n12:0: train_loss 0.{0}\n12:0: Pseudo dice [0.1, 0.2]\n12:0: Epoch time: 3.1 s\n"
    return "$ nnUNetv2_train\n\n" + "".join(map(epoch.format, range(epochs))) + "Training done.\nMean Dice: 0.9\n"


def test_short_logs_lose_bars_blank_lines_and_the_rest_of_long_ones():
    text = log(2) + "  0%|   | 0/1 [00:00]\r100%|####| 1/1 [00:33]\nold\rnew\r\n" + "x" * 5000
    found = shortened(text).splitlines()
    assert found[:3] == ["$ nnUNetv2_train", "12:0: Epoch 0", "12:0: train_loss 0.0"]
    assert found[-3:] == ["Mean Dice: 0.9", "new", "x" * 300 + " …"]
    assert not [line for line in found if "%|" in line or not line]


@pytest.mark.parametrize("epochs", [100, 300, 3000])
def test_long_logs_keep_their_ends_and_every_so_many_epochs(epochs):
    found = shortened(log(epochs))
    assert len(found.encode()) <= LOG_BYTES + 60
    lines = found.splitlines()
    kept = [int(line.rpartition(" ")[2]) for line in lines if line.startswith("12:0: Epoch ") and "time" not in line]
    assert kept[0] == 0
    assert kept[-1] == epochs - 1
    assert len({kept[i + 1] - kept[i] for i in range(len(kept) - 2)}) == 1  # every second, third, …
    assert f"({epochs - len(kept)} of {epochs} epochs were left out)" in lines
    assert lines[0] == "$ nnUNetv2_train"
    assert lines[-2:] == ["Training done.", "Mean Dice: 0.9"]
    assert shortened(found) == found


def test_long_logs_without_epochs_keep_their_ends():
    found = shortened("\n".join(f"line {number}" for number in range(10_000)))
    assert len(found) <= LOG_BYTES + 60
    assert found.startswith("line 0\n")
    assert shortened(found) == found
    assert "(lines were left out here)" in found
    assert last_line(found) == "line 9999"
    assert last_line("\n\n") == ""
