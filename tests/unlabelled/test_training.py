"""nnU-Net's real loader with patches without labels: what they are, whose they are, and what is never read."""

import json
import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ext.catalogue import resolve
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.training.loader import landmark_loaders
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.nnunet.loaders import loaders_built_by
from nnunet_ext.nnunet.trainer import CommonTrainer
from nnunet_ext.unlabelled.loader import KEY, ImagesOnly, OutsideByImage
from nnunet_ext.unlabelled.preprocess import prepare_unlabelled
from tests import tiny
from tests.unlabelled.raw import labelled_image, write_image, write_images

TRAINERS = ["nnUNetTrainerMedContext", "nnUNetTrainerSelfTraining"]


def plans_with(**options):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"]["unlabelled"] = options
        settings["nnunet_ext"]["schedule"] = {"epochs": 2, "iterations": 2, "validation_iterations": 1}
    return plans


def write_folds(root, train, val):
    file = root / "preprocessed" / tiny.DATASET / "splits_final.json"
    file.write_text(json.dumps([{"train": train, "val": val}]))


def batch_of(trainer):
    trainer.on_train_start()
    return next(trainer.dataloader_train)


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def erase_masks(root, configuration, cases):
    """Make preprocessed cases such in which every voxel has the ignore label."""
    for case in cases:
        file = root / "preprocessed" / tiny.DATASET / f"nnUNetPlans_{configuration}" / case
        properties = pickle.loads(file.with_suffix(".pkl").read_bytes())
        properties["class_locations"] = {label: [] for label in properties["class_locations"]}
        file.with_suffix(".pkl").write_bytes(pickle.dumps(properties))
        segmentation = file.with_name(f"{case}_seg.b2nd")
        shape = blosc2.open(str(segmentation)).shape
        segmentation.unlink()
        blosc2.asarray(np.full(shape, 3, np.int8), urlpath=str(segmentation), mode="w")


@pytest.fixture
def few_shot(nnunet_folders):
    """A fold that trains on one case, validates with one, and leaves four, one of which is brighter than all others."""
    root = nnunet_folders()
    write_folds(root, ["tiny_0"], ["tiny_1"])
    return root


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("kind", tiny.LABELS)
def test_patches_of_the_folder_are_in_the_batch_beside_nnunets(nnunet_folders, make_trainer, configuration, kind):
    root = nnunet_folders(kind)
    write_images(root)
    prepare_unlabelled(901, configurations=[configuration], processes=1)
    trainer = make_trainer("nnUNetTrainerMedContext", kind=kind, configuration=configuration, plans=plans_with())
    batch = batch_of(trainer)
    assert batch[KEY].shape == batch["data"].shape
    assert batch[KEY].dtype == torch.float32
    assert batch[KEY].isfinite().all()
    assert set(batch["keys"]) <= {f"tiny_{number}" for number in range(4)}
    images = prepared(root, configuration)
    assert f"Images without labels: 3, of {images}" in log_of(trainer)
    assert "A batch has 2 patches without labels beside 2 labelled ones" in log_of(trainer)
    assert KEY not in next(trainer.dataloader_val)  # validation is nnU-Net's
    step = trainer.train_step(batch)
    assert np.isfinite(list(step.values())).all()
    assert "loss_unlabelled_consistency" in step


def prepared(root, configuration):
    return root / "preprocessed" / tiny.DATASET / "unlabelled" / f"nnUNetPlans_{configuration[:2]}"


@pytest.mark.parametrize(("proportion", "count"), [(0.1, 1), (1.0, 2), (1.5, 3), (4.0, 8)])
def test_the_proportion_of_patches_is_what_was_asked_for(few_shot, make_trainer, proportion, count):
    plans = plans_with(images="others-of-the-split", per_labelled=proportion)
    batch = batch_of(make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans))
    assert batch[KEY].shape == (count, 1, 16, 16)
    assert batch["data"].shape == (2, 1, 16, 16)


