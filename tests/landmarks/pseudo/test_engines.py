"""Engines: the random walker on shapes, and the adapters on stand-ins for what cannot be installed here."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.pseudo import random_walker
from nnunet_ext.landmarks.pseudo.engines import OrganEngine, load_engine, runs_in_parallel, slice_by_slice
from nnunet_ext.landmarks.pseudo.random_walker import random_walker_mask
from nnunet_ext.viewer.demo import LABELS, MODEL, SEED, SLICES, SPACING_MM, phantom


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def ball(shape, spacing, centre, radius, noise=0.1):
    """A bright ball; centre and radius in mm. Image and mask."""
    places = (np.indices(shape).T * spacing).T
    mask = np.linalg.norm((places.T - np.array(centre)).T, axis=0) <= radius
    image = 100 * mask + 20 + 100 * noise * np.random.default_rng(0).normal(size=shape)
    return image.astype(np.float32), mask


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((30, 32, 34), (1.0, 1.0, 1.0)), ((10, 32, 34), (3.0, 1.0, 1.0)), ((1, 32, 34), (1.0, 1.0, 1.0))],
)
def test_the_random_walker_finds_a_ball_from_points_on_its_axes(shape, spacing):
    centre = (0.0 if shape[0] == 1 else 15.0, 15.0, 17.0)
    image, mask = ball(shape, spacing, centre, 9.0)
    along = np.array([-0.3, -0.15, 1.15, 1.3]) * 18 - 9
    middle = np.array([(0, t, 0) for t in (-3, 3)] + [(0, 0, t) for t in (-3, 3)])
    beyond = np.array([(0, t, 0) for t in along] + [(0, 0, t) for t in along])
    foreground, background = ((np.array(centre) + p) / spacing for p in (middle, beyond))
    found = random_walker_mask(image, spacing, foreground, background)
    assert found.dtype == bool
    assert dice(found, mask) > 0.93
    assert np.array_equal(found, random_walker_mask(image, spacing, foreground, background))


def test_a_large_box_is_solved_on_a_coarser_grid(monkeypatch):
    image, mask = ball((30, 32, 34), (1.0, 1.0, 1.0), (15, 15, 17), 9.0)
    monkeypatch.setattr(random_walker, "LARGEST_BOX", 5000)
    foreground = np.array([(15.0, 12, 17), (15, 18, 17)])
    background = np.array([(15.0, 3, 17), (15, 27, 17), (15, 15, 5), (15, 15, 29)])
    found = random_walker_mask(image, (1, 1, 1), foreground, background)
    assert found.shape == mask.shape
    assert dice(found, mask) > 0.9


def test_the_random_walker_survives_an_image_without_edges_and_prompts_without_background():
    middle = np.array([(4.0, 4, 4), (4, 4, 6)])
    assert not random_walker_mask(np.full((8, 9, 10), 7.0), (1, 1, 1), middle, np.zeros((0, 3))).any()
    image, _ = ball((8, 9, 10), (1.0, 1.0, 1.0), (4, 4, 5), 3.0)
    found = random_walker_mask(image, (1, 1, 1), middle, np.zeros((0, 3)))
    assert found[4, 4, 4]
    assert found[4, 4, 6]
    corners = np.array([(0.0, 0, 0), (0, 1, 1)])
    tiny = random_walker_mask(np.arange(4.0).reshape(1, 2, 2), (1, 1, 1), corners, np.zeros((0, 3)))
    assert tiny.tolist() == [[[True, False], [False, True]]]  # no voxel is background: only what was said


def everywhere(image, spacing_mm, foreground, background):
    return np.ones(image.shape, bool)


def test_engines_by_name():
    assert load_engine("random-walker") is random_walker_mask
    assert load_engine(f"{__name__}:everywhere") is everywhere
    assert runs_in_parallel("random-walker")
    assert not any(runs_in_parallel(name) for name in ("nninteractive", "sam", f"{__name__}:everywhere"))
    for wrong, said in (
        ("magic", "There is no engine 'magic'; there are random-walker, s2vnet, nninteractive, sam"),
        (":everywhere", "There is no engine ':everywhere'"),
        ("nobody:wrote", "cannot be imported"),
        (f"{__name__}:missing", "cannot be imported"),
    ):
        with pytest.raises(InputError, match=said):
            load_engine(wrong)
    with pytest.raises(InputError, match="random-walker has no model"):
        load_engine("random-walker", "weights")
    with pytest.raises(InputError, match=r"--model is weights, but the engine .* loads its weights itself"):
        load_engine(f"{__name__}:everywhere", "weights")


@pytest.mark.parametrize("name", ["nninteractive", "sam"])
def test_an_engine_that_is_not_installed_says_how_to_install_it(name, monkeypatch):
    for module in ("nnInteractive", "segment_anything"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"The engine {name} needs .*: pip install"):
        load_engine(name, "weights")


class Session:
    """nnInteractive's session, as its README describes it: every point grows the mask by a cube, or cuts one out."""

    def __init__(self, **settings):
        self.settings = settings

    def initialize_from_trained_model_folder(self, folder):
        self.folder = folder

    def set_image(self, image):
        assert image.ndim == 4
        self.image = image

    def set_target_buffer(self, buffer):
        assert buffer.shape == self.image.shape[1:]
        self.buffer = buffer

    def reset_interactions(self):
        self.buffer.zero_()

    def add_point_interaction(self, point, include_interaction):
        assert all(isinstance(x, int) for x in point)
        z, y, x = point
        self.buffer[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = int(include_interaction)


def test_nninteractive_is_given_points_one_after_the_other(monkeypatch, tmp_path):
    module = ModuleType("nnInteractive.inference.inference_session")
    module.nnInteractiveInferenceSession = Session
    for name in ("nnInteractive", "nnInteractive.inference"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    engine = load_engine("nninteractive", str(tmp_path))
    image = np.zeros((10, 11, 12), np.float32)
    inner, outer = np.array([(4.2, 5, 6), (6, 5, 6)]), np.array([(8.0, 5, 6)])
    for _ in range(2):  # the second image starts from nothing
        mask = engine(image, (1, 1, 1), inner, outer)
        assert mask.dtype == bool
        assert mask[3:7, 4:7, 5:8].all()
        assert mask.sum() == 4 * 9
    with pytest.raises(InputError, match="needs the folder of its weights"):
        load_engine("nninteractive", str(tmp_path / "nothing"))


class Predictor:
    """SAM's predictor, for bright disks: the bright pixels of the disk of the first point, if it is on one."""

    def __init__(self, model=None):
        self.seen = []

    def set_image(self, image):
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        self.image = image

    def predict(self, point_coords, point_labels, multimask_output):
        self.seen.append((point_coords.tolist(), point_labels.tolist()))
        x, y = np.rint(point_coords[0]).astype(int)
        bright = self.image[..., 0] > 128
        return (bright & bright[y, x])[None], np.ones(1), None


def test_sam_goes_from_slice_to_slice_until_the_organ_ends():
    image, mask = ball((30, 30, 12), (1.0, 1.0, 2.0), (15, 14, 12), 8.0, noise=0)
    predictor = Predictor()
    inner, outer = np.array([(15.0, 14, 6), (17, 14, 6)]), np.array([(2.0, 3, 6), (2, 2, 1)])
    found = slice_by_slice(predictor, image, (1, 1, 2), inner, outer)
    assert dice(found, mask) > 0.95  # where the disk shrinks to less than half, at its poles, it stops
    assert not (found & ~mask).any()
    # the third axis is the coarsest; points are (x, y) in the other two, only those of the slice
    assert predictor.seen[0] == ([[14, 15], [14, 17], [3, 2]], [1, 1, 0])


def test_sam_is_loaded_by_the_name_of_its_checkpoint(monkeypatch, tmp_path):
    module = ModuleType("segment_anything")
    made = []
    network = SimpleNamespace(to=lambda device: network)
    module.sam_model_registry = {"vit_b": lambda checkpoint: made.append(checkpoint) or network}
    module.SamPredictor = Predictor
    monkeypatch.setitem(sys.modules, "segment_anything", module)
    checkpoint = tmp_path / "medsam_vit_b.pth"
    for wrong in (None, str(checkpoint), __file__):
        with pytest.raises(InputError, match="sam needs a checkpoint file with vit_b"):
            load_engine("sam", wrong)
    checkpoint.touch()
    image, mask = ball((12, 30, 30), (2.0, 1.0, 1.0), (12, 15, 14), 8.0, noise=0)
    found = load_engine("sam", str(checkpoint))(image, (2, 1, 1), np.array([(6.0, 15, 14)]), np.zeros((0, 3)))
    assert made == [str(checkpoint)]
    assert dice(found, mask) > 0.95


# --- a model of our own ----------------------------------------------------------------------------------------------


def test_s2vnet_segments_the_organ_that_prompts_are_about():
    image, labels = phantom(np.random.default_rng(SEED), SLICES, LABELS["tumour"])
    channels, lesion = image[None], labels == LABELS["tumour"]
    places = np.argwhere(lesion).astype(float)
    middle = places.mean(0)
    inside = middle + np.array([(-2.0, 0, 0), (2, 0, 0)])
    outside = middle + np.array([(0, 14.0, 0), (0, 0, 14)])
    engines = load_engine("s2vnet", str(MODEL))
    assert isinstance(engines, OrganEngine)
    tumour, organ = (engines.of_organ(name, channels) for name in ("tumour", "organ"))
    found = tumour(image, SPACING_MM, inside, outside)
    assert found.dtype == bool
    assert found.shape == image.shape
    assert dice(found, lesion) > 0.8
    # the image does not say that it is no cyst, so the model alone finds no tumour
    engines.session.predict_automatic()
    assert not (engines.session.target_buffer == LABELS["tumour"]).any()
    assert dice(organ(image, SPACING_MM, outside[:1], inside[:0]), labels == LABELS["organ"]) > 0.9
    assert np.array_equal(tumour(image, SPACING_MM, inside, outside), found)  # prompts of one organ are not kept


def test_s2vnet_names_what_is_missing(tmp_path):
    engines = load_engine("s2vnet", str(MODEL))
    with pytest.raises(InputError, match="segments organ, cyst, tumour, vessel, but the landmarks mark femur"):
        engines.of_organ("femur", np.zeros((1, 4, 4, 4)))
    for model in (None, str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match="s2vnet needs the folder of a model that nnUNetTrainerS2VNet trained"):
            load_engine("s2vnet", model)
