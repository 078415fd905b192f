"""``nnunet-ext export``: what is written, that it predicts the same, and what is refused."""

import io
import json
import os
import re
import shutil
import zipfile

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from safetensors.torch import load_file, load_model

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.export import readme, write
from nnunet_ext.export.write import RECORD, export_model
from nnunet_ext.nnunet.plans import KEY
from tests import tiny
from tests.export.conftest import LANDMARKS


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def stock_predictor(folder, folds=(0,)):
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    predictor.network.eval()
    return predictor


@pytest.mark.parametrize(
    ("name", "configuration", "kind"),
    [
        ("nnUNetTrainerMedContext", "3d_fullres", "classes"),
        ("nnUNetTrainerAttenScribble", "2d", "regions+ignore"),
        ("nnUNetTrainerBaBLoss", "2d", "ignore"),
    ],
)
def test_the_export_is_a_model_of_stock_nnunet(trained, tmp_path, monkeypatch, name, configuration, kind):
    folder, trainers = trained(name, configuration, kind)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    exported = export_model(folder, tmp_path / "out")
    assert exported.verdict.planned
    assert files(tmp_path / "out") == [
        "README.txt", "dataset.json", RECORD, "fold_0/checkpoint_final.pth", "plans.json",
    ]  # fmt: skip
    plans = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert KEY not in str(plans)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()).keys() <= tiny.dataset_json(kind).keys()

    checkpoint = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["inference_allowed_mirroring_axes"] == (0,)
    assert checkpoint["init_args"]["configuration"] == configuration
    assert checkpoint["init_args"]["fold"] == 0
    assert checkpoint["init_args"]["plans"] == plans
    assert "optimizer_state" not in checkpoint
    everything = (tmp_path / "out" / "fold_0" / "checkpoint_final.pth").read_bytes()
    assert b"somebody" not in everything
    assert b"tiny_0" not in everything

    predictor = stock_predictor(tmp_path / "out")
    trainer = trainers[0]
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    trainer.set_deep_supervision_enabled(False)
    with torch.inference_mode():
        assert torch.equal(predictor.network(image), trainer.network.eval()(image))
    assert predictor.network.state_dict().keys() == checkpoint["network_weights"].keys()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nnUNetTrainerPnPNet", "take part in them"), ("nnUNetTrainerS2VNet", "cannot be applied to patches")],
)
def test_a_network_of_ours_stays_ours_and_says_what_it_needs(trained, tmp_path, capsys, name, reason):
    folder, trainers = trained(name)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    written = (tmp_path / "out" / "README.txt").read_text()
    for text in (printed, written):
        assert "nnunet-ext~=0." in text
        assert reason in text
        assert 'pip install "nnunet-ext~=' in text
        assert 'export nnUNet_extTrainer="$(nnunet-ext path)"' in text
    assert record["trainer"] == name
    assert [need.partition("~")[0].partition(">")[0] for need in record["requires"]] == ["nnunet-ext", "nnunetv2"]
    checkpoint = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == name
    assert checkpoint["network_weights"].keys() == trainers[0].network.state_dict().keys()
    assert checkpoint.keys().isdisjoint({"optimizer_state", "nnunet_ext", "logging"})
    assert "labels" in json.loads((tmp_path / "out" / "plans.json").read_text())["configurations"]["2d"][KEY]
    assert "tiny_0" not in (tmp_path / "out" / "dataset.json").read_text()


@pytest.mark.parametrize("name", ["nnUNetTrainerMedContext", "nnUNetTrainerPnPNet"])
def test_the_second_stage_of_a_cascade_asks_for_predictions_of_the_first(trained, tmp_path, name):
    plans = tiny.plans()
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    folder, _ = trained(name, "3d_cascade_fullres", plans=plans)
    exported = export_model(folder, tmp_path / "out")
    for text in (exported.report(), (tmp_path / "out" / "README.txt").read_text()):
        assert "-f 0 -prev_stage_predictions PREVIOUS" in text
        assert "PREVIOUS is a folder with predictions of 3d_lowres" in text


def test_a_trainer_of_somebody_else_needs_its_file_too(trained, tmp_path):
    folder, _ = trained("nnUNetTrainerPnPNet")
    assert "my_methods" not in export_model(folder, tmp_path / "ours").report()
    (tmp_path / "theirs").mkdir()
    code = "from nnunet_ext.pnpnet.trainer import nnUNetTrainerPnPNet as Ours\nclass nnUNetTrainerTheirs(Ours): pass"
    (tmp_path / "theirs" / "my_methods.py").write_text(code)
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainerTheirs"}, checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
        report = export_model(folder, tmp_path / "out").report()
    assert "and the file with the class nnUNetTrainerTheirs, which is no part of these" in report
    assert "export nnUNet_extTrainer=FOLDER_OF_nnUNetTrainerTheirs" in report
    assert 'pip install "nnunet-ext~=' in report


