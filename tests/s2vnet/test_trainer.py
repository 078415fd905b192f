"""The trainers: clips from a 2D configuration, both modes, checkpoints, and from training to prediction."""

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.catalogue import resolve
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.labels import finest
from nnunet_ext.nnunet.plans import NOTED
from nnunet_ext.nnunet.slice_clips import WithinSlices, blurs
from nnunet_ext.nnunet.trainer import SEGMENTATION
from nnunet_ext.s2vnet.loss import weight_of
from nnunet_ext.s2vnet.prompts import Prompts
from nnunet_ext.s2vnet.trainer import AUXILIARY, CLUSTERS
from tests import tiny

TRAINERS = {
    "S2VNet": ("nnUNetTrainerS2VNet", {}),
    "without clicks": ("nnUNetTrainerS2VNet", {"interactive": 0}),
    "NoPropagation": ("nnUNetTrainerS2VNetNoPropagation", {}),
}
"""Trainers and options: everything that was measured on its own."""
SMALL = {"width": 8, "heads": 2, "embedding": 4, "inference_clip": 8}


def small_plans(options=None, depth=16, **configuration):
    plans = tiny.plans(**{"2d": tiny.configuration(2, **configuration), "3d_fullres": tiny.configuration(3)})
    plans["configurations"]["2d"]["nnunet_ext"] = {"s2vnet": {**SMALL, **(options or {})}}
    plans["configurations"]["2d"]["batch_size"] = 12
    plans["original_median_shape_after_transp"][0] = depth
    return plans


@pytest.fixture
def make(make_trainer):
    def made(name="nnUNetTrainerS2VNet", *, kind="classes", configuration="2d", **plans):
        return make_trainer(name, kind=kind, configuration=configuration, plans=small_plans(**plans))

    return made


def batch_of(trainer, seed=0):
    """As the loader gives it: clips, not patches of inference."""
    return tiny.batch(trainer, seed)


@pytest.mark.parametrize("kind", ["classes", "regions", "ignore", "regions+ignore"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_and_validates(make, name, kind):
    trainer_name, options = TRAINERS[name]
    trainer = make(trainer_name, kind=kind, options=options)
    trainer.network.train()
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    steps = [trainer.train_step(batch_of(trainer, seed)) for seed in range(2)]
    assert all(steps[0].keys() == step.keys() for step in steps)
    assert steps[0].keys() == {"loss", f"loss_{SEGMENTATION}", f"loss_{CLUSTERS}", f"loss_{AUXILIARY}"}
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    assert [n for n, p in trainer.network.named_parameters() if p.grad is None] == []
    assert any(not torch.equal(before[k], v) for k, v in trainer.network.state_dict().items())
    trainer.network.eval()
    with torch.no_grad():
        assert trainer.validation_step(batch_of(trainer))["tp_hard"].shape == (2,)


@pytest.mark.parametrize("residual", [False, True])
def test_without_deep_supervision_the_terms_are_the_same(make_trainer, residual):
    class Without(resolve("nnUNetTrainerS2VNet")):
        hyperparameters = {"enable_deep_supervision": False}  # noqa: RUF012

    trainer = make_trainer(Without, configuration="2d", plans=small_plans(residual=residual))
    trainer.network.train()
    batch = batch_of(trainer)
    assert isinstance(batch["target"], torch.Tensor)
    assert {f"loss_{SEGMENTATION}", f"loss_{CLUSTERS}", f"loss_{AUXILIARY}"} < trainer.train_step(batch).keys()
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch_of(trainer))["loss"])