@pytest.mark.parametrize("name", TRAINERS)
def test_of_the_others_of_a_split_no_label_is_ever_opened(few_shot, make_trainer, name, monkeypatch):
    """With label files and locations that are gone; what validates is read by nnU-Net alone."""
    folder = few_shot / "preprocessed" / tiny.DATASET / "nnUNetPlans_2d"
    opened, loaded = [], []
    stock, load = blosc2.open, nnUNetDatasetBlosc2.load_case
    for case in ("tiny_2", "tiny_3", "tiny_4", "tiny_5"):
        (folder / f"{case}_seg.b2nd").unlink()
        (folder / f"{case}.pkl").write_bytes(b"")
    monkeypatch.setattr(
        blosc2, "open", lambda *a, **k: opened.append(Path(k.get("urlpath", a and a[0]))) or stock(*a, **k)
    )
    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", lambda self, case: loaded.append(case) or load(self, case))
    trainer = make_trainer(name, configuration="2d", plans=plans_with(images="others-of-the-split"))
    trainer.on_train_start()
    for _ in range(12):
        batch = next(trainer.dataloader_train)
        next(trainer.dataloader_val)
    assert "Images without labels: 4, the others of the split" in log_of(trainer)
    assert set(loaded) == {"tiny_0", "tiny_1"}
    images = {file.name for file in opened} - {"tiny_0.b2nd", "tiny_1.b2nd", "tiny_0_seg.b2nd", "tiny_1_seg.b2nd"}
    assert images == {f"tiny_{number}.b2nd" for number in (2, 3, 4, 5)}
    assert set(batch["keys"]) == {"tiny_0"}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("kind", ["ignore", "regions+ignore"])
def test_training_cases_without_masks_are_images_without_labels(nnunet_folders, make_trainer, name, kind):
    root = nnunet_folders(kind)
    write_folds(root, [f"tiny_{number}" for number in range(5)], ["tiny_5"])
    erase_masks(root, "2d", ["tiny_2", "tiny_3", "tiny_4", "tiny_5"])
    plans = plans_with(images="cases-without-masks")
    trainer = make_trainer(name, kind=kind, configuration="2d", plans=plans)
    batch = batch_of(trainer)
    assert sorted(trainer.unlabelled_pool().files) == ["tiny_2", "tiny_3", "tiny_4"]
    assert set(batch["keys"]) <= {"tiny_0", "tiny_1"}
    assert trainer.validated == {"tiny_5"}
    assert "Labelled cases: 2 of 5; in the others nothing is drawn" in log_of(trainer)
    assert "Images without labels: 3, training cases in which nothing is drawn" in log_of(trainer)
    trainer.current_epoch = 1
    assert np.isfinite(list(trainer.train_step(batch).values())).all()


def test_fold_all_uses_its_cases_without_masks_although_they_are_in_its_validation_set_too(
    nnunet_folders, make_trainer
):
    root = nnunet_folders("ignore")
    erase_masks(root, "2d", ["tiny_3", "tiny_4"])
    plans = plans_with(images="cases-without-masks")
    trainer = make_trainer("nnUNetTrainerMedContext", kind="ignore", configuration="2d", plans=plans)
    trainer.fold = "all"
    trainer.get_tr_and_val_datasets()
    assert sorted(trainer.unlabelled_pool().files) == ["tiny_3", "tiny_4"]
    assert trainer.validated == set()


def test_cases_without_masks_of_validation_subjects_leave_nothing(nnunet_folders, make_trainer):
    root = nnunet_folders("ignore")
    write_folds(root, ["tiny_0", "tiny_3"], ["tiny_5"])
    about = {"by": "subjects.csv", "subjects": {"tiny_0": "a", "tiny_3": "b", "tiny_5": "b"}, "folds": []}
    (root / "preprocessed" / tiny.DATASET / "splits_final.about.json").write_text(json.dumps(about))
    erase_masks(root, "2d", ["tiny_3"])
    trainer = make_trainer(
        "nnUNetTrainerMedContext", kind="ignore", configuration="2d", plans=plans_with(images="cases-without-masks")
    )
    trainer.get_tr_and_val_datasets()
    with pytest.raises(InputError, match="All 1 training cases without masks show subjects that validate fold 0"):
        trainer.unlabelled_pool()


def test_images_of_validation_subjects_are_drawn_only_if_the_user_says_so(few_shot, make_trainer):
    plans = plans_with(images="others-of-the-split", transductive=True)
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    trainer.on_train_start()
    assert sorted(trainer.unlabelled_pool().files) == [f"tiny_{number}" for number in range(1, 6)]
    assert "WARNING: transductive: 1 image (tiny_1) of them show validation subjects" in log_of(trainer)


def test_a_copy_of_a_validation_case_under_another_name_is_left_out_of_its_fold(nnunet_folders, make_trainer):
    root = nnunet_folders()
    place = write_images(root, ["new_0"])
    write_image(place / "copy_0000.nii.gz", labelled_image(root, "tiny_4"))
    prepare_unlabelled(901, configurations=["2d"], processes=1)
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    trainer.on_train_start()
    assert list(trainer.unlabelled_pool().files) == ["new_0"]
    assert "1 image (copy) left out, which show validation subjects" in log_of(trainer)