def test_a_stock_trainer_that_is_kept_does_not_need_this_package(trained, tmp_path):
    folder, _ = trained(nnUNetTrainer)
    report = export_model(folder, tmp_path / "out", keep_trainer=True).report()
    assert "It needs nnunetv2>=" in report
    assert "nnunet-ext~=" not in report
    assert "nnUNet_extTrainer" not in report


def test_precision_of_the_training_does_not_travel(trained, tmp_path):
    plans = tiny.plans()
    plans["configurations"]["2d"][KEY] = {"precision": {"cpu": "bfloat16"}, "schedule": {"epochs": 2}}
    folder, _ = trained("nnUNetTrainerPnPNet", plans=plans)
    export_model(folder, tmp_path / "out", safetensors=True)
    exported = json.loads((tmp_path / "out" / "plans.json").read_text())["configurations"]["2d"][KEY]
    assert "precision" not in exported
    assert exported["schedule"] == {"epochs": 2}
    description = json.loads((tmp_path / "out" / "fold_0" / "checkpoint_final.json").read_text())
    assert description["built_by"] == "nnUNetTrainerPnPNet.build_network_architecture"


def test_a_full_disk_is_one_sentence(trained, tmp_path, monkeypatch, capsys):
    folder, _ = trained("nnUNetTrainerMedContext")

    def full(_content, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("basic_ios::clear: iostream error")  # noqa: B904  (as PyTorch does)

    monkeypatch.setattr(torch, "save", full)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) != 0
    assert "There is no room left on the disk" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_landmarks_are_kept_on_request(trained, tmp_path):
    folder, trainers = trained("nnUNetTrainerBaBLoss", kind="ignore")
    exported = export_model(folder, tmp_path / "out", keep_trainer=True)
    assert "--keep-trainer" in exported.report()
    assert (tmp_path / "out" / "fold_0" / "landmark_thresholds.json").is_file()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["landmarks"] == LANDMARKS
    checkpoint = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["network_weights"].keys() == trainers[0].network.state_dict().keys()


def test_folds_and_checkpoints_can_be_chosen(trained, tmp_path):
    folder, trainers = trained("nnUNetTrainerMaskedCRF", kind="ignore", folds=(0, 1, "all"))
    for fold in (0, 1):
        shutil.copy(folder / f"fold_{fold}" / "checkpoint_final.pth", folder / f"fold_{fold}" / "checkpoint_best.pth")
    (folder / "crossval_results_folds_0_1").mkdir()
    (folder / "crossval_results_folds_0_1" / "postprocessing.pkl").write_bytes(b"what nnU-Net found")
    (folder / "crossval_results_folds_0_1" / "summary.json").write_text('{"case": "tiny_0"}')
    export_model(folder, tmp_path / "both", checkpoints=["checkpoint_final.pth", "checkpoint_best.pth"])
    assert [name for name in files(tmp_path / "both") if "/" in name] == [
        "crossval_results_folds_0_1/postprocessing.pkl",
        *(f"fold_{fold}/checkpoint_{which}.pth" for fold in (0, 1) for which in ("best", "final")),
    ]
    predictor = stock_predictor(tmp_path / "both", (0, 1))
    for fold, weights in enumerate(predictor.list_of_parameters):
        own = trainers[fold].network.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in weights.items())
    export_model(folder, tmp_path / "one", folds=["all"])
    assert [name for name in files(tmp_path / "one") if "/" in name] == ["fold_all/checkpoint_final.pth"]
    with pytest.raises(InputError, match=r"no checkpoint_final.pth in fold_3; folds that have: 0, 1, all"):
        export_model(folder, tmp_path / "none", folds=["3"])