def test_clips_and_where_their_size_is_written(make_trainer):
    trainer = make_trainer("nnUNetTrainerS2VNet", configuration="2d", plans=small_plans())
    assert trainer.configuration_manager.patch_size == [8, 16, 16]
    saved = trainer.plans_manager.plans["configurations"]["2d"]
    assert saved["patch_size"] == [8, 16, 16]
    assert (trainer.batch_size, saved["batch_size"]) == (3, 12)
    rotation, dummy, initial, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert dummy
    assert rotation == (-np.pi, np.pi)
    assert initial[0] == 4
    assert min(initial[1:]) > 16
    assert axes == trainer.inference_allowed_mirroring_axes == (0, 1, 2)
    again = make_trainer("nnUNetTrainerS2VNet", configuration="2d", plans=trainer.plans_manager.plans)
    assert again.configuration_manager.patch_size == [8, 16, 16]
    assert again.batch_size == 3


@pytest.mark.parametrize("options", [{}, {"clip": 1}])
def test_without_neighbours_slices_stand_alone(make, options):
    trainer = make(depth=16 if options else 1, options=options)
    assert trainer.clip == 1
    assert trainer.batch_size == 12
    assert trainer.configuration_manager.patch_size[0] == (8 if options else 1)
    assert trainer.network.aggregation is None
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == (1, 2)
    trainer.network.train()
    assert np.isfinite(trainer.train_step(batch_of(trainer))["loss"])


@pytest.mark.parametrize(
    ("name", "options"), [("nnUNetTrainerS2VNetNoPropagation", {}), ("nnUNetTrainerS2VNet", {"inference_clip": 1})]
)
def test_without_propagation_all_but_propagation_is_that_of_s2vnet(make, name, options):
    full, trainer = make(), make(name, options=options)
    assert (trainer.clip, trainer.batch_size) == (full.clip, full.batch_size) == (4, 3)
    assert batch_of(trainer)["data"].shape == batch_of(full)["data"].shape
    assert trainer.single_slices() == full.single_slices() == 0.5
    mirrored = [one.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] for one in (trainer, full)]
    assert mirrored == [(0, 1, 2)] * 2
    assert trainer.configuration_manager.patch_size[0] == 1
    assert trainer.network.aggregation is None
    assert not trainer.network.memory


def test_models_without_propagation_from_before_have_the_network_that_they_had():
    """They trained on clips of one slice, and their plans say 64 slices a patch."""
    plans = small_plans()
    plans["configurations"]["2d"]["patch_size"] = [64, 16, 16]
    manager = PlansManager(plans)
    kind = resolve("nnUNetTrainerS2VNetNoPropagation")
    made = kind.build_network_architecture(manager, manager.get_configuration("2d"), 1, 3, False)
    assert made.aggregation is None
    assert not made.memory


def test_a_3d_configuration_is_refused_before_a_folder_is_made(make, tmp_path):
    with pytest.raises(InputError, match=r"3d_fullres has Conv3d; train configuration 2d"):
        make(configuration="3d_fullres")
    assert not (tmp_path / "results").exists()


def test_options_of_the_plans_count(make):
    assert make(options={"clip": 2}).clip == 2
    assert make("nnUNetTrainerS2VNetNoPropagation", options={"inference_clip": 2}).clip_lengths() == (4, 1)
    assert make(options={"aggregation": "mean"}).network.aggregation.kind == "mean"
    with pytest.raises(InputError, match="unknown s2vnet options"):
        make(options={"clips": 4})


def test_the_user_clicks_true_labels_and_rounds_see_the_network(make):
    for kind in ("classes", "regions", "ignore"):
        trainer = make(kind=kind, options={"interactive": 1.0})
        batch = batch_of(trainer)
        target = finest(batch["target"])
        user = trainer.user_of(target)
        nothing = torch.zeros_like(user.labels)
        prompts = user(lambda given, nothing=nothing: nothing)
        assert prompts.weight.sum() > 0
        for b in range(len(target)):
            for place, label, weight in zip(prompts.position[b], prompts.label[b], prompts.weight[b], strict=True):
                if weight:
                    assert user.labels[b][tuple(place.long())] == label
    assert make(options={"interactive": 0}).user_of(target) is None


def test_online_validation_is_automatic(make, monkeypatch):
    trainer = make(options={"interactive": 1.0})
    asked = []
    monkeypatch.setattr(trainer, "user_of", lambda target: asked.append(target))
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(batch_of(trainer))
    assert not asked


