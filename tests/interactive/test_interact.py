"""Prompts from a file, without a screen: the format, and that the command repeats what a session does."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext import cli
from nnunet_ext.errors import InputError
from nnunet_ext.interactive.interact import interact
from nnunet_ext.interactive.prompt_list import KEYS, parse_prompts
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.demo import LABELS, MODEL, write_phantom
from tests import tiny
from tests.interactive.sessions import session
from tests.s2vnet.test_trainer import trained  # noqa: F401 (a fixture)

SHAPE = (6, 16, 16)


def parsed(*prompts, axes="zyx", mask=None):
    return parse_prompts({"axes": axes, "prompts": list(prompts)}, "p.json", lambda name: mask)


def result(*prompts, **options):
    made = session(SHAPE)
    for prompt in parsed(*prompts, **options):
        prompt.apply(made)
    return made.target_buffer


def of_calls(*calls):
    made = session(SHAPE)
    for name, *args, settings in calls:
        getattr(made, name)(*args, **settings)
    return made.target_buffer


MASK = np.zeros(SHAPE, np.int32)
MASK[3, 4, 4:8] = 1
POINT, CLICK = {"type": "point", "at": [2, 14, 7], "label": 1}, ("add_point_interaction", [2, 14, 7], {"label": 1})
AUTOMATIC = ("predict_automatic", {})
CALLS = {
    "point": ({"type": "point", "at": [2, 8, 4], "label": "right"}, ("add_point_interaction", [2, 8, 4], {"label": 2})),
    "background": (
        {"type": "point", "at": [2, 8, 4], "label": 1, "include": False},
        ("add_point_interaction", [2, 8, 4], {"label": 0}),
    ),
    "line": ({"type": "scribble", "line": [[3, 4, 4], [3, 4, 7]]}, ("add_scribble_interaction", MASK, {})),
    "one voxel": (
        {"type": "scribble", "line": [[3, 4, 4]]},
        ("add_scribble_interaction", np.ones((1, 1, 1)), {"interaction_bbox": [[3, 4], [4, 5], [4, 5]]}),
    ),
    "file": ({"type": "scribble", "file": "x"}, ("add_scribble_interaction", MASK, {})),
    "lasso": (
        {"type": "lasso", "line": [[3, 4, 4], [3, 4, 9], [3, 9, 9], [3, 9, 4]]},
        (
            "add_lasso_interaction",
            np.ones((1, 6, 6)),
            {"interaction_bbox": [[3, 4], [4, 10], [4, 10]]},
        ),
    ),
    "box": ({"type": "box", "box": [[3, 4], [2, 9], [1, 5]]}, ("add_bbox_interaction", [[3, 4], [2, 9], [1, 5]], {})),
    "initial": ({"type": "initial", "file": "x"}, ("add_initial_seg_interaction", MASK, {})),
    "initial predicted": (
        {"type": "initial", "file": "x", "show": "prediction"},
        ("add_initial_seg_interaction", MASK, {"run_prediction": True}),
    ),
    "lock": (
        [{"type": "automatic"}, {"type": "lock", "label": "right"}, POINT],
        AUTOMATIC,
        ("lock_structure", 2, {}),
        CLICK,
    ),
    "no lock": (
        [{"type": "automatic"}, {"type": "lock", "label": 2}, {"type": "lock", "label": 2, "locked": False}, POINT],
        AUTOMATIC,
        CLICK,
    ),
    "accept": (
        [{"type": "automatic"}, {"type": "accept", "slice": 3}, POINT],
        AUTOMATIC,
        ("accept_slice", 3, {}),
        CLICK,
    ),
    "not accepted": (
        [
            {"type": "automatic"},
            {"type": "accept", "slice": 2},
            {"type": "accept", "slice": 2, "accepted": False},
            POINT,
        ],
        AUTOMATIC,
        CLICK,
    ),
    "automatic": ({"type": "automatic"}, ("predict_automatic", {})),
}


@pytest.mark.parametrize("kind", CALLS)
def test_every_type_is_the_call_of_its_name(kind):
    given, *calls = CALLS[kind]
    listed = given if isinstance(given, list) else [given]
    assert np.array_equal(result(*listed, mask=MASK), of_calls(*calls))


def test_other_axes_are_the_same_voxels():
    for prompt, other in (
        ({"type": "point", "at": [2, 8, 4]}, {"type": "point", "at": [4, 8, 2]}),
        ({"type": "box", "box": [[3, 4], [2, 9], [1, 5]]}, {"type": "box", "box": [[1, 5], [2, 9], [3, 4]]}),
        ({"type": "lasso", "line": [[3, 4, 4], [3, 4, 9], [3, 9, 9]]},) * 2,
    ):
        if prompt is other:
            other = {**prompt, "line": [corner[::-1] for corner in prompt["line"]]}
        assert np.array_equal(result(prompt), result(other, axes="xyz"))


def test_the_log_has_every_position_in_the_order_of_the_array():
    entries = [
        {"type": "point", "at": [4, 8, 2]},
        {"type": "box", "box": [[1, 5], [2, 9], [3, 4]]},
        {"type": "lasso", "line": [[4, 4, 3], [9, 4, 3], [9, 9, 3]]},
        {"type": "undo"},
    ]
    at, box, line, undo = (
        prompt.as_array for prompt in parse_prompts({"axes": "xyz", "prompts": entries}, "p.json", lambda name: None)
    )
    assert at == {"type": "point", "at": [2, 8, 4]}
    assert box == {"type": "box", "box": [[3, 4], [2, 9], [1, 5]]}
    assert line == {"type": "lasso", "line": [[3, 4, 4], [3, 4, 9], [3, 9, 9]]}
    assert undo == {"type": "undo"}
    (same,) = parse_prompts({"prompts": entries[:1]}, "p.json", lambda name: None)
    assert same.as_array == entries[0]


def test_waiting_undo_reset_and_predict():
    first, second = {"type": "point", "at": [2, 8, 4]}, {"type": "point", "at": [4, 3, 3], "label": 2}
    together = of_calls(
        ("add_point_interaction", [2, 8, 4], {"run_prediction": False}),
        ("add_point_interaction", [4, 3, 3], {"label": 2}),
    )
    assert np.array_equal(result({**first, "wait": True}, second), together)
    assert np.array_equal(result({**first, "wait": True}, {**second, "wait": True}, {"type": "predict"}), together)
    assert np.array_equal(result(second, {"type": "reset"}, first), result(first))
    assert np.array_equal(result(first, second, {"type": "undo"}), result(first))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list of prompts"),
        ({"prompts": {}}, "no list of prompts"),
        ({"prompts": [], "axes": "ijk"}, "axes 'ijk'"),
        ({"prompts": [], "order": "zyx"}, "entries .*order"),
        ({"prompts": [3]}, "prompt 1 is of type None"),
        ({"prompts": [{"type": "automatic"}, {"type": "click"}]}, "prompt 2 is of type 'click'; the types are point"),
        ({"prompts": [{"type": ["point"]}]}, r"prompt 1 is of type \['point'\]; the types are"),
        ({"prompts": [{"type": "point"}]}, r"prompt 1 \(point\): at is missing; expected is \[z, y, x\]\."),
        ({"prompts": [{"type": "undo", "at": [1, 2, 3]}]}, r"\(undo\) has 'at'; it may have nothing else"),
        (
            {"prompts": [{"type": "point", "at": [1, 2, 3], "lable": 1}]},
            r"\(point\) has 'lable'; it may have label, include, wait, at\.",
        ),
        ({"prompts": [{"type": "scribble", "line": [[1, 2, 3]], "file": "x"}]}, r"\(scribble\) needs either line or"),
        ({"prompts": [{"type": "lasso"}]}, r"\(lasso\) needs either line or file"),
        ({"prompts": [{"type": "scribble", "line": None}]}, r"line is None; expected is \[\[z, y, x\], \.\.\.\]"),
        ({"prompts": [{"type": "point", "at": [1, 2]}]}, r"at is \[1, 2\]; expected is \[z, y, x\]"),
        ({"prompts": [{"type": "point", "at": [1, 2, True]}]}, "expected is"),
        ({"prompts": [{"type": "point", "at": [1, 2, "3"]}]}, "expected is"),
        ({"prompts": [{"type": "point", "at": [1, 2, float("nan")]}]}, r"at is \[1, 2, nan\]; expected is"),
        ({"prompts": [{"type": "point", "at": [1, 2, 1e300]}]}, r"at is \[1, 2, 1e\+300\]; expected is"),
        ({"prompts": [{"type": "point", "at": [1, 2, 10**400]}]}, r"at is \[1, 2, 10{60,80}…; expected is"),
        ({"prompts": [{"type": "scribble", "line": []}]}, "expected is"),
        ({"prompts": [{"type": "box", "box": [[1, 2], [3, 4, 5], [6, 7]]}]}, "expected is"),
        ({"prompts": [{"type": "point", "at": [1, 2, 3], "wait": "no"}]}, "wait is 'no'; expected is true or false"),
        (
            {"prompts": [{"type": "point", "at": [1, 2, 3], "label": [1]}]},
            "label is .*; expected is its value or its name",
        ),
        ({"prompts": [{"type": "point", "at": [1, 2, 3], "label": None}]}, "label is None; expected"),
        ({"prompts": [{"type": "point", "at": [1, 2, 3], "label": 10**400}]}, "label is 10+…; expected"),
        ({"prompts": [{"type": "initial", "file": "x", "show": "me"}]}, "show is 'me'; expected is 'file' or"),
        ({"prompts": [{"type": "lock", "label": 0}]}, r"\(lock\): label is 0; expected is its value or its name"),
        ({"prompts": [{"type": "accept", "slice": -1}]}, r"\(accept\): slice is -1; expected is a number from 0 on"),
        ({"prompts": [{"type": "initial", "file": 3}]}, "file is 3; expected is a file name"),
    ],
)
def test_what_is_not_in_the_format_is_named(content, message):
    with pytest.raises(InputError, match=message) as found:
        parse_prompts(content, "p.json", lambda name: MASK)
    assert len(str(found.value)) < 250
    assert str(found.value).startswith("p.json")


def test_a_prompt_that_does_not_fit_the_image_is_named_by_its_number():
    made = session(SHAPE)
    good, bad = parsed({"type": "point", "at": [2, 8, 4]}, {"type": "scribble", "line": [[2, 8, 4], [2, 8, 40]]})
    good.apply(made)
    before = made.target_buffer.copy()
    with pytest.raises(InputError, match=r"p\.json, prompt 2: A position of the line is outside"):
        bad.apply(made)
    assert np.array_equal(before, made.target_buffer)


# --- the commands on a model that was trained -----------------------------------------------------------------------


def test_the_commands_repeat_a_session_and_evaluate_clicks(trained, tmp_path, capsys, monkeypatch):  # noqa: F811
    _, model, root = trained(inference_clip=8)
    images = root / "raw" / tiny.DATASET / "imagesTr"
    case, labels = images / "tiny_0_0000.nii.gz", root / "raw" / tiny.DATASET / "labelsTr"
    image = sitk.ReadImage(str(case))
    image.SetOrigin((5.0, -3.0, 2.0))
    moved = tmp_path / "moved_0000.nii.gz"
    sitk.WriteImage(image, str(moved))
    scribble = np.zeros((18, 20, 22), np.uint8)
    scribble[9, 5:9, 7] = 1
    mask = sitk.GetImageFromArray(scribble)
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(tmp_path / "scribble.nii.gz"))
    prompts = [
        {"type": "point", "label": "right", "at": [9, 8, 12]},
        {"type": "scribble", "label": "left", "file": "scribble.nii.gz"},
        {"type": "point", "label": 0, "at": [3, 2, 2], "wait": True},
    ]
    monkeypatch.delenv("nnUNet_extTrainer")  # a user who only clicks need not know of it
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": prompts}))
    command = ["s2v", "interact", "-i", str(moved), "-m", str(model), "--prompts", str(tmp_path / "prompts.json")]
    written = []
    for name in ("a.nii.gz", "b.nii.gz"):
        log = tmp_path / f"{name}.json"
        assert cli.main([*command, "-o", str(tmp_path / name), "--log", str(log), "-device", "cpu"]) == 0
        written.append(((tmp_path / name).read_bytes(), log.read_bytes()))
    assert written[0] == written[1]
    assert "prompts" not in capsys.readouterr().err
    found = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert found.GetOrigin() == image.GetOrigin()
    made = S2VSession("cpu")
    made.initialize_from_trained_model_folder(model, 0)
    made.set_image_from_files([moved])
    made.add_point_interaction([9, 8, 12], label=2)
    made.add_scribble_interaction(scribble, label=1)
    made.add_point_interaction([3, 2, 2], label=0, run_prediction=False)
    made.predict()
    assert np.array_equal(sitk.GetArrayFromImage(found), made.target_buffer)
    entries = json.loads((tmp_path / "a.nii.gz.json").read_text())["prompts"]
    assert [entry["prompt"]["type"] for entry in entries] == ["point", "scribble", "point", "predict"]
    assert entries[2]["voxels"] == 0
    assert sum(n["added"] for n in entries[0]["labels"].values()) == entries[0]["voxels"]

    # what is wrong is said before anything is written
    for change, message in (
        (["-o", str(tmp_path / "no" / "a.nii.gz")], "does not exist"),
        (["-o", str(tmp_path / "c.txt")], "endings"),
        (["-o", str(tmp_path / "c.nii.gz"), "-f", "3"], "of fold 3; it has that of 0; choose with -f"),
        (["-o", str(tmp_path / "c.nii.gz"), "--log", str(tmp_path / "no" / "log")], "does not exist"),
    ):
        assert cli.main([*command, "-device", "cpu", *change]) == 2
        assert message in capsys.readouterr().err
    of_another_image = [str(case) if part == str(moved) else part for part in command]
    assert cli.main([*of_another_image, "-device", "cpu", "-o", str(tmp_path / "c.nii.gz")]) == 2
    assert "does not lie on the voxels of" in capsys.readouterr().err
    assert not list(tmp_path.glob("c.*"))
    assert not list(tmp_path.glob(".*"))

    # clicks on two cases
    out = tmp_path / "clicks"
    command = ["s2v", "evaluate-clicks", "-i", str(images), "-r", str(labels), "-m", str(model), "-o", str(out)]
    chosen = ["--cases", "tiny_0", "tiny_3", "--clicks", "2", "--propagation", "both", "-device", "cpu"]
    assert cli.main([*command, *chosen]) == 0
    told = capsys.readouterr().out
    assert "clicks to Dice 0.85" in told
    assert "of 4 clicks 100.0 % obeyed" in told
    assert (out / "clicks.png").stat().st_size > 1000
    summary = json.loads((out / "clicks.json").read_text())
    assert summary["cases"] == 2
    assert set(summary["propagation on"]["dice"]) == {"mean", "left", "right"}
    assert set(summary["propagation off"]["nsd"]["mean"]) == {"0", "1", "2"}
    for way in ("on", "off"):
        effects = summary[f"propagation {way}"]["effects"]
        assert (effects["obeyed_percent"], effects["clicks"]) == (100.0, 4)
    rows = (out / "clicks.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 3 * 2  # cases, ways, moments, labels

    # a box and five clicks for every structure of one case
    chosen = ["--protocol", "cvpr2025", "--cases", "tiny_3", "-device", "cpu"]
    assert cli.main([*command, *chosen, "--propagation", "both"]) == 0
    told = capsys.readouterr().out
    summary = json.loads((out / "clicks.json").read_text())
    for way in ("on", "off"):
        found = summary[f"propagation {way}"]
        numbers = {name: found[name] for name in ("dsc_auc", "nsd_auc", "dsc_final", "nsd_final")}
        assert found["of each case"] == {"tiny_3": numbers}
        five = found["dsc"]["mean"][1:]
        assert numbers["dsc_auc"] == pytest.approx(sum(five) - (five[0] + five[-1]) / 2, abs=1e-3)
        assert numbers["dsc_final"] == five[-1] > found["dsc"]["mean"][0]
        (said,) = re.findall(rf"tiny_3, propagation {way}: DSC-AUC ([\d.]+)", told)
        assert float(said) == pytest.approx(numbers["dsc_auc"], abs=1e-3)
    rows = (out / "clicks.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 6 * 2  # ways, rounds, labels
    assert cli.main([*command, *chosen, "--clicks", "3"]) == 2
    assert "--protocol cvpr2025 has five clicks per structure" in capsys.readouterr().err

    assert cli.main([*command, "--cases", "tiny_9", "-device", "cpu"]) == 2
    assert "no reference of case tiny_9" in capsys.readouterr().err
    shutil.copytree(labels, tmp_path / "more")
    shutil.copy(labels / "tiny_0.nii.gz", tmp_path / "more" / "other.nii.gz")
    assert cli.main([*command, "-r", str(tmp_path / "more"), "-device", "cpu"]) == 2
    assert "has no other_0000.nii.gz" in capsys.readouterr().err


# --- the last prompts of a file, on four slices of the phantom with the model of the demo ---------------------------

ORGAN = {"type": "point", "at": [1, 30, 30], "label": "tumour"}
BRUSH = {"type": "brush", "line": [[3, 5, 5], [3, 5, 9]], "label": "vessel"}


@pytest.fixture
def small(tmp_path):
    whole = sitk.ReadImage(str(write_phantom(tmp_path)))
    file = tmp_path / "small_0000.nii.gz"
    sitk.WriteImage(whole[:, :, 5:9], str(file))
    return file


def written(image, *prompts, axes="zyx", model=MODEL):
    """The label map that ``s2v interact`` writes."""
    file, out = image.with_name("prompts.json"), image.with_name("out.nii.gz")
    file.write_text(json.dumps({"axes": axes, "prompts": list(prompts)}))
    interact([image], model, file, out, device="cpu")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out)))


def test_prompts_that_wait_are_predicted_wherever_they_stand_in_the_file(small):
    waits = {**ORGAN, "wait": True}
    alone = written(small, waits)
    assert alone[1, 30, 30] == LABELS["tumour"]
    assert np.array_equal(written(small, waits, {**ORGAN, "at": [2, 50, 50], "wait": True}, {"type": "undo"}), alone)
    brushed = written(small, waits, BRUSH)
    assert (brushed[1, 30, 30], brushed[3, 5, 7]) == (LABELS["tumour"], LABELS["vessel"])


def test_prompts_that_leave_nothing_give_the_automatic_result(small):
    automatic = written(small)
    assert automatic.any()
    for prompts in ([{"type": "undo"}], [ORGAN, {"type": "reset"}], [{**ORGAN, "wait": True}, {"type": "undo"}]):
        assert np.array_equal(written(small, *prompts), automatic)


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_indices_of_the_file_are_refused_where_the_reader_turns_the_image(reader, small, tmp_path):
    model = tmp_path / reader
    shutil.copytree(MODEL, model)
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": reader}))
    drawn = {**BRUSH, "line": [[10, 12, 2]]}
    with pytest.raises(InputError, match=r'has axes xyz, .* give "axes": "zyx"'):
        written(small, drawn, axes="xyz", model=model)
    turned = {**BRUSH, "line": [[2, 80 - 1 - 12, 80 - 1 - 10]]}  # the last rows and columns come first
    assert written(small, turned, model=model)[2, 12, 10] == LABELS["vessel"]
    image = sitk.ReadImage(str(small))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # which needs no turning
    sitk.WriteImage(image, str(small))
    assert written(small, drawn, axes="xyz", model=model)[2, 12, 10] == LABELS["vessel"]


def test_a_segmentation_is_never_written_over_its_image(small, tmp_path):
    before = small.read_bytes()
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": []}))
    (tmp_path / "link.nii.gz").symlink_to(small)
    for out in (small, tmp_path / "link.nii.gz"):
        with pytest.raises(InputError, match="is the image itself; choose another name"):
            interact([small], MODEL, tmp_path / "prompts.json", out, device="cpu")
    prompts, out = tmp_path / "prompts.json", tmp_path / "out.nii.gz"
    for log in (small, tmp_path / "link.nii.gz", prompts, out):
        with pytest.raises(InputError, match=r"--log .* is the image, the prompts, the segmentation or a spacing"):
            interact([small], MODEL, prompts, out, device="cpu", log=log)
    assert small.read_bytes() == before
    assert json.loads(prompts.read_text()) == {"prompts": []}


def test_the_example_of_the_docs_is_in_the_format():
    page = (Path(__file__).parents[2] / "docs" / "s2vnet.md").read_text()
    example = json.loads(page.partition("```json")[2].partition("```")[0])
    assert len(parse_prompts(example, "docs", lambda name: MASK)) == 9
    assert all(f"`{kind}`" in page or f'"type": "{kind}"' in page for kind in KEYS)