def test_nothing_else_of_the_folder_than_the_image_is_loaded(nnunet_folders):
    root = nnunet_folders()
    place = root / "preprocessed" / tiny.DATASET / "nnUNetPlans_2d"
    (place / "tiny_3_seg.b2nd").unlink()
    (place / "tiny_3.pkl").unlink()
    images = ImagesOnly({"tiny_3": place / "tiny_3"})
    image, labels, previous, properties = images.load_case("tiny_3")
    assert image.shape[1:] == labels.shape[1:]
    assert not labels.any()
    assert previous is None
    assert properties == {"class_locations": {}}
    assert pickle.loads(pickle.dumps(images)).identifiers == ["tiny_3"]  # as spawned workers need it


def test_outside_of_the_body_is_seen_by_its_zeros_and_stays_zero():
    seen = {}
    transforms = OutsideByImage(lambda **given: seen.update(given), [0])
    image = torch.ones(2, 4, 4)
    image[0, :2] = 0.0004
    image[1, 0, 0] = 0
    segmentation = torch.zeros(1, 4, 4, dtype=torch.int16)
    segmentation[0, 3, 3] = -1
    transforms(image, segmentation)
    expected = torch.zeros(1, 4, 4, dtype=torch.int16)
    expected[0, :2] = -1
    expected[0, 3, 3] = -1
    assert torch.equal(seen["segmentation"], expected)
    assert segmentation[0, 0, 0] == 0


def test_a_mask_of_the_normalisation_reaches_the_patches(few_shot, make_trainer):
    """nnU-Net sets what is outside of the body to 0 again after its augmentation."""
    plans = plans_with(images="others-of-the-split")
    plans["configurations"]["2d"]["use_mask_for_norm"] = [True]
    folder = few_shot / "preprocessed" / tiny.DATASET / "nnUNetPlans_2d"
    for case in ("tiny_2", "tiny_3", "tiny_4", "tiny_5"):
        file = folder / f"{case}.b2nd"
        array = blosc2.open(str(file))[:]
        array[:, :, :, :11] = 0
        file.unlink()
        blosc2.asarray(array, urlpath=str(file))
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    batches = [batch_of(trainer), *(next(trainer.dataloader_train) for _ in range(9))]
    zeros = torch.cat([(torch.as_tensor(batch[KEY]) == 0).float().flatten(1).mean(1) for batch in batches])
    assert zeros.min() > 0.15  # half of the patches have no zeros at all where the mask gets lost
    assert torch.stack([(batch["data"] == 0).float().mean() for batch in batches]).mean() < zeros.mean() / 2


def test_without_images_labelled_cases_alone_are_trained_on_and_it_is_said(nnunet_folders, make_trainer):
    nnunet_folders()
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    batch = batch_of(trainer)
    assert KEY not in batch
    assert "Images without labels: none, so labelled cases alone are trained on" in log_of(trainer)
    assert "loss_consistency" in trainer.train_step(batch)


def test_images_that_came_after_preprocessing_are_named(few_shot, make_trainer):
    write_images(few_shot)
    prepare_unlabelled(901, configurations=["2d"], processes=1)
    write_images(few_shot, ["later"])
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    assert KEY in batch_of(trainer)
    assert "WARNING: 1 of " in log_of(trainer)
    assert "such as later, are not preprocessed and not used" in log_of(trainer)


def test_a_hidden_file_is_no_image(few_shot, make_trainer):
    place = few_shot / "raw" / tiny.DATASET / "imagesUn"
    place.mkdir(parents=True)
    (place / ".DS_Store").touch()
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    assert KEY not in batch_of(trainer)


def test_the_second_stage_of_a_cascade_trains_on_labelled_cases_and_says_so(few_shot, make_trainer, monkeypatch):
    plans = plans_with()
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="3d_cascade_fullres", plans=plans)
    monkeypatch.setattr(CommonTrainer, "get_dataloaders", lambda self: "stock")
    assert trainer.get_dataloaders() == "stock"
    assert "so labelled cases alone are trained on" in log_of(trainer)


