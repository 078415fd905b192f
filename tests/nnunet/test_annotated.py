"""Labels that a training split does not annotate are named before the training."""

from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.nnunet.annotated import never_annotated


class Cases:
    """As nnU-Net's data set, with the locations that its preprocessing keeps, and label maps."""

    def __init__(self, *locations, maps=()):
        self.locations, self.maps = dict(enumerate(locations)), maps
        self.identifiers = list(self.locations)

    def load_case(self, case):
        label_map = np.array(self.maps[case] if self.maps else [[0, 1, 2, 3]])
        return None, label_map, None, {"class_locations": self.locations[case]}


def test_a_label_counts_as_annotated_if_one_case_has_a_voxel_of_it():
    cases = Cases({1: [], 2: [[0, 1, 2, 3]]}, {1: [], 2: []})
    assert never_annotated(cases, {"background": 0, "left": 1, "right": 2, "ignore": 3}) == ["left"]


def test_regions_are_named_too():
    cases = Cases({(1, 2): [[0, 0, 0, 0]], (2,): [], 3: []})
    labels = {"background": 0, "whole": [1, 2], "core": [2], "spot": 3, "ignore": 4}
    assert never_annotated(cases, labels) == ["core", "spot"]


def test_a_label_may_be_a_list_of_one_which_is_a_region_only_beside_others():
    """nnU-Net's keys are plain numbers in a data set without regions."""
    cases = Cases({1: [[0, 1, 2, 3]], 2: []})
    assert never_annotated(cases, {"background": 0, "left": [1], "right": [2], "ignore": 3}) == ["right"]


def test_a_background_that_nobody_annotated_is_named():
    """nnU-Net does not store where the background is."""
    labels = {"background": 0, "left": 1, "right": 2, "ignore": 3}
    places = {1: [[0, 0, 0, 0]], 2: []}
    assert never_annotated(Cases(places, maps=[[[3, 1, 3]]]), labels) == ["background", "right"]
    assert never_annotated(Cases(places, maps=[[[3, 1, -1]]]), labels) == ["right"]  # a black voxel
    assert never_annotated(Cases(places, places, maps=[[[3, 1]], [[0, 3]]]), labels) == ["right"]
    regions = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    assert never_annotated(Cases({(1, 2): [[0]], (2,): [[0]]}, maps=[[[3, 1]]]), regions) == []


@pytest.mark.parametrize("present", [True, False])
def test_a_training_says_which_class_no_case_annotates(nnunet_folders, make_trainer, monkeypatch, present):
    nnunet_folders("ignore")
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind="ignore", configuration="2d")
    if not present:
        load = trainer.dataset_class.load_case

        def without_right(dataset, case):
            *rest, properties = load(dataset, case)
            properties["class_locations"][2] = []
            return (*rest, properties)

        monkeypatch.setattr(trainer.dataset_class, "load_case", without_right)
    trainer.on_train_start()
    warning = "WARNING: no training case of fold 0 annotates right, so it cannot be learned"
    assert (warning in Path(trainer.log_file).read_text()) != present
    # the gate of the CRF loss would wait for it for ever
    assert trainer.aux["confidence"].counted.tolist() == [True, True, present]
