"""The toys of benchmarks/mechanisms give the known answer, and can fail."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.mechanisms import bridge, masked_crf, masked_student, propagation, touching
from benchmarks.mechanisms.__main__ import main, toys
from benchmarks.mechanisms.toy import Answer, table

PAGE = Path(__file__).parent.parent / "docs" / "mechanisms.md"


def test_every_toy_is_on_the_page():
    text = PAGE.read_text()
    assert toys()
    for name, module in toys().items():
        assert f"| [`{name}`](#{name}) |" in text
        assert f"## {name}\n" in text
        assert module.__doc__
    assert set(re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)) == set(toys())


def test_a_wrong_answer_is_the_exit_code_and_is_in_the_table(monkeypatch, capsys):
    right = Answer("2D", "Dice", {"without": 0.5, "with": 0.9}, "more", True)
    monkeypatch.setattr(masked_crf, "run", lambda: [right])
    assert main(["masked_crf"]) == 0
    assert "| masked_crf | 2D | Dice | without 0.500, with 0.900 | more | yes |" in capsys.readouterr().out
    assert "**no**" in table({"toy": [Answer("2D", "Dice", {"with": 0.1}, "more", False)]})
    monkeypatch.setattr(masked_crf, "run", lambda: [right, Answer("3D", "Dice", {"with": 0.1}, "more", False)])
    assert main(["masked_crf"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["unknown"])
    assert f"there is no toy unknown; there are {', '.join(toys())}" in capsys.readouterr().err


@pytest.mark.parametrize("dim", [2, 3])
def test_the_organ_of_the_crf_toy_is_annotated_in_a_third_of_its_voxels_and_never_wrongly(dim):
    for seed in range(5):
        image, labels, organ = masked_crf.case(dim, seed)
        assert (labels == 1)[organ].mean() == pytest.approx(masked_crf.CORE, abs=0.05)
        assert not (labels == 1)[~organ].any()
        assert not (labels == 0)[organ].any()
        assert (labels == 0).any()
        assert abs(image.mean()) < 1e-6
        inside, outside = image[organ], image[~organ]
        assert 1.8 < (inside.mean() - outside.mean()) / np.sqrt((inside.var() + outside.var()) / 2) < 2.8


@pytest.mark.slow
@pytest.mark.parametrize("name", toys())
def test_a_toy_has_the_known_answer(name):
    wrong = [answer for answer in toys()[name].run() if not answer.right]
    assert not wrong, table({name: wrong})


@pytest.mark.slow
def test_the_crf_toy_fails_without_the_crf_loss():
    arms = {"partial loss": "nnUNetTrainerReference", "without": "nnUNetTrainerReference"}
    assert not any(answer.right for answer in masked_crf.run(arms, (2,)))


@pytest.mark.slow
def test_the_bridge_toy_fails_with_the_whole_heatmap():
    answers = bridge.at_options({"sigma": 4.0}, (3, 6))
    assert not any(answer.right for answer in answers), table({"bridge": answers})


def test_the_smallest_loss_is_found_in_the_middle_of_all_places_that_have_it():
    assert bridge.smallest(lambda x: (x - 0.5) ** 2, -1.0, 2.0, 0.25) == pytest.approx(0.5)
    assert bridge.smallest(lambda x: max(0.0, abs(x) - 0.5), -1.0, 1.5, 0.25) == pytest.approx(0.0)


def test_the_signs_of_the_masked_student_toy_say_where_the_object_is_and_nothing_else_does():
    size, block = masked_student.SIZE, masked_student.BLOCK
    both, labels = masked_student.images(40, 0, bright=True, dark=True)
    nothing, same = masked_student.images(40, 0)
    is_left = labels[..., : size // 2].flatten(1).any(1)
    assert torch.equal(labels, same)
    assert 0.3 < is_left.float().mean() < 0.7
    assert (is_left != labels[..., size // 2 :].flatten(1).any(1)).all()
    signs = (both - nothing)[:, 0]
    for rows, value in ((slice(None, block), masked_student.BRIGHT), (slice(-block, None), masked_student.DARK)):
        side = signs[:, rows].sum(1)[:, : size // 2].sum(1) / (block**2 * value)
        assert torch.allclose(side, is_left.float(), atol=1e-4)
    assert not signs[:, block:-block].any()
    assert not labels[:, [*range(block), *range(size - block, size)]].any()
    discs = nothing[..., : size // 2].flatten(1).sum(1) > nothing[..., size // 2 :].flatten(1).sum(1)
    assert 0.3 < (discs == is_left).float().mean() < 0.7


@pytest.mark.slow
def test_the_masked_student_toy_fails_without_masks():
    arms = dict(list(masked_student.ARMS.items())[1:])
    answer = masked_student.run(arms, {"mask_ratio": 0.0})[0]
    assert not answer.right, table({"masked_student": [answer]})


def test_only_the_border_of_the_touching_toy_is_drawn_wrongly_and_by_no_more_than_the_jitter():
    moved = []
    for seed in range(20):
        _, labels, truth = touching.case(seed)
        assert np.array_equal(labels > 0, truth > 0)
        moved.append(np.count_nonzero(labels != truth) / np.count_nonzero(truth))
        across = ndimage.distance_transform_edt(truth != 2)[labels == 2]
        assert across.max(initial=0) <= 2 * touching.JITTER + 1
    assert 0.03 < np.mean(moved) < 0.15


@pytest.mark.slow
def test_the_touching_toy_fails_without_either_branch():
    arms = {"stock nnU-Net": ("nnUNetTrainerReference", {}), "without": ("nnUNetTrainerReference", {})}
    _, border, branches = touching.run(arms)
    assert not border.right
    assert not branches.right


def test_nothing_but_slice_0_tells_which_disc_of_the_propagation_toy_is_the_object():
    images, labels = propagation.volumes(40, 8, True, 0)
    left, right = images[..., : propagation.SIZE // 2], images[..., propagation.SIZE // 2 :]
    is_left = labels[..., : propagation.SIZE // 2].flatten(1).any(1)
    assert is_left.float().mean() == 0.5
    assert (is_left != labels[..., propagation.SIZE // 2 :].flatten(1).any(1)).all()
    brighter = (left.flatten(3).mean(3) > right.flatten(3).mean(3))[:, 0]
    assert torch.equal(brighter[:, 0], is_left)
    assert 0.4 < (brighter[:, 1:] == is_left[:, None]).float().mean() < 0.6
    silent, _ = propagation.volumes(40, 8, False, 0)
    assert torch.equal(silent[:, :, 1:], images[:, :, 1:])
    assert silent.max() < propagation.CUE < images.max()


@pytest.mark.slow
def test_the_propagation_toy_fails_if_what_travels_knows_no_place():
    answers = propagation.run({"position": False, "mask_memory": False})
    assert not any(answer.right for answer in answers), table({"propagation": answers})