def test_a_stock_checkpoint_initialises_the_backbone(make, make_trainer, tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_ext.nnunet.pretrained import load_pretrained_weights

    stock = make_trainer(nnUNetTrainer, configuration="2d", plans=small_plans())
    torch.save({"network_weights": stock.network.state_dict()}, tmp_path / "stock.pth")
    trainer = make()
    load_pretrained_weights(trainer.network, tmp_path / "stock.pth")
    a, b = trainer.network.state_dict(), stock.network.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in b if ".seg_layers." not in key)


@pytest.fixture
def trained(nnunet_folders):
    """``trained(name, kind)``: model folder after a training by nnU-Net's own loop, and the roots."""

    def train(name="nnUNetTrainerS2VNet", kind="classes", **options):
        root = nnunet_folders(kind)
        folder = root / "preprocessed" / tiny.DATASET
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        plans["configurations"]["2d"]["nnunet_ext"] = {"s2vnet": {**SMALL, **options}}
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        cases = [f"tiny_{index}" for index in range(6)]
        (folder / "splits_final.json").write_text(json.dumps([{"train": cases[:5], "val": cases[5:]}]))
        plans["continue_training"] = False
        torch.manual_seed(0)
        description = json.loads((folder / "dataset.json").read_text())
        trainer = resolve(name)(plans, "2d", 0, description, torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        trainer.run_training()
        (model,) = (root / "results" / tiny.DATASET).iterdir()
        return trainer, model, root

    return train


def predictor(model, kind=nnUNetPredictor, **settings):
    made = kind(device=torch.device("cpu"), allow_tqdm=False, **settings)
    made.initialize_from_trained_model_folder(str(model), [0])
    return made


def test_from_training_to_stock_prediction(trained, tmp_path):
    trainer, model, root = trained(inference_clip=24)  # longer than the volumes, which have 18 slices
    trainer.perform_actual_validation()
    assert list((model / "fold_0" / "validation").glob("*.nii.gz"))
    saved = json.loads((model / "plans.json").read_text())["configurations"]["2d"]
    assert saved["patch_size"] == [24, 16, 16]
    kept = json.loads((root / "preprocessed" / tiny.DATASET / "nnUNetPlans.json").read_text())
    assert kept["configurations"]["2d"]["patch_size"] == [16, 16]
    images = root / "raw" / tiny.DATASET / "imagesTr"
    predictor(model, use_mirroring=False).predict_from_files(
        [[str(images / "tiny_0_0000.nii.gz")]],
        [str(tmp_path / "out")],
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz")))
    assert found.shape == (18, 20, 22)
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert weights["inference_allowed_mirroring_axes"] == (0, 1, 2)


@pytest.mark.parametrize("kind", ["regions", "regions+ignore"])
def test_regions_are_known_without_the_data_set(trained, kind):
    """The network is rebuilt from the model's plans alone."""
    trainer, model, _ = trained(kind=kind)
    stock = predictor(model)
    assert stock.network.label_heads.regions == ((1, 2), (2,))
    assert stock.network.label_heads.num_labels == 3
    x = torch.randn(1, 1, 3, 16, 16)
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        torch.testing.assert_close(stock.network.eval()(x), trainer.network.eval()(x))


def test_a_training_that_was_stopped_goes_on(trained):
    trainer, model, _ = trained()
    again = type(trainer)(
        {**deepcopy(trainer.plans_manager.plans), "continue_training": True},
        "2d",
        0,
        trainer.dataset_json,
        torch.device("cpu"),
    )
    again.load_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))
    assert again.configuration_manager.patch_size == [8, 16, 16]
    a, b = again.network.state_dict(), trainer.network.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_a_training_from_before_positions_is_refused_and_its_model_predicts(trained):
    old, model, _ = trained(position=False, mask_memory=False)
    file = model / "fold_0" / "checkpoint_final.pth"
    plans = deepcopy(old.plans_manager.plans)
    plans["configurations"]["2d"]["nnunet_ext"]["s2vnet"] = dict(SMALL)
    checkpoint = torch.load(file, weights_only=False)
    for known in (plans, checkpoint["init_args"]["plans"]):  # such a training did not note its options yet
        del known["configurations"]["2d"]["nnunet_ext"][NOTED]
    torch.save(checkpoint, file)
    again = type(old)({**plans, "continue_training": True}, "2d", 0, old.dataset_json, torch.device("cpu"))
    with pytest.raises(InputError, match=r"goes on only with s2vnet\.position = false"):
        again.load_checkpoint(str(file))
    (model / "plans.json").write_text(json.dumps(plans))
    x = torch.randn(1, 1, 3, 16, 16)
    old.set_deep_supervision_enabled(False)
    with torch.no_grad():
        torch.testing.assert_close(predictor(model).network.eval()(x), old.network.eval()(x))


