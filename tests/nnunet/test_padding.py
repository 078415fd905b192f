"""Padding is not annotation: with nnU-Net's own loader and augmentation, and images of ones that end inside patches."""

import pickle

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.nnunet.padding import BLACK, DatasetWithBlack, filled_outside, keep_outside
from nnunet_ext.nnunet.trainer import INSIDE
from nnunet_ext.nnunet.transforms import OUTSIDE
from tests import tiny

IGNORE = 3
CONFIGURATIONS = {
    "2d": tiny.configuration(2, [32, 32]),
    "isotropic": tiny.configuration(3, [24, 24, 32]),
    # nnU-Net augments these slice by slice
    "anisotropic": {
        **tiny.configuration(3, [8, 32, 32], strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
        "spacing": [3.0, 1.0, 1.0],
    },
}
"""Slices have 20 × 22 voxels, volumes 18 of them."""


@pytest.fixture
def made(make_trainer, nnunet_folders):
    """``made(label, …)`` → a trainer whose preprocessed cases are ones, all with this label."""

    roots = {}

    def make(label, *, name="nnUNetTrainerMaskedCRF", configuration="2d", kind="ignore", **options):
        folder = roots.setdefault("root", roots.get("root") or nnunet_folders(kind)) / "preprocessed" / tiny.DATASET
        for file in folder.glob("nnUNetPlans_?d/*.pkl"):
            data, segmentation, _, properties = nnUNetDatasetBlosc2(str(file.parent)).load_case(file.stem)
            ones, labels = np.ones_like(data[:]), np.full_like(segmentation[:], label)
            for old in file.parent.glob(f"{file.stem}*"):
                old.unlink()
            shape = {"chunks": data.shape, "blocks": data.shape}
            nnUNetDatasetBlosc2.save_case(ones, labels, properties, str(file.with_suffix("")), **shape)
        settings = {**CONFIGURATIONS[configuration], "nnunet_ext": {"attenscribble": {"crf_image": "clean", **options}}}
        where = "2d" if configuration == "2d" else "3d_fullres"
        return make_trainer(name, kind=kind, configuration=where, plans=tiny.plans(**{where: settings}))

    return make


def batches(trainer, training=True, number=8):
    np.random.seed(0)
    torch.manual_seed(0)
    loader = trainer.get_dataloaders()[0 if training else 1]
    return [next(loader) for _ in range(number)]


@pytest.mark.parametrize("kind", ["ignore", "regions+ignore"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_after_augmentation_exactly_what_is_outside_of_the_image_is_ignored(made, configuration, kind):
    """All of the image is black background, which nnU-Net stores as −1, too."""
    trainer = made(OUTSIDE, configuration=configuration, kind=kind)
    shares, moved = [], 0
    for batch in batches(trainer):
        batch = trainer.prepare_batch(batch)
        inside, clean = batch[INSIDE], batch["clean_image"]
        # the image of ones, warped with zeros around it, says where it is
        assert ((clean > 0.5) != inside).float().mean() < 0.002
        moved += bool(((clean > 0.05) & (clean < 0.95)).any())
        shares.append(inside.float().mean().item())
        for target in batch["target"]:
            there = torch.nn.functional.interpolate(inside.float(), target.shape[2:], mode="nearest-exact") > 0
            assert torch.equal(trainer.labels.annotated(target), there)
            if kind == "ignore":
                assert (target == torch.where(there, 0, IGNORE)).all()
            else:
                assert target.shape[1] == 3
                assert not target[:, :2].any()
    assert 0.2 < np.mean(shares) < 0.9
    assert moved > 1  # some were rotated or scaled


@pytest.mark.parametrize("kind", ["ignore", "regions+ignore"])
def test_scribbles_inside_of_the_image_stay_and_the_log_says_their_share_of_it(made, kind, capsys):
    trainer = made(IGNORE, kind=kind)
    validated = trainer.without_padding(batches(trainer, training=False, number=1)[0])
    assert not trainer.labels.annotated(validated["target"][0]).any()
    trainer = made(1, kind=kind)
    trainer.network.train()
    for batch in batches(trainer, number=2):
        step = trainer.train_step(batch)
        assert step["stat_annotated"] == 1
    trainer.network.eval()
    with torch.no_grad():
        raw = batches(trainer, training=False, number=1)[0]
        output = trainer.validation_step(raw)
    assert 0 < output["annotated"] == output["voxels"] < 0.7 * raw["data"].numel()
    trainer.on_validation_epoch_end([output])
    assert "100.0% of the voxels of the images in the validation patches" in capsys.readouterr().out


def test_padding_may_count_as_annotated_background_as_in_stock_nnunet(made):
    name = "nnUNetTrainerReference"
    stock = batches(made(OUTSIDE, name=name), number=3)
    trainer = made(OUTSIDE, crf_image="network_input", padding_annotated=True)
    for ours, theirs in zip(batches(trainer, number=3), stock, strict=True):
        assert torch.equal(ours["data"], theirs["data"])
        assert all(torch.equal(a, b) for a, b in zip(ours["target"], theirs["target"], strict=True))
        prepared = trainer.prepare_batch(ours)
        assert INSIDE not in prepared
        assert not prepared["target"][0].any()
        assert not trainer.unlabelled_voxels(prepared).any()


@pytest.mark.parametrize("name", ["nnUNetTrainerMaskedCRF", "nnUNetTrainerAttenScribble"])
@pytest.mark.parametrize("configuration", ["2d", "isotropic"])
def test_no_regulariser_acts_on_padding(made, configuration, name):
    options = {"pseudo_weight": 1.0, "pseudo_confidence": 0.0, "asl_weight": 1.0}
    trainer = made(IGNORE, name=name, configuration=configuration, **options)
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.gate.probability.fill_(1)
    trainer.network.train()
    batch = trainer.prepare_batch(batches(trainer, number=1)[0])
    inside = batch[INSIDE]
    with torch.no_grad():
        logits, *rest = trainer.network(batch["data"]) if "Atten" in name else (trainer.network(batch["data"]),)

    def gradients(changed):
        levels = [level.clone() for level in logits]
        levels[0] = levels[0].where(inside, changed).requires_grad_()
        terms = trainer.compute_terms((levels, *rest) if rest else levels, batch)
        names = [name for name in terms if name != "segmentation"]
        return {name: torch.autograd.grad(terms[name], levels[0], retain_graph=True)[0] for name in names}

    outside = (~inside).expand_as(logits[0])
    one, other = gradients(torch.tensor(0.3)), gradients(torch.randn_like(logits[0]) * 5)
    assert {"crf", "pseudo_labels"} <= one.keys()
    for name, gradient in one.items():
        if name == "similarity_loss":  # a token at the border averages both; there are few
            assert (gradient[outside] != 0).float().mean() < 0.3
            continue
        assert (gradient[outside] == 0).all(), name
        assert gradient[~outside].abs().max() > 0, name
        torch.testing.assert_close(other[name], gradient)


def test_the_published_regularisers_know_no_padding_but_nothing_is_annotated_there(make_trainer):
    trainer = make_trainer("nnUNetTrainerAttenScribblePaper", kind="ignore", configuration="2d")
    batch = tiny.batch(trainer)
    batch["target"][:, :, :4] = OUTSIDE
    prepared = trainer.prepare_batch(batch)
    assert (prepared["target"][:, :, :4] == IGNORE).all()
    logits, attended = trainer.network.train()(prepared["data"])
    gradient = {}
    for name, term in trainer.compute_terms((logits, attended), prepared).items():
        gradient[name] = torch.autograd.grad(term, logits, retain_graph=True)[0][:, :, :4]
    assert not gradient["segmentation"].any()
    assert (gradient["crf"] != 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_the_previous_stage_of_a_cascade_has_no_outside_and_black_stays_black(make_trainer, masked):
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind="ignore", configuration="2d")
    known = {"use_mask_for_norm": [masked], "is_cascaded": True, "foreground_labels": [1, 2], "ignore_label": IGNORE}
    transforms = trainer.get_training_transforms([8, 8], (0.0, 0.0), None, None, False, **known)
    segmentation = torch.full((2, 8, 8), OUTSIDE, dtype=torch.int16)
    segmentation[0, 2:, :] = BLACK
    segmentation[0, 5:, :] = 1
    segmentation[1, 4:, :] = 2
    for _ in range(3):
        result = transforms(image=torch.ones(1, 8, 8), segmentation=segmentation.clone())
        labels = result["segmentation"][0]
        assert result["image"].shape[0] == 3  # the image, and both labels of the previous stage
        assert result["segmentation"].shape[0] == 1
        assert set(labels.unique().tolist()) == {OUTSIDE, 0, 1}
        assert bool((result["image"][0][labels <= 0] == 0).all()) == masked


def test_what_the_trainer_gets_has_no_outside_any_more():
    classes, regions = LabelView(3, False, IGNORE), LabelView(2, True, IGNORE)
    target = torch.tensor([OUTSIDE, 0, 2, IGNORE], dtype=torch.int16).view(1, 1, 4)
    ignored, inside = filled_outside(target, classes)
    assert ignored.flatten().tolist() == [IGNORE, 0, 2, IGNORE]
    assert inside.flatten().tolist() == [False, True, True, True]
    channels = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.bool)[None]
    ignored, inside = filled_outside(channels, regions)
    assert ignored[0].int().tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert inside.flatten().tolist() == [False, True, True]
    same, inside = filled_outside(channels[:, :3], regions)
    assert torch.equal(same, channels[:, :3])
    assert inside.all()


def test_a_case_is_read_with_black_for_the_background_in_front_of_which_nothing_is():
    class Dataset:
        identifiers = ("case",)

        def load_case(self, identifier):
            return "image", np.array([[[-1, 0, 3]]], np.int8), None, {"of": identifier}

    dataset = DatasetWithBlack(Dataset())
    assert dataset.identifiers == ("case",)
    image, segmentation, previous, properties = dataset.load_case("case")
    assert (image, previous, properties) == ("image", None, {"of": "case"})
    assert segmentation.shape == (1, 1, 3)
    assert segmentation[:, :, :2].tolist() == [[[BLACK, 0]]]
    assert segmentation[:].dtype == segmentation.dtype == np.int8
    plain = DatasetWithBlack([1, 2])
    assert pickle.loads(pickle.dumps(plain)).dataset == [1, 2]


def test_transforms_that_remove_no_label_are_said():
    with pytest.raises(RuntimeError, match="remove the label −1 in 0 places instead of 1"):
        keep_outside(ComposeTransforms([]))


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("regions", [False, True])
def test_padding_that_is_annotated_becomes_background_and_is_known(regions, ignore):
    labels = LabelView(2, regions, ignore)
    inside = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    inside[..., 0] = False
    if regions:
        own = (torch.rand(1, 2 + (ignore is not None), 3, 4) < 0.5) & inside
        target = torch.cat([own, ~inside], 1)
    else:
        own = torch.randint(0, 2, (1, 1, 3, 4)) * inside
        target = own.masked_fill(~inside, OUTSIDE)
    filled, where = filled_outside(target, labels, annotated=True)
    assert torch.equal(filled, own)
    assert torch.equal(where, inside)
    assert labels.annotated(filled)[~inside].all()
