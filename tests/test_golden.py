"""Golden constants: every loss and module on fixed inputs, in float64.

The references in the other tests are computed beside the code and could share a misreading with it, or change with
torch. These numbers are frozen: inputs and weights are waves, so that no random generator matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity_loss import attentive_similarity_loss
from nnunet_ext.attenscribble.confidence_gate import ConfidenceGate
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window
from nnunet_ext.attenscribble.published import PublishedAffinity, PublishedSelfAttention, published_similarity_loss
from nnunet_ext.attenscribble.similarity import AffinityHead
from nnunet_ext.attenscribble.spatial_attention import Projected, SpatialSelfAttention
from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.published import published_loss
from nnunet_ext.landmarks.heatmaps import HeatmapLoss, PaperHeatmapLoss
from nnunet_ext.medcontext.consistency import consistency
from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.pseudo_labels import pseudo_label_loss, pseudo_labels
from nnunet_ext.partial_labels.loss import PartialLabelsLoss
from nnunet_ext.pnpnet.blocks import ConvDialect
from nnunet_ext.pnpnet.class_clustering import CenterAtlas, ClassClusteringModule
from nnunet_ext.pnpnet.published import PaperCenterLoss, PublishedClustering, PublishedDifference
from nnunet_ext.pnpnet.semantic_difference import SemanticDifferenceModule
from nnunet_ext.s2vnet.centroid_aggregation import Bank, CentroidAggregation
from nnunet_ext.s2vnet.clustering import CosineLogits, KMeansLayer
from nnunet_ext.s2vnet.loss import auxiliary_loss, cluster_loss
from nnunet_ext.scnp.loss import worst_neighbours

CLASSES = 3
PATCH = {2: (8, 9), 3: (5, 6, 7)}


def wave(*shape: int, frequency: float = 1.7, phase: float = 0.3) -> Tensor:
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def filled(module: nn.Module) -> nn.Module:
    """The module in float64 with a wave of another phase in each of its parameters."""
    module = module.double().train()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * wave(*parameter.shape, frequency=2.3, phase=number + 0.3))
    return module


def logits(dim: int, channels: int = CLASSES) -> Tensor:
    return 2 * wave(2, channels, *PATCH[dim])


def target(dim: int, values: int = CLASSES) -> Tensor:
    """``(2, 1, *patch)``: bands along the first axis, other ones in the second sample."""
    places = torch.arange(math.prod(PATCH[dim])).reshape(PATCH[dim])
    return torch.stack([(places // 5) % values, (places // 7) % values])[:, None]


def one_hot(dim: int) -> Tensor:
    return LabelView(CLASSES, False).one_hot(target(dim)).double()


def dialect(dim: int) -> ConvDialect:
    conv, norm = (nn.Conv3d, nn.InstanceNorm3d) if dim == 3 else (nn.Conv2d, nn.InstanceNorm2d)
    return ConvDialect(conv, norm, {"affine": True, "eps": 1e-5}, nn.LeakyReLU)


def kernel(dim: int) -> list[int]:
    return [3] * dim


def window(dim: int) -> Window:
    return Window.gaussian([2] * dim, 1.5)


def crf(dim: int, **options: object) -> Tensor:
    loss = MaskedCRFLoss(window(dim), **options)
    return loss(logits(dim), wave(2, 1, *PATCH[dim], frequency=0.4), target(dim, 4) != 1)


def similarity(dim: int) -> tuple[Tensor, Tensor, Window, Tensor]:
    half = window(dim)
    return wave(2, len(half.offsets), *PATCH[dim]), logits(dim).softmax(1), half, torch.tensor([1.0, 1.0])


def projected(dim: int) -> Projected:
    return Projected(wave(2, 2, 4, *PATCH[dim]), wave(2, 2, 4, *PATCH[dim], frequency=1.1))


def landmarks(dim: int) -> tuple[Tensor, Tensor]:
    points = torch.tensor([[[3.2, 4.1, 2.9], [1.0, 2.0, 3.0]], [[2.0, 3.5, 4.4], [0.0, 0.0, 0.0]]]).double()
    return points[..., :dim], torch.tensor([[1, 0], [1, -1]])


def bridge(dim: int, direction: str) -> Tensor:
    loss = BridgeLoss([[(1,)], [(2,)]], [1.0] * dim, levels=4, sigma=2.0)
    points, states = landmarks(dim)
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    if direction == "A":
        return loss.landmark_pulls_boundary(logits(dim), points, states, everywhere).loss
    annotated = torch.ones(2, 1, *PATCH[dim], dtype=torch.bool)
    unknown = torch.full_like(states, -1)
    return loss.boundary_pulls_landmark(4 * logits(dim, 2), one_hot(dim), annotated, unknown, everywhere).loss


def clustering(dim: int) -> Tensor:
    module = filled(ClassClusteringModule(dialect(dim), 4, CLASSES, dim=8, heads=2, mlp_dim=16))
    found, centers = module(wave(2, 4, *PATCH[dim]), wave(1, CLASSES, 8))
    return found.square().mean() + centers.square().mean()


def published_clustering(dim: int) -> Tensor:
    options = {"dim": 8, "heads": 2, "mlp_dim": 16, "dropout": 0.0}
    module = filled(PublishedClustering(dialect(dim), 4, CLASSES, kernel(dim), **options))
    pull, centers = module(wave(2, 4, *PATCH[dim]), wave(1, CLASSES, 8))
    return pull.square().mean() + centers.square().mean()


def sure_consistency(dim: int, kind: Any, *, exclusive: bool = True) -> Tensor:
    """The distance from a teacher of large logits, where it is surer than 0.8 and a wave is positive."""
    teacher, among = 4 * wave(2, CLASSES, *PATCH[dim], frequency=1.1), wave(2, 1, *PATCH[dim], frequency=0.9) > 0
    return consistency(logits(dim), teacher, kind, exclusive=exclusive, confidence=0.8, among=among)


def s2v_loss(which: Callable[..., Tensor], dim: int) -> Tensor:
    resize = LabelView(CLASSES, False).resize
    shape = (2, *PATCH[2]) if dim == 3 else (1, *PATCH[2])
    deep = torch.stack([target(2)] * shape[0], 2)
    cross_entropy = PartialCrossEntropy(-1)
    found = [(stage, 2 * wave(2, CLASSES, shape[0], 8 // 2**stage, 9 // 2**stage)) for stage in (0, 1, 2)]
    return which(found if which is cluster_loss else [x for _, x in found], deep, cross_entropy, resize)


def partial_labels(dim: int) -> Tensor:
    loss = PartialLabelsLoss(LabelView(CLASSES, False), batch_dice=False)
    loss.annotated = torch.tensor([[True, True, False], [True, True, True]])
    return loss(logits(dim), target(dim))


def gate(dim: int) -> Tensor:
    return ConfidenceGate(CLASSES, 0.5).double()(logits(dim).softmax(1), one_hot(dim)).min()


def gated_gradient(dim: int, exclusive: bool) -> Tensor:
    module = ConfidenceGate(CLASSES, 0.5).double()
    module.probability.copy_(torch.tensor([0.6, 0.3, 0.1]))
    leaf = logits(dim).requires_grad_()
    loss = module.gated(leaf, exclusive=exclusive).softmax(1).square().sum()
    return projection(torch.autograd.grad(loss, leaf)[0])


def pseudo(dim: int, exclusive: bool) -> Tensor:
    teacher = 3 * logits(dim).flip(1)
    probabilities = teacher.softmax(1) if exclusive else teacher.sigmoid()
    labels, use = pseudo_labels(probabilities, target(dim, 4) != 1, 0.6, exclusive=exclusive)
    return pseudo_label_loss(logits(dim), labels, use, exclusive=exclusive)


def projection(x: Tensor) -> Tensor:
    """A number of a whole map: its product with a wave."""
    return (x * wave(*x.shape, frequency=0.9)).sum() / math.sqrt(x.numel())


GOLDEN: dict[str, tuple[Callable[[int], Tensor], float, float]] = {
    # name: (what is computed in 2D and 3D, its value in 2D, its value in 3D)
    "masked CRF": (crf, 0.11442390714766389, 0.07220362894449402),
    "masked CRF of regions, pooled": (
        lambda dim: crf(dim, exclusive=False, downsample=[2] * dim),
        0.07944697045909373,
        0.04149269268961365,
    ),
    "attentive similarity": (
        lambda dim: attentive_similarity_loss(*similarity(dim), gamma=0.7),
        0.6670211963996986,
        0.4985720196400666,
    ),
    "attentive similarity as published": (
        lambda dim: published_similarity_loss(*similarity(dim)),
        0.26110409286863645,
        0.192837560920538,
    ),
    "affinity": (
        lambda dim: projection(filled(AffinityHead(2))(projected(dim), window(dim))),
        -0.01589778751626746,
        0.03258372505260225,
    ),
    "affinity as published": (
        lambda dim: projection(filled(PublishedAffinity(2))(projected(dim), window(dim))),
        0.0032510800633610876,
        0.14292176553395775,
    ),
    "self-attention": (
        lambda dim: projection(filled(SpatialSelfAttention(4, kernel(dim), head_dim=4))(logits(dim, 4))[0]),
        0.1827178280468239,
        -0.48730099463953414,
    ),
    "self-attention as published": (
        lambda dim: projection(filled(PublishedSelfAttention(4, kernel(dim), head_dim=4))(logits(dim, 4))[0]),
        -0.05315569620888753,
        0.0034455644655343467,
    ),
    "gradient through the confidence gate": (
        lambda dim: gated_gradient(dim, True),
        -0.002546721293458626,
        -0.0011435609453450226,
    ),
    "gradient of regions through the gate": (
        lambda dim: gated_gradient(dim, False),
        -0.005362153326358846,
        -0.005047228857179713,
    ),
    "pseudo-labels": (lambda dim: pseudo(dim, True), 0.9563267040915404, 3.3090560932092896),
    "pseudo-labels of regions": (lambda dim: pseudo(dim, False), 0.508255360335379, 1.5169160610832642),
    "confidence gate": (gate, 0.05141966938106125, 0.048695080078073896),
    "centres as published": (
        lambda dim: filled(PaperCenterLoss(dialect(dim), 4, 8))(wave(2, CLASSES, 8), logits(dim, 4), one_hot(dim)),
        0.4667434346479921,
        0.47341926222599245,
    ),
    "centre atlas": (
        lambda dim: projection(filled(CenterAtlas(dim, 8, 6))()),
        -0.4553688858553606,
        -0.04308868636534893,
    ),
    "class clustering": (clustering, 0.7313610819317372, 0.7309363850830227),
    "semantic difference": (
        lambda dim: projection(
            filled(SemanticDifferenceModule(dialect(dim), 4, kernel(dim)))(logits(dim, 4), wave(2, 4, *PATCH[dim]))
        ),
        0.023388646296166122,
        -0.4122528592650945,
    ),
    "class clustering as published": (published_clustering, 72.7660453394267, 579.4087175440008),
    "semantic difference as published": (
        lambda dim: projection(
            filled(PublishedDifference(dialect(dim), 4, kernel(dim)))(logits(dim, 4), wave(2, 4, *PATCH[dim]))
        ),
        0.07799486142770241,
        -0.32106270512541185,
    ),
    "worst neighbours": (
        lambda dim: projection(worst_neighbours(logits(dim), one_hot(dim), target(dim, 4) != 1)),
        1.7572329772844248,
        0.6012621676898448,
    ),
    "relative consistency": (
        lambda dim: consistency(logits(dim), wave(2, CLASSES, *PATCH[dim], frequency=1.1), "relative"),
        4.992342043726071,
        4.997136875437189,
    ),
    "official consistency": (
        lambda dim: consistency(logits(dim), wave(2, CLASSES, *PATCH[dim], frequency=1.1), "official"),
        0.16968981654044973,
        0.09952192975997035,
    ),
    "divergence": (
        lambda dim: consistency(logits(dim), wave(2, CLASSES, *PATCH[dim], frequency=1.1), "kl"),
        0.8802062053743616,
        0.7106590918157285,
    ),
    "divergence of regions": (
        lambda dim: consistency(logits(dim), wave(2, CLASSES, *PATCH[dim], frequency=1.1), "kl", exclusive=False),
        0.84146827788065,
        0.8433551780226447,
    ),
    "divergence from a sure teacher": (lambda dim: sure_consistency(dim, "kl"), 1.1767412501083463, 1.1368483218142127),
    "squares from a sure teacher": (lambda dim: sure_consistency(dim, "mse"), 0.20149979266887694, 0.20948274615836343),
    "squares of regions": (
        lambda dim: sure_consistency(dim, "mse", exclusive=False),
        0.20532528917402748,
        0.2151817202561902,
    ),
    "bridge, direction A": (lambda dim: bridge(dim, "A"), 0.04779799538588536, 0.48660074405546927),
    "bridge, direction B": (lambda dim: bridge(dim, "B"), 0.011408522376981284, 0.039667255704597615),
    "bridge as published": (
        lambda dim: published_loss(one_hot(dim)[0, 1], wave(*PATCH[dim]).abs(), 4),
        0.7139513316407378,
        0.6668746530937102,
    ),
    "heatmaps": (
        lambda dim: HeatmapLoss([2.0] * dim)(logits(dim, 2), *landmarks(dim)),
        0.14650944323897483,
        0.08503619616606677,
    ),
    "heatmaps as published": (
        lambda dim: PaperHeatmapLoss([2.0] * dim)(100 * logits(dim, 2), *landmarks(dim)),
        27392.428807919347,
        26810.425168054033,
    ),
    "clusters": (lambda dim: s2v_loss(cluster_loss, dim), 2.8904006481170654, 2.6902103424072266),
    "auxiliary": (lambda dim: s2v_loss(auxiliary_loss, dim), 2.8904006481170654, 2.6902103424072266),
    "k-means layer": (
        lambda dim: projection(filled(KMeansLayer(4, 8, 2))(wave(dim, 5, 8), wave(dim, 4, *PATCH[2]))[0]),
        0.6686828648506312,
        1.1047595910203556,
    ),
    "cosine logits": (
        lambda dim: projection(filled(CosineLogits(4, 8, 6, biased=True))(wave(dim, 5, 8), wave(dim, 4, *PATCH[2]))),
        -0.0579789264131252,
        -0.0007778796636902984,
    ),
    "centroid aggregation": (
        lambda dim: projection(
            filled(CentroidAggregation(8, 2))(
                wave(5, 8),
                Bank((wave(dim, 5, 8), wave(dim, 5, 8, phase=2.0)), (torch.ones(dim, dtype=torch.bool),) * 2),
            )
        ),
        -0.022520123264843945,
        0.08280023878994057,
    ),
    "partial labels": (partial_labels, 1.1570439322778583, 0.8959361878401444),
    "partial cross entropy": (
        lambda dim: PartialCrossEntropy(2)(logits(dim), target(dim)),
        1.6780559202294112,
        1.6531771286409067,
    ),
}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", GOLDEN)
def test_the_number_is_what_it_was(name, dim):
    compute, *expected = GOLDEN[name]
    found = compute(dim)
    assert found.ndim == 0
    assert found.item() == pytest.approx(expected[dim - 2], rel=1e-6, abs=1e-12)