@pytest.mark.parametrize("options", [{}, {"cluster_weight": 3.0, "auxiliary_weight": 0.1}])
def test_the_weights_of_all_losses_sum_to_that_of_stock_nnunet(make, options):
    """Where every resolution has the same loss, the total is that loss."""
    trainer = make(options=options)
    parts = {SEGMENTATION: 1.0, CLUSTERS: weight_of(trainer.network.stages), AUXILIARY: weight_of([0, 1])}
    assert sum(trainer.term_weight(name) * part for name, part in parts.items()) == pytest.approx(1)
    ratio = trainer.term_weight(CLUSTERS) / trainer.term_weight(SEGMENTATION)
    assert ratio == pytest.approx(options.get("cluster_weight", 1))


def test_padding_is_in_no_loss(make):
    """A clip that overhangs has the loss of its slices inside."""
    trainer = make(options={"interactive": 0, "state_dropout": 0, "mask_dropout": 0, "mask_corruption": 0})
    trainer.network.train()
    batch = batch_of(trainer)
    batch["data"][:, :, 3:] = 0
    inside = {
        "data": batch["data"][:, :, :3],
        "target": [target[:, :, :3] for target in batch["target"]],
    }
    with torch.no_grad():
        losses = [trainer.compute_terms(trainer.network(b["data"]), b) for b in (batch, inside)]
    for name in losses[0]:
        assert float(losses[0][name]) == pytest.approx(float(losses[1][name]), abs=1e-5)


def test_prompts_pass_through_the_saved_network(trained):
    """The interaction path is part of the checkpoint."""
    _, model, _ = trained()
    network = predictor(model).network.eval()
    x = torch.randn(1, 1, 3, 16, 16)
    there = torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        plain = [one.logits for one in network.propagate(x.unbind(2), there)]
        clicked = [one.logits for one in network.propagate(x.unbind(2), there, Prompts.click([1, 4, 4], 1).on_slice)]
    assert torch.equal(plain[0], clicked[0])
    assert not torch.equal(plain[2], clicked[2])


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_blur_stays_within_slices(slices):
    blur = GaussianBlurTransform((0.5, 1.0), p_per_channel=1, benchmark=True)
    (found,) = blurs(ComposeTransforms([RandomTransform(blur, apply_probability=0.2)]))
    found.blur_sigma = WithinSlices(found.blur_sigma)
    image = torch.rand(2, slices, 12, 12)
    blurred = pickle.loads(pickle.dumps(found))(image=image.clone())["image"]
    assert not torch.allclose(blurred, image)
    if slices > 1:
        changed = image.clone()
        changed[:, 0] += 5
        parameters = found.get_parameters(image=image)
        a, b = (found._apply_to_image(x.clone(), **parameters) for x in (image, changed))
        assert torch.allclose(a[:, 1:], b[:, 1:], atol=1e-5)
        assert torch.allclose(a[:, 0] + 5, b[:, 0], atol=1e-4)