REFUSED = {
    "Images without labels are preprocessed in .*nnUNetPlans_3d, but not for this training; run: nnunet-ext unlabelled "
    "Dataset901_Tiny -p nnUNetPlans -c 2d --images .*elsewhere, or set": ("nnUNetTrainerMedContext", {}, "other data"),
    "labelled is whole, so only images without labels are masked, but there are none": (
        "nnUNetTrainerMedContext",
        {},
        "whole",
    ),
    "holds images without labels, but they are not preprocessed .* nnunet-ext unlabelled Dataset901_Tiny -p nnUNetPla"
    "ns -c 2d, or set the option unlabelled.images to none": ("nnUNetTrainerMedContext", {}, "raw"),
    "3 of 3 images in .*, such as new_0, were preprocessed for other plans than nnUNetPlans": (
        "nnUNetTrainerMedContext",
        {},
        "other plans",
    ),
    "All 1 images without labels in .* show subjects that validate fold 0; add others": (
        "nnUNetTrainerMedContext",
        {},
        "validating",
    ),
    "are in an old format without .b2nd files": (
        "nnUNetTrainerMedContext",
        {"images": "others-of-the-split"},
        "old format",
    ),
    "nnUNetTrainerSelfTraining learns from images without labels, but there are none": (
        "nnUNetTrainerSelfTraining",
        {},
        "none",
    ),
    "cases-without-masks, which needs .* but 1 of the 1 training cases of fold 0 have a mask": (
        "nnUNetTrainerMedContext",
        {"images": "cases-without-masks"},
        "all drawn",
    ),
    "leaves no case that neither trains nor validates": (
        "nnUNetTrainerSelfTraining",
        {"images": "others-of-the-split"},
        "all used",
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_trained_with_is_refused_in_one_sentence(few_shot, make_trainer, monkeypatch, sentence):
    name, options, case = REFUSED[sentence]
    plans = plans_with(**options)
    if case == "whole":
        plans["configurations"]["2d"]["nnunet_ext"]["medcontext"]["labelled"] = "whole"
    if case == "other data":
        write_images(few_shot).rename(few_shot / "elsewhere")
        prepare_unlabelled(901, configurations=["3d_fullres"], images=few_shot / "elsewhere", processes=1)
    if case in ("raw", "other plans"):
        write_images(few_shot)
    if case == "other plans":
        prepare_unlabelled(901, configurations=["2d"], processes=1)
        plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"]
    if case == "validating":
        place = few_shot / "raw" / tiny.DATASET / "imagesUn"
        write_image(place / "copy_0000.nii.gz", labelled_image(few_shot, "tiny_1"))
        prepare_unlabelled(901, configurations=["2d"], processes=1)
    if case == "old format":
        (few_shot / "preprocessed" / tiny.DATASET / "nnUNetPlans_2d" / "tiny_3.b2nd").unlink()
        cases = [f"tiny_{number}" for number in range(6)]
        monkeypatch.setattr(nnUNetDatasetBlosc2, "get_identifiers", staticmethod(lambda folder: list(cases)))
    if case == "all used":
        write_folds(few_shot, [f"tiny_{number}" for number in range(5)], ["tiny_5"])
    trainer = make_trainer(name, configuration="2d", plans=plans)
    with pytest.raises(InputError, match=sentence):
        trainer.on_train_start()


def test_a_cascade_has_no_previous_stage_of_such_images(few_shot, make_trainer):
    plans = plans_with(images="others-of-the-split")
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="3d_cascade_fullres", plans=plans)
    with pytest.raises(InputError, match="3d_cascade_fullres needs the prediction of the previous stage"):
        trainer.get_dataloaders()


def test_a_network_that_is_given_clicks_at_labels_has_none_where_there_are_no_labels(few_shot, make_trainer):
    wrapped = type("Wrapped", (MedContext, resolve("nnUNetTrainerS2VNet")), {})
    plans = plans_with(images="others-of-the-split")
    with pytest.raises(InputError, match=r"Wrapped gives its network more than the image, .* to none"):
        make_trainer(wrapped, configuration="2d", plans=plans).get_dataloaders()


def test_two_loaders_at_once_are_refused():
    with (
        pytest.raises(InputError, match=r"load data in a way of their own, one of them landmarks; .*unlabelled.images"),
        loaders_built_by(lambda: None, "images without labels"),
        landmark_loaders(),
    ):
        pass


@pytest.mark.parametrize("name", TRAINERS)
def test_a_whole_training_with_workers_is_stock_in_the_end(few_shot, make_trainer, name, monkeypatch):
    """Checkpoint and weights are nnU-Net's; two processes fill the batches."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = make_trainer(name, configuration="2d", plans=plans_with(images="others-of-the-split"))
    trainer.run_training()
    folder = Path(trainer.output_folder)
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    stock = make_trainer("nnUNetTrainerReference", configuration="2d")
    assert checkpoint["network_weights"].keys() == stock.network.state_dict().keys()
    term = "loss_unlabelled_consistency" if name == TRAINERS[0] else "loss_pseudo_segmentation"
    assert np.isfinite(checkpoint["logging"][term]).all()
    assert len(checkpoint["logging"][term]) == 2