@pytest.mark.parametrize("order", ["1_0", "0_1"])
def test_postprocessing_is_that_of_the_same_folds_in_any_order(trained, tmp_path, order):
    folder, _ = trained("nnUNetTrainerMaskedCRF", kind="ignore", folds=(0, 1))
    for folds in (order, "0", "0_1_2", "10"):
        (folder / f"crossval_results_folds_{folds}").mkdir()
        (folder / f"crossval_results_folds_{folds}" / "postprocessing.pkl").write_bytes(folds.encode())
    exported = export_model(folder, tmp_path / "out")
    (copied,) = (tmp_path / "out").glob("crossval_*/*")
    assert copied.parent.name == f"crossval_results_folds_{order}"
    assert copied.read_bytes() == order.encode()
    for text, model in (
        (exported.report(), str(tmp_path / "out")),
        ((tmp_path / "out" / "README.txt").read_text(), f"$nnUNet_results/{tiny.DATASET}/"),
    ):
        (command,) = [line for line in text.splitlines() if "nnUNetv2_apply_postprocessing" in line]
        assert f"-pp_pkl_file {model}" in command
        assert f"/crossval_results_folds_{order}/postprocessing.pkl -plans_json" in command
    for fold in (0, 1):  # nnU-Net found it on the validation of the final checkpoints
        shutil.copy(folder / f"fold_{fold}" / "checkpoint_final.pth", folder / f"fold_{fold}" / "checkpoint_best.pth")
    best = export_model(folder, tmp_path / "best", checkpoints=["checkpoint_best.pth"])
    assert not list((tmp_path / "best").glob("crossval_*"))
    assert "nnUNetv2_apply_postprocessing" not in best.report()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset_name": "/tmp/elsewhere"}, "dataset_name is '/tmp/elsewhere', but a name such as Dataset004_Hippo"),
        ({"dataset_name": "Dataset004_/../../x"}, "dataset_name is 'Dataset004_/"),
        ({"dataset_name": "../Dataset004_x"}, "dataset_name is '../"),
        ({"dataset_name": None}, "dataset_name is 'None'"),
        ({"plans_name": "p/../../x"}, "a name must hold no slash, but there is 'p/../../x'"),
        ({"plans_name": "p\\x"}, "a name must hold no slash"),
        ({"configurations": {"2d/../../x": {}}}, "a name must hold no slash, but there is '2d/../../x'"),
    ],
)
def test_names_of_a_stranger_lead_nowhere_else(trained, tmp_path, changes, sentence):
    folder, _ = trained("nnUNetTrainerMedContext")
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, **changes}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=re.escape(sentence)):
        export_model(folder, tmp_path / "model.zip")
    assert sorted(tmp_path.rglob("*")) == before


def test_commands_quote_names_of_a_stranger():
    record = {
        "dataset": "Dataset004_a; b",
        "plans": "p$(q)",
        "configuration": "2d",
        "checkpoints": ["fold_0/checkpoint_final.pth"],
        "previous_stage": "",
        "requires": [],
    }
    assert "-d 'Dataset004_a; b' -c 2d -tr T -p 'p$(q)' -f 0" in readme.commands(record, "T")


def test_a_zip_file_has_nnunets_layout(trained, tmp_path):
    folder, _ = trained("nnUNetTrainerMedContext")
    exported = export_model(folder, tmp_path / "model.zip", name="nnUNetTrainerShared")
    place = f"{tiny.DATASET}/nnUNetTrainerShared__nnUNetPlans__2d"
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            f"{place}/{name}"
            for name in ("README.txt", "dataset.json", RECORD, "fold_0/checkpoint_final.pth", "plans.json")
        )
        content = io.BytesIO(archive.read(f"{place}/fold_0/checkpoint_final.pth"))
    assert torch.load(content, weights_only=True)["trainer_name"] == "nnUNetTrainer"
    assert f"nnUNetv2_install_pretrained_model_from_zip {tmp_path / 'model.zip'}" in exported.report()
    assert "-tr nnUNetTrainerShared -p nnUNetPlans -f 0" in exported.report()
    with pytest.raises(InputError, match="--as 'a__b' is no name of a trainer"):
        export_model(folder, tmp_path / "other.zip", name="a__b")


def test_safetensors_and_their_description_rebuild_the_network_without_plans(trained, tmp_path):
    folder, trainers = trained("nnUNetTrainerMedContext")
    export_model(folder, tmp_path / "out", safetensors=True)
    description = json.loads((tmp_path / "out" / "fold_0" / "checkpoint_final.json").read_text())
    architecture = description["configuration"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        description["input_channels"],
        description["output_channels"],
        deep_supervision=False,
    )
    weights = tmp_path / "out" / "fold_0" / "checkpoint_final.safetensors"
    assert "encoder.stages.0.0.convs.0.conv.weight" in load_file(weights)
    assert weights.stat().st_mode == weights.with_suffix(".pth").stat().st_mode
    load_model(network, weights)
    own = trainers[0].network.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in network.state_dict().items())
    assert description["configuration"]["patch_size"] == [16, 16]
    assert (description["output"], description["trainer"]) == ("softmax", "nnUNetTrainer")


