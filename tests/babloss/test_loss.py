"""Both directions of the bridge against their definition on whole volumes, and what they pull where."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_ext.babloss.boundary_distance import boundary_distance, radius_steps, reach
from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.heatmaps import balls
from nnunet_ext.landmarks.points import State
from tests.babloss.balls import ball, distances

ORGANS = [[(1,)], [(1,), (2, 3)], [], [(2, 3)]]
REGIONS = [[(1,)], [(1,), (2,)], [], [(3,)]]
CASES = [((13, 12), (1.0, 1.0)), ((9, 14), (2.0, 1.0)), ((9, 8, 10), (1.0, 1.0, 1.0)), ((6, 9, 10), (2.5, 1.0, 1.2))]
SETTINGS = {"levels": 3, "sigma": 1.0, "heatmap_sigma": 2.0}


def smooth(batch, channels, shape, seed):
    """Random logits with regions of a few voxels, as those of a network."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)
    return 9 * torch.as_tensor(ndimage.gaussian_filter(noise.numpy(), (0, 0, *[1.5] * len(shape))))


def sample(shape, seed=0, batch=2):
    """Logits, points of which some are outside or at the edge, states and use."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(shape, dtype=torch.float64)
    points = torch.rand(batch, 4, len(shape), generator=generator, dtype=torch.float64) * (size + 1) - 1
    points[0, :2] = torch.rand(2, len(shape), generator=generator, dtype=torch.float64) * (size - 3) + 1
    states = torch.randint(-1, 2, (batch, 4), generator=generator, dtype=torch.int8)
    use = torch.rand(batch, 4, 2, generator=generator) < 0.8
    states[0, :2], use[0, :2, 0] = State.PRESENT, True
    points[states != State.PRESENT] = math.nan
    return smooth(batch, 4, shape, seed), points, states, use


def mean_of_means(samples):
    """Terms by sample and landmark → their mean and number."""
    count = sum(len(terms) for landmarks in samples for terms in landmarks)
    samples = [[sum(terms) / len(terms) for terms in landmarks if terms] for landmarks in samples]
    means = [sum(landmarks) / len(landmarks) for landmarks in samples if landmarks]
    return (sum(means) / len(means) if means else 0.0), count


def box_around(centre, radius, shape):
    return tuple(slice(max(0, c - r), min(n, c + r + 1)) for c, r, n in zip(centre, radius, shape, strict=True))


def direction_a(logits, points, states, use, organs, spacing, similarity, exclusive):
    steps = radius_steps(SETTINGS["levels"], spacing)
    probabilities, shape = logits.softmax(1) if exclusive else logits.sigmoid(), logits.shape[2:]
    sigma = [max(min(spacing) / mm, 1 / 3) for mm in spacing]
    samples = []
    for b in range(len(logits)):
        samples.append([])
        for k, of_landmark in enumerate(organs):
            x = points[b, k].tolist()
            if states[b, k] != State.PRESENT or not all(1 <= c <= n - 2 for c, n in zip(x, shape, strict=True)):
                continue
            squares = sum(
                ((torch.arange(n).double() - c) / s).square().view([-1 if a == axis else 1 for a in range(len(shape))])
                for axis, (n, c, s) in enumerate(zip(shape, x, sigma, strict=True))
            )
            gaussian = torch.exp(-squares / 2) * (squares <= 9)
            radius = [math.floor(3 * s + 0.5) for s in sigma]
            window = box_around([round(c) for c in x], radius, shape)
            radius = [r + far for r, far in zip(radius, reach(steps), strict=True)]
            box = box_around([round(c) for c in x], radius, shape)
            terms = []
            for organ in itertools.compress(of_landmark, use[b, k]):
                p = probabilities[b, list(organ)].sum(0)
                if (p[box] > 0.5).any() and (p[box] < 0.5).any():
                    d = boundary_distance(p, steps)
                    norm = gaussian.sum() if similarity == "expectation" else gaussian.norm() * d[window].norm()
                    terms.append(1 - ((gaussian * d).sum() / norm).item())
            samples[-1].append(terms)
    return mean_of_means(samples)


def direction_b(heat, one_hot, annotated, states, use, organs, spacing):
    steps, shape = radius_steps(SETTINGS["levels"], spacing), heat.shape[2:]
    radius = [math.ceil(3 * max(min(spacing) / mm, 1 / 3)) for mm in spacing]
    far = [r + more for r, more in zip(radius, reach(steps), strict=True)]
    samples = []
    for b in range(len(heat)):
        samples.append([])
        for k, of_landmark in enumerate(organs):
            h = heat[b, k].sigmoid()
            peak = [int(i) for i in torch.unravel_index(h.argmax(), shape)]
            if (
                states[b, k] != State.UNKNOWN
                or h.max() < 0.3
                or not all(1 <= c <= n - 2 for c, n in zip(peak, shape, strict=True))
            ):
                continue
            if not annotated[b, 0][box_around(peak, far, shape)].all():
                continue
            box = box_around(peak, radius, shape)
            terms = []
            for organ in itertools.compress(of_landmark, use[b, k]):
                y = one_hot[b, list(organ)].sum(0)
                if y.any():
                    d = boundary_distance(y.double(), steps)
                    terms.append(1 - ((h[box] ** 4 * d[box]).sum() / (h[box] ** 4).sum()).item())
            samples[-1].append(terms)
    return mean_of_means(samples)


def sample_b(shape, seed=0):
    """Logits of 4 landmarks, labels of 4 classes, a corner that is ignored, states and use."""
    heat = smooth(2, 4, shape, seed) * 2
    for axis, n in enumerate(shape, start=2):  # a random peak is at the edge more often than not: that of the last only
        heat[:, :3].index_fill_(axis, torch.tensor([0, n - 1]), -9.0)
    labels = smooth(2, 4, shape, seed + 1).argmax(1)
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    annotated = torch.ones(2, 1, *shape, dtype=torch.bool)
    annotated[(0, 0, *[slice(0, 3)] * len(shape))] = False
    one_hot = one_hot * annotated
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(-1, 1, (2, 4), generator=generator, dtype=torch.int8)
    states[1] = State.UNKNOWN
    return heat, one_hot, annotated, states, torch.rand(2, 4, 2, generator=generator) < 0.9


@pytest.mark.parametrize("similarity", ["expectation", "cosine"])
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_direction_a_equals_its_definition_on_whole_volumes(shape, spacing, exclusive, similarity):
    organs = ORGANS if exclusive else REGIONS
    loss, counts = BridgeLoss(organs, spacing, similarity=similarity, exclusive=exclusive, **SETTINGS), set()
    for seed in range(8):
        given_ = sample(shape, seed)
        expected, count = direction_a(*given_, organs, spacing, similarity, exclusive)
        found = loss.landmark_pulls_boundary(*given_)
        assert found.active == count
        assert found.loss.item() == pytest.approx(expected, abs=1e-12)
        counts.add(count)
    assert len(counts) > 1  # the gates make a difference


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_direction_b_equals_its_definition_on_whole_volumes(shape, spacing, exclusive):
    organs = ORGANS if exclusive else REGIONS
    loss, counts = BridgeLoss(organs, spacing, exclusive=exclusive, **SETTINGS), set()
    shape = (*shape[:-1], 2 * shape[-1])  # some windows are away from what is ignored
    for seed in range(8):
        given_ = sample_b(shape, seed)
        expected, count = direction_b(*given_, organs, spacing)
        found = loss.boundary_pulls_landmark(*given_)
        assert found.active == count
        assert found.loss.item() == pytest.approx(expected, abs=1e-12)
        counts.add(count)
    assert len(counts) > 2


def test_organs_with_are_those_whose_channels_are_all_among_the_given():
    loss = BridgeLoss(ORGANS, (1.0, 1.0))
    channels = torch.tensor([[True, True, False, True], [False, False, True, True]])
    assert loss.organs_with(channels).tolist() == [
        [[True, False], [True, False], [False, False], [False, False]],
        [[False, False], [False, True], [False, False], [True, False]],
    ]


# --- direction A: where the boundary goes -----------------------------------------------------------------------------


def pull_on_radius(radius, landmark, shape, spacing, **options):
    """Loss and its derivative by the radius of a ball in the middle, for a landmark on the last axis, all in mm."""
    centre = [(n - 1) / 2 for n in shape]
    point = torch.tensor([[[*centre[:-1], centre[-1] + landmark / spacing[-1]]]], dtype=torch.float64)
    r = torch.tensor(float(radius), dtype=torch.float64, requires_grad=True)
    loss = BridgeLoss([[(1,)]], spacing, **options)
    found = loss.landmark_pulls_boundary(
        ball(distances(shape, centre, spacing), r), point, torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
    )
    assert found.active == 1
    return found.loss.item(), torch.autograd.grad(found.loss, r)[0].item()


@pytest.mark.parametrize(
    ("radius", "expected"), [(6, -0.105), (9, -0.089), (11, -0.038), (12, -0.007), (14, 0.047), (17, 0.078)]
)
def test_the_pull_on_a_sphere_at_eleven_and_a_half_voxels(radius, expected):
    # the specification's values, there with a landmark at 11.5 from a centre on a voxel
    shape = (41, 41, 49)
    _, pull = pull_on_radius(radius, 11.5, shape, (1.0, 1.0, 1.0), sigma=2.0)
    assert pull == pytest.approx(expected, abs=2e-3)
    _, by_cosine = pull_on_radius(radius, 11.5, shape, (1.0, 1.0, 1.0), sigma=2.0, similarity="cosine")
    assert abs(by_cosine) < abs(pull) or radius == 12
    assert by_cosine * expected > 0 or radius == 12  # it turns between 11 and 12


@pytest.mark.parametrize("similarity", ["expectation", "cosine"])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((31, 41), (1.0, 1.0)), ((15, 41), (2.0, 1.0)), ((25, 25, 33), (1.0, 1.0, 1.0)), ((11, 25, 33), (2.5, 1.0, 1.0))],
)
def test_an_organ_that_is_too_small_grows_and_one_that_is_too_large_shrinks(shape, spacing, similarity):
    options = {"similarity": similarity} | ({"sigma": 2.0} if similarity == "cosine" else {})
    small, large = ((pull_on_radius(r, 9.0, shape, spacing, **options)) for r in (5, 13))
    assert small[1] < -0.01
    assert large[1] > 0.01
    best = min(range(4, 15), key=lambda r: pull_on_radius(r, 9.0, shape, spacing, **options)[0])
    assert best in (8, 9, 10)


@pytest.mark.parametrize(("radius", "too_large"), [(2, 0.4), (3, 0.3), (4, 0.25), (6, 0.2), (10, 0.2)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_by_default_the_best_ball_has_the_size_that_the_landmark_says(radius, too_large, spacing):
    shape, found = [round(21 / mm) | 1 for mm in spacing], []
    for shift in (0.0, 0.25, 0.5):  # of the landmark against the voxels
        point = [(n - 1) / 2 for n in shape]
        point[-1] += shift
        distance = distances(shape, [*point[:-1], point[-1] - radius], spacing)
        yes = torch.ones(1, 1, dtype=torch.bool)
        where = torch.tensor([[point]], dtype=torch.float64)
        loss = BridgeLoss([[(1,)]], spacing)
        radii = [radius + step / 10 for step in range(-8, 9)]
        # an edge that is half a voxel wide
        losses = [loss.landmark_pulls_boundary(4 * ball(distance, r), where, yes, yes).loss.item() for r in radii]
        found.append(radii[losses.index(min(losses))] - radius)
    assert -0.1 <= sum(found) / len(found) <= too_large + (0.1 if spacing[0] > 1 else 0)


def test_free_voxels_bring_the_surface_to_a_landmark_outside_in_one_piece():
    shape, landmark = (15, 15, 21), torch.tensor([[[7.0, 7.0, 14.0]]])
    logits = ball(distances(shape, (7, 7, 7)), 4.0).float().requires_grad_()
    loss, yes = BridgeLoss([[(1,)]], (1.0, 1.0, 1.0)), torch.ones(1, 1, dtype=torch.bool)
    optimizer = torch.optim.SGD([logits], lr=30.0)

    def surface():
        """How far the organ reaches on the way to the landmark."""
        return int((logits[0, 1] > logits[0, 0])[7, 7].nonzero().max())

    assert surface() == 10  # at 11 both are equal
    first = None
    for _ in range(30):
        optimizer.zero_grad()
        value = loss.landmark_pulls_boundary(logits, landmark, yes, yes).loss
        first = first or value.item()
        value.backward()
        optimizer.step()
    assert value.item() < 0.7 * first
    assert 13 <= surface() <= 15
    assert ndimage.label((logits[0, 1] > logits[0, 0]).numpy())[1] == 1


def test_far_from_the_landmark_nothing_is_pulled():
    logits, points, states, use = sample((30, 31), seed=3, batch=1)
    points[0, 0], states[0, :], use[0, :] = torch.tensor([6.0, 7.0], dtype=torch.float64), State.ABSENT, True
    states[0, 0] = State.PRESENT
    logits.requires_grad_()
    found = BridgeLoss(ORGANS, (1.0, 1.0), **SETTINGS).landmark_pulls_boundary(logits, points, states, use)
    assert found.active == 1
    found.loss.backward()
    reached = logits.grad.abs().sum((0, 1)).nonzero()
    assert (reached - torch.tensor([6, 7])).abs().max() <= 3 + 3  # three sigmas and three levels


# --- direction B: where the landmark goes -----------------------------------------------------------------------------


def ball_labels(shape, radius, spacing=None):
    inside = distances(shape, [(n - 1) / 2 for n in shape], spacing) <= radius
    return torch.stack([~inside, inside])[None].float()


def blob(shape, point, sigma=2.0, spacing=None):
    """A heatmap as a network predicts it, ``(1, 1, *shape)``; logits of a Gaussian over a floor of 0.001."""
    return torch.logit(0.001 + 0.95 * torch.exp(-(distances(shape, point, spacing) ** 2) / (2 * sigma**2)))[None, None]


def bridge_b(heat, labels, shape, annotated=None, state=State.UNKNOWN, **options):
    annotated = torch.ones(1, 1, *shape, dtype=torch.bool) if annotated is None else annotated
    loss = BridgeLoss([[(1,)]], options.pop("spacing", (1.0,) * len(shape)), **{"heatmap_sigma": 2.0, **options})
    return loss.boundary_pulls_landmark(heat, labels, annotated, torch.tensor([[state]]), torch.tensor([[True]]))


@pytest.mark.parametrize("shape", [(31, 31), (25, 25, 31)])
def test_a_landmark_moves_to_the_surface_from_both_sides(shape):
    centre = [(n - 1) / 2 for n in shape]
    losses = {}
    for at in (4, 6, 8, 10, 12):
        x = torch.tensor(centre[-1] + at, dtype=torch.float64, requires_grad=True)
        heat = blob(shape, [*centre[:-1], x])
        found = bridge_b(heat, ball_labels(shape, 8.5), shape)
        assert found.active == 1
        losses[at] = found.loss.item()
        (pull,) = torch.autograd.grad(found.loss, x)
        assert at == 8 or bool(pull < 0) is (at < 8), at
    assert min(losses, key=losses.get) in (8, 10)


@pytest.mark.parametrize("radius", [3, 4, 6, 10, 16])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_by_default_the_best_landmark_is_on_the_surface(radius, spacing):
    shape = [*(round(25 / mm) | 1 for mm in spacing[:-1]), 2 * radius + 25]
    centre = [(n - 1) / 2 for n in shape]
    centre[-1] = radius + 6.0
    inside = distances(shape, centre, spacing) <= radius
    labels, losses = torch.stack([~inside, inside])[None].float(), {}
    for step in range(4 * radius + 20):
        at = step / 4
        heat = blob(shape, [*centre[:-1], centre[-1] + at], 4.0, spacing)
        found = bridge_b(heat, labels, shape, heatmap_sigma=4.0, spacing=spacing)
        assert found.active == 1
        losses[at] = found.loss.item()
    best = [at for at, value in losses.items() if value <= min(losses.values()) + 1e-9]
    assert abs(sum(best) / len(best) - (radius + 0.5)) <= 0.5  # the last voxel of the ball ends there


@pytest.mark.parametrize("radius", [4, 10])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_best_place_of_a_heatmap_that_was_taught_a_ball_is_on_the_surface_too(radius, dim):
    shape, centre = [25] * (dim - 1) + [2 * radius + 25], [12.0] * (dim - 1) + [radius + 6.0]
    inside, losses = distances(shape, centre) <= radius, {}
    for step in range(4 * radius + 20):
        point = torch.tensor([[[*centre[:-1], centre[-1] + step / 4]]], dtype=torch.float64)
        heat = torch.logit(0.001 + 0.95 * balls(point, torch.ones(1, 1), shape, [15.0] * dim))
        found = bridge_b(heat, torch.stack([~inside, inside])[None].float(), shape, heatmap_sigma=4.0)
        assert found.active == 1
        losses[step / 4] = found.loss.item()
    best = [at for at, value in losses.items() if value <= min(losses.values()) + 1e-9]
    assert abs(sum(best) / len(best) - (radius + 0.5)) <= 0.5


def test_it_does_not_ask_for_the_whole_surface():
    # a cosine would: the heatmap that is most alike to the map of a surface is that map
    shape = (31, 31, 31)
    labels = ball_labels(shape, 9.0)
    shell = torch.logit(boundary_distance(labels[0, 1].double(), radius_steps(8, (1.0,) * 3)).clamp(0.001, 0.95))
    point = bridge_b(blob(shape, (15, 15, 24.5)), labels, shape)
    everywhere = bridge_b(shell[None, None], labels, shape)
    assert everywhere.active == 1
    assert everywhere.loss.item() > point.loss.item() - 0.05


def test_only_the_landmark_learns_from_the_surface_and_only_the_organ_from_the_landmark():
    shape = (20, 20)
    heat, labels = blob(shape, (10, 14)).requires_grad_(), ball_labels(shape, 6.0).requires_grad_()
    bridge_b(heat, labels, shape).loss.backward()
    assert heat.grad.any()
    assert labels.grad is None
    logits, point = ball(distances(shape, (10, 10)), 4.0).requires_grad_(), torch.tensor([[[10.0, 15.0]]])
    point.requires_grad_()
    yes = torch.ones(1, 1, dtype=torch.bool)
    BridgeLoss([[(1,)]], (1.0, 1.0)).landmark_pulls_boundary(logits, point, yes, yes).loss.backward()
    assert logits.grad.any()
    assert point.grad is None


# --- what does not take part ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [(10.0, 0.9), (10.0, 18.1), (-4.0, 10.0), (10.0, 400.0), (math.nan, math.nan)])
def test_landmarks_at_the_edge_of_the_patch_or_beyond_do_not_pull(point):
    logits, yes = ball(distances((20, 20), (10, 10)), 12.0), torch.ones(1, 1, dtype=torch.bool)
    loss = BridgeLoss([[(1,)]], (1.0, 1.0))
    assert loss.landmark_pulls_boundary(logits, torch.tensor([[point]]), yes, yes).active == 0
    for inside in [(10.0, 1.0), (10.0, 18.0)]:
        assert loss.landmark_pulls_boundary(logits, torch.tensor([[inside]]), yes, yes).active == 1


@pytest.mark.parametrize("radius", [-5.0, 100.0])
def test_an_organ_without_a_boundary_near_the_landmark_is_not_made_up(radius):
    logits, yes = ball(distances((20, 20), (10, 10)), radius).requires_grad_(), torch.ones(1, 1, dtype=torch.bool)
    found = BridgeLoss([[(1,)]], (1.0, 1.0)).landmark_pulls_boundary(logits, torch.tensor([[[10.0, 10]]]), yes, yes)
    found.loss.backward()
    assert found.active == 0
    assert found.loss.item() == 0
    assert not logits.grad.any()


def test_gates_of_direction_b():
    shape = (40, 40)
    labels, heat = ball_labels(shape, 6.0), blob(shape, (19.5, 27))
    assert bridge_b(heat, labels, shape).active == 1
    assert bridge_b(heat, labels, shape, state=State.ABSENT).active == 0
    assert bridge_b(heat, labels, shape, state=State.PRESENT).active == 0
    assert bridge_b(heat - 5, labels, shape).active == 0  # not seen: at most 0.12
    assert bridge_b(blob(shape, (19.5, -1)), labels, shape).active == 0  # seen at the edge
    assert bridge_b(heat, torch.zeros_like(labels), shape).active == 0  # no organ
    near, far = (torch.ones(1, 1, *shape, dtype=torch.bool) for _ in range(2))
    near[0, 0, 10, 27] = False  # 10 voxels away at most: three sigmas and eight levels
    far[0, 0, 8, 27] = False
    assert bridge_b(heat, labels, shape, near).active == 0
    assert bridge_b(heat, labels, shape, far).active == 1


def test_samples_and_landmarks_count_alike_however_many_terms_they_have():
    shape = (24, 24)
    logits = ball(distances(shape, (12, 12)), 6.0).repeat(2, 1, 1, 1)
    points = torch.tensor([[[12.0, 16.0], [12.0, 20.0]], [[12.0, 21.0], [math.nan] * 2]])
    loss = BridgeLoss([[(1,)], [(1,), (0,)]], (1.0, 1.0))
    states = torch.tensor([[1, 1], [1, -1]])

    def of(*which):
        use = torch.zeros(2, 2, dtype=torch.bool)
        for index in which:
            use[index] = True
        return loss.landmark_pulls_boundary(logits, points, states, use)

    separate = [of(index).loss.item() for index in [(0, 0), (0, 1), (1, 0)]]
    assert len({round(value, 6) for value in separate}) == 3
    together = of((0, 0), (0, 1), (1, 0))
    assert together.active == 4
    assert together.loss.item() == pytest.approx(((separate[0] + separate[1]) / 2 + separate[2]) / 2)


# --- invariances and conditions of a training -------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CASES), st.booleans())
def test_mirrored_images_have_the_same_loss(seed, case, halves):
    shape, spacing = case
    logits, points, states, use = sample(shape, seed)
    points = (2 * points).round() / 2 if halves else points  # halves are rounded to one side
    loss = BridgeLoss(ORGANS, spacing, **SETTINGS)
    expected = loss.landmark_pulls_boundary(logits, points, states, use)
    b = sample_b(shape, seed)
    expected_b = loss.boundary_pulls_landmark(*b)
    for axis, n in enumerate(shape):
        mirrored = points.clone()
        mirrored[..., axis] = n - 1 - mirrored[..., axis]
        found = loss.landmark_pulls_boundary(logits.flip(2 + axis), mirrored, states, use)
        if not halves or found.active == expected.active:  # the box in which an organ must be predicted is rounded too
            assert found.active == expected.active
            assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-9)
        found_b = loss.boundary_pulls_landmark(*(x.flip(2 + axis) for x in b[:3]), *b[3:])
        assert found_b.active == expected_b.active
        assert found_b.loss.item() == pytest.approx(expected_b.loss.item(), abs=1e-9)


@pytest.mark.parametrize("shape", [(24, 21), (17, 18, 19)])
def test_the_end_of_the_image_is_no_surface(shape):
    """An image that ends inside of the patch has the losses of a patch that ends where the image does."""
    dim, margin = len(shape), 4
    loss = BridgeLoss([[(1,)]] * 3, (1.0,) * dim)
    generator = torch.Generator().manual_seed(0)

    def put(x, value):
        return torch.nn.functional.pad(x.double(), [margin] * 2 * dim, value=value)

    inside = put(torch.ones(1, 1, *shape), 0.0).bool()
    # the organ reaches the end of the image, and its landmarks are near there
    organ = (torch.arange(shape[0]).view(-1, *[1] * (dim - 1)) >= shape[0] - 5).expand(shape)
    points = torch.rand(1, 3, dim, generator=generator, dtype=torch.float64) * 4 + 4
    points[..., 0] = shape[0] - 1 - torch.tensor([1.0, 3.0, 6.0])
    logits = torch.stack([2 - 4.0 * organ, 4.0 * organ - 2])[None]
    logits = logits + torch.randn(logits.shape, generator=generator)
    present, unknown = torch.full((1, 3), State.PRESENT), torch.full((1, 3), State.UNKNOWN)
    use = torch.ones(1, 3, dtype=torch.bool)
    alone = loss.landmark_pulls_boundary(logits, points, present, use)
    for fill in (-3.0, 3.0):
        framed = put(logits, fill).requires_grad_()
        found = loss.landmark_pulls_boundary(framed, points + margin, present, use, inside)
        assert found.active == alone.active == 3
        torch.testing.assert_close(found.loss, alone.loss.double())
        found.loss.backward()
        assert not framed.grad[~inside.expand_as(framed)].any()

    heat = balls(points, present, shape, [4.0] * dim).double().clamp(1e-4, 1 - 1e-4).logit()
    one_hot, annotated = torch.stack([~organ, organ])[None].double(), torch.ones(1, 1, *shape, dtype=torch.bool)
    alone = loss.boundary_pulls_landmark(heat, one_hot, annotated, unknown, use)
    one_hot, annotated = torch.cat([put(one_hot[:, :1], 1.0), put(one_hot[:, 1:], 0.0)], 1), torch.ones_like(inside)
    found = loss.boundary_pulls_landmark(put(heat, -9.0), one_hot, annotated, unknown, use, inside)
    assert found.active == alone.active == 3
    torch.testing.assert_close(found.loss, alone.loss)
    # without "inside" the end of the image would be the surface of the landmark beside it
    wrong = loss.boundary_pulls_landmark(put(heat, -9.0), one_hot, annotated, unknown, use)
    assert wrong.loss < found.loss - 0.05


@pytest.mark.parametrize("similarity", ["expectation", "cosine"])
@pytest.mark.parametrize(("shape", "spacing"), [((6, 7), (1.0, 1.0)), ((4, 5, 6), (1.5, 1.0, 1.0))])
def test_gradient(shape, spacing, similarity):
    loss = BridgeLoss([[(1,), (2,)]], spacing, levels=2, sigma=0.7, heatmap_sigma=0.7, similarity=similarity)
    centre = [n / 2 - 0.2 for n in shape]
    logits, yes = smooth(1, 3, shape, 1).requires_grad_(), torch.ones(1, 1, dtype=torch.bool)
    point = torch.tensor([[centre]], dtype=torch.float64)
    assert loss.landmark_pulls_boundary(logits, point, yes, yes).active > 0
    assert torch.autograd.gradcheck(lambda x: loss.landmark_pulls_boundary(x, point, yes, yes).loss, (logits,))
    one_hot = torch.nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1)
    heat = blob(shape, centre).requires_grad_()
    last = (one_hot, torch.ones(1, 1, *shape, dtype=torch.bool), torch.full((1, 1), -1), yes)
    assert loss.boundary_pulls_landmark(heat, *last).active > 0
    assert torch.autograd.gradcheck(lambda x: loss.boundary_pulls_landmark(x, *last).loss, (heat,))


@pytest.mark.parametrize("direction", ["A", "B"])
@pytest.mark.parametrize(
    ("dtype", "takes_part"), list(itertools.product([torch.float16, torch.bfloat16], [True, False]))
)
def test_half_precision_under_autocast_is_finite_and_connected(dtype, takes_part, direction):
    shape = (12, 20, 20)
    loss, yes = BridgeLoss([[(1,)]], (2.0, 1.0, 1.0)), torch.full((1, 1), takes_part)
    labels = ball_labels(shape, 7.0, (2.0, 1.0, 1.0))
    learned = 6e4 * (labels - 0.5) if direction == "A" else 100 * blob(shape, (6.0, 10.0, 15.0))
    learned = learned.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if direction == "A":
            found = loss.landmark_pulls_boundary(learned, torch.tensor([[[6.0, 10.0, 15.0]]]).to(dtype), yes, yes)
        else:
            annotated = torch.ones(1, 1, *shape, dtype=torch.bool)
            found = loss.boundary_pulls_landmark(learned, labels, annotated, torch.full((1, 1), -1), yes)
    found.loss.backward()
    assert found.active == int(takes_part)
    assert found.loss.dtype == torch.float32
    assert bool(found.loss > 0) is takes_part
    assert learned.grad.isfinite().all()


@pytest.mark.parametrize("ratio", [5.0, 16.0, 40.0])
def test_a_landmark_between_thick_slices_has_a_window(ratio):
    spacing = (ratio, 1.0, 1.0)
    logits, yes = ball(distances((6, 20, 20), (2.5, 10, 10), (1.0, 1.0, 1.0)), 5.0), torch.ones(1, 1, dtype=torch.bool)
    found = BridgeLoss([[(1,)]], spacing).landmark_pulls_boundary(logits, torch.tensor([[[2.5, 10.5, 15.5]]]), yes, yes)
    assert found.active == 1
    assert 0 < found.loss.item() < 1


@pytest.mark.parametrize(
    ("organs", "options", "message"),
    [
        ([[()]], {}, "organ"),
        ([[(-1,)]], {}, "organ"),
        ([[(1, 2)]], {"exclusive": False}, "regions"),
        ([[(1,)]], {"sigma": 0.0}, "positive"),
        ([[(1,)]], {"sigma": 2.0, "heatmap_sigma": 1.0}, "at most the second"),
        ([[(1,)]], {"similarity": "dice"}, "similarity"),
        ([[(1,)]], {"levels": 0}, "reaches nowhere"),
    ],
)
def test_declarations_that_mean_nothing_are_refused(organs, options, message):
    with pytest.raises(InputError, match=message):
        BridgeLoss(organs, (1.0, 1.0), **options)


def test_tensors_that_do_not_match_the_declaration_are_refused():
    loss, yes = BridgeLoss([[(1,)], [(4,)]], (1.0, 1.0)), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(InputError, match="at least 5"):
        loss.landmark_pulls_boundary(torch.zeros(1, 4, 9, 9), torch.zeros(1, 2, 2), yes, yes)
    with pytest.raises(InputError, match="2 axes"):
        loss.landmark_pulls_boundary(torch.zeros(1, 5, 9, 9, 9), torch.zeros(1, 2, 2), yes, yes)
    with pytest.raises(InputError, match="Points"):
        loss.landmark_pulls_boundary(torch.zeros(1, 5, 9, 9), torch.zeros(1, 3, 2), yes, yes)


def test_no_landmark_lies_on_a_surface():
    loss, yes = BridgeLoss([[], []], (1.0, 1.0)), torch.ones(1, 2, dtype=torch.bool)
    logits = torch.zeros(1, 2, 9, 9, requires_grad=True)
    found = loss.landmark_pulls_boundary(logits, torch.full((1, 2, 2), 4.0), yes, yes)
    found.loss.backward()
    assert found.active == 0
    assert not logits.grad.any()
