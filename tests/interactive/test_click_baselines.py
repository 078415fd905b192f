"""The methods without training that clicks are compared with: the cut is the cheapest, and the whole script runs."""

import itertools
import json

import numpy as np
import pytest
import torch

from benchmarks import click_baselines
from tests import tiny
from tests.s2vnet.test_predictor import trained  # noqa: F401


@pytest.mark.parametrize("shape", [(2, 2, 3), (3, 4)], ids=["3D", "2D"])
def test_the_cut_costs_least_of_all_cuts(shape):
    rng = np.random.default_rng(len(shape))
    costs, image, spacing = rng.random((2, *shape)), rng.random(shape), rng.uniform(1, 3, len(shape))

    def price(inside):
        total = costs[0][inside].sum() + costs[1][~inside].sum()
        for axis, mm in enumerate(spacing):
            steps = np.exp(-(np.diff(image, axis=axis) ** 2) / (2 * 0.3**2))
            total += (0.4 * spacing.min() / mm * steps * (np.diff(inside.astype(int), axis=axis) != 0)).sum()
        return total

    found = click_baselines.cut(costs, image, 0.4, 0.3, spacing)
    every = (np.array(sides).reshape(shape) for sides in itertools.product([False, True], repeat=image.size))
    # capacities are rounded to a thousandth
    assert price(found) <= min(map(price, every)) + 0.001 * (2 * image.size + len(shape) * image.size)


def test_a_cut_follows_the_edge_of_the_image():
    image = np.zeros((1, 9, 9))
    image[:, :, 5:] = 1
    costs = np.full((2, 1, 9, 9), 0.5)
    costs[0, 0, 4, 8] = costs[1, 0, 4, 0] = 100.0
    found = click_baselines.cut(costs, image, 1.0, 0.1, (1.0, 1.0, 1.0))
    assert (found == (image == 0)).all()


def test_every_way_obeys_each_click_and_is_reported(trained, tmp_path, capsys):  # noqa: F811
    _, model, root = trained()
    raw = root / "raw" / tiny.DATASET
    images, labels = ["--images", str(raw / "imagesTr")], ["--labels", str(raw / "labelsTr")]
    options = ["--clicks", "2", "--reach-mm", "4", "--threads", str(torch.get_num_threads())]
    arguments = [str(model), *images, *labels, *options]
    with pytest.raises(SystemExit):
        click_baselines.main(arguments)
    assert "has no predictions in fold_0/validation" in capsys.readouterr().err
    assert click_baselines.main([*arguments, "--cases", "tiny_0", "--out", str(tmp_path)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " % | " in line]
    assert [row[0].strip("| ") for row in rows] == list(click_baselines.WAYS)
    assert {row[4] for row in rows} == {"100 %"}
    assert len({row[1] for row in rows}) == 1  # all begin with the same result
    for way in click_baselines.WAYS:
        folder = tmp_path / way.replace(" ", "_")
        assert {file.name for file in folder.iterdir()} == {"clicks.csv", "clicks.json", "clicks.png", "options.json"}
        assert json.loads((folder / "options.json").read_text())["reach_mm"] == 4


def test_a_ball_leaves_the_rest_of_the_volume_alone(trained):  # noqa: F811
    _, model, root = trained()
    file = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_0_0000.nii.gz"
    for session in (click_baselines.RandomWalker(130.0, reach_mm=3), click_baselines.GraphCut(1.0, 0.2, reach_mm=3)):
        session.initialize_from_trained_model_folder(model)
        session.set_image_from_files([file])
        session.predict_automatic()
        before = session.target_buffer.copy()
        place = tuple(size // 2 for size in before.shape)
        label = (int(before[place]) + 1) % len(session.labels)
        session.add_point_interaction(place, label=label)
        assert session.target_buffer[place] == label
        far = np.moveaxis(np.indices(before.shape), 0, -1) - place
        far = np.linalg.norm(far * session.case.properties["spacing"], axis=-1) > 3
        assert (session.target_buffer[far] == before[far]).all()