def test_a_stock_trainer_that_builds_another_network_is_named_in_the_description(trained, tmp_path):
    folder, _ = trained("nnUNetTrainerMedContextPrimusS", "3d_fullres")
    export_model(folder, tmp_path / "out", safetensors=True)
    description = json.loads((tmp_path / "out" / "fold_0" / "checkpoint_final.json").read_text())
    assert description["requires"] == []
    assert description["built_by"] == f"{description['trainer']}.build_network_architecture"


def test_weights_of_checkpoints_with_dots_in_their_names_lie_beside_each_of_them(trained, tmp_path):
    folder, _ = trained("nnUNetTrainerMedContext")
    for name in ("epoch.1.pth", "epoch.2.pth"):
        shutil.copy(folder / "fold_0" / "checkpoint_final.pth", folder / "fold_0" / name)
    export_model(folder, tmp_path / "out", checkpoints=["epoch.1.pth", "epoch.2.pth"], safetensors=True)
    kinds = ("json", "pth", "safetensors")
    assert {f"fold_0/epoch.{n}.{kind}" for n in (1, 2) for kind in kinds} <= set(files(tmp_path / "out"))


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_only_what_an_export_wrote_is_replaced(trained, tmp_path, out):
    folder, _ = trained("nnUNetTrainerMedContext")
    target = tmp_path / out
    export_model(folder, target)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=r"exists; choose another name, or replace it with --force"):
        export_model(folder, target)
    export_model(folder, target, force=True, keep_trainer=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    if target.is_dir():
        assert json.loads((target / RECORD).read_text())["requires"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="a folder that no export wrote"):
        export_model(folder, precious, force=True)
    assert (precious / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize("out", ["out", "out.zip"])
@pytest.mark.parametrize("old", [False, True])
def test_a_failure_leaves_nothing_new_and_the_old_one_whole(trained, tmp_path, monkeypatch, out, old):
    folder, _ = trained("nnUNetTrainerMedContext", folds=(0, 1))
    target = tmp_path / out
    if old:
        export_model(folder, target, folds=["0"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    values = iter([torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.ones(1)])
    monkeypatch.setattr(write, "logits", lambda *_: next(values))  # those of the second fold are not equal
    with pytest.raises(InputError, match="logits of the exported network are not those of the original one"):
        export_model(folder, target, force=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".*"))


def test_weights_that_are_not_finite_are_refused(trained, tmp_path):
    folder, trainers = trained("nnUNetTrainerMedContext")
    with torch.no_grad():
        next(trainers[0].network.parameters()).fill_(float("nan"))
    trainers[0].save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    with pytest.raises(InputError, match="or not finite"):
        export_model(folder, tmp_path / "out")


def test_what_cannot_be_exported_gets_one_sentence(trained, tmp_path):
    folder, _ = trained("nnUNetTrainerMedContext", folds=(0, 1))
    checkpoint = folder / "fold_1" / "checkpoint_final.pth"
    whole = torch.load(checkpoint, weights_only=False)

    def message(**changes):
        torch.save({key: value for key, value in {**whole, **changes}.items() if value is not None}, checkpoint)
        with pytest.raises(InputError) as caught:
            export_model(folder, tmp_path / "out", folds=["1"] if changes.get("trainer_name") != "other" else None)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "has no network_weights; it is no checkpoint" in message(network_weights=None)
    assert "no trainer 'nnUNetTrainerNobodyWrote', neither" in message(trainer_name="nnUNetTrainerNobodyWrote")
    assert "one folder can hold models of one trainer" in message(trainer_name="other")
    weights = dict(list(whole["network_weights"].items())[1:])
    assert "does not fit the network of its plans and trainer nnUNetTrainerMedContext" in message(
        network_weights=weights
    )
    assert "does not name its configuration" in message(init_args={})
    assert "has no configuration '4d', which the checkpoint was" in message(init_args={"configuration": "4d"})
    with pytest.raises(InputError, match="is no trained model"):
        export_model(folder / "fold_0", tmp_path / "out")
    with pytest.raises(InputError, match="lie in each other"):
        export_model(folder, folder / "out")
    with pytest.raises(InputError, match="there is no folder"):
        export_model(folder, tmp_path / "nowhere" / "out")
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"dataset.json has no labels and file_ending"):
        export_model(folder, tmp_path / "out")


def test_a_stock_model_can_be_exported_too(trained, tmp_path):
    folder, _ = trained(nnUNetTrainer)
    assert export_model(folder, tmp_path / "out").record["requires"] == []
    assert os.path.getsize(tmp_path / "out" / "fold_0" / "checkpoint_final.pth") > 0
