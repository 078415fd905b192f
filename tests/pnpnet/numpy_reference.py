"""PnPNet by brute force: NumPy, float64, loops; the oracle of the tests in this folder.

Written from the publication's arithmetic and from torch's documentation of its layers, not from the modules it checks.
Arrays are ``(B, C, *spatial)``, 2D or 3D; section numbers are those of the module docstrings' specification.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Norm = Callable[..., Array]


def conv(x: Array, weight: Array, bias: Array | None = None, *, groups: int = 1, padding_mode: str = "zeros") -> Array:
    """Cross-correlation with stride 1 and "same" padding; ``weight`` is ``(C_out, C_in / groups, *kernel)``."""
    batch, c_in, *size = x.shape
    c_out, per_group, *kernel = weight.shape
    widths = [(0, 0), (0, 0), *[(k // 2, k // 2) for k in kernel]]
    padded = np.pad(x, widths, mode="edge" if padding_mode == "replicate" else "constant")
    out = np.zeros((batch, c_out, *size))
    for o in range(c_out):
        first = (o // (c_out // groups)) * per_group
        for i in range(per_group):
            for offset in itertools.product(*[range(k) for k in kernel]):
                window = tuple(slice(start, start + n) for start, n in zip(offset, size, strict=True))
                out[:, o] += weight[(o, i, *offset)] * padded[(slice(None), first + i, *window)]
        if bias is not None:
            out[:, o] += bias[o]
    assert c_in == per_group * groups
    return out


def _normalise(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)


def _per_channel(values: Array, ndim: int) -> Array:
    return values.reshape(1, -1, *[1] * (ndim - 2))


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    """Training mode: statistics over batch and space, biased variance."""
    normal = _normalise(x, (0, *range(2, x.ndim)), eps)
    return normal * _per_channel(gamma, x.ndim) + _per_channel(beta, x.ndim)


def instance_norm(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    normal = _normalise(x, tuple(range(2, x.ndim)), eps)
    return normal * _per_channel(gamma, x.ndim) + _per_channel(beta, x.ndim)


def layer_norm(x: Array, gamma: Array | float, beta: Array | float, eps: float) -> Array:
    """Over the last axis."""
    return _normalise(x, (-1,), eps) * gamma + beta


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def gelu(x: Array) -> Array:
    """``x · Φ(x)``, exact."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def linear_resize(x: Array, size: Sequence[int]) -> Array:
    """Linear interpolation at half-pixel centres, clamped at the border, one axis after the other."""
    for axis, new in enumerate(size, start=2):
        old = x.shape[axis]
        slices = []
        for index in range(new):
            position = min(max((index + 0.5) * old / new - 0.5, 0), old - 1)
            low = math.floor(position)
            high = min(low + 1, old - 1)
            weight = position - low
            slices.append((1 - weight) * x.take(low, axis) + weight * x.take(high, axis))
        x = np.stack(slices, axis)
    return x


def corner_stencil(kernel_size: Sequence[int]) -> Array:
    """§3: corners = product of the offsets' signs over the axes that extend, everything else 0."""
    stencil = np.zeros(tuple(kernel_size))
    for index in np.ndindex(*stencil.shape):
        offsets = [i - k // 2 for i, k in zip(index, kernel_size, strict=True)]
        if all(abs(o) == k // 2 for o, k in zip(offsets, kernel_size, strict=True)):
            stencil[index] = np.prod([np.sign(o) for o, k in zip(offsets, kernel_size, strict=True) if k > 1])
    return stencil


def semantic_difference(
    skip: Array,
    guide: Array,
    *,
    guide_weight: Array,
    guide_gamma: Array,
    guide_beta: Array,
    skip_kernel: Array,
    guide_kernel: Array,
    mix_weight: Array,
    mix_gamma: Array,
    mix_beta: Array,
    norm: Norm,
    padding_mode: str,
) -> Array:
    """§3, steps 1 to 4."""
    channels = skip.shape[1]
    projected = norm(conv(guide, guide_weight), guide_gamma, guide_beta)
    x_d = conv(skip, skip_kernel, groups=channels, padding_mode=padding_mode)
    g_d = conv(projected, guide_kernel, groups=channels, padding_mode=padding_mode)
    return skip + relu(norm(conv(x_d * g_d * g_d, mix_weight), mix_gamma, mix_beta))


def res_block(
    x: Array,
    *,
    reduce_weight: Array,
    reduce_gamma: Array,
    reduce_beta: Array,
    conv_weight: Array,
    conv_gamma: Array,
    conv_beta: Array,
    shortcut_weight: Array,
    shortcut_gamma: Array,
    shortcut_beta: Array,
    norm: Norm,
) -> Array:
    """§4 step 2."""
    main = relu(norm(conv(x, reduce_weight), reduce_gamma, reduce_beta))
    main = relu(norm(conv(main, conv_weight), conv_gamma, conv_beta))
    return relu(main + norm(conv(x, shortcut_weight), shortcut_gamma, shortcut_beta))


def attention_block(
    centers: Array,
    *,
    norm1_gamma: Array,
    norm1_beta: Array,
    qkv_weight: Array,
    qkv_bias: Array,
    position: Array,
    out_weight: Array,
    out_bias: Array,
    norm2_gamma: Array,
    norm2_beta: Array,
    fc1_weight: Array,
    fc1_bias: Array,
    fc2_weight: Array,
    fc2_bias: Array,
    final_gamma: Array,
    final_beta: Array,
    heads: int,
    eps: float = 1e-6,
) -> Array:
    """§4 step 1, one sample and one head at a time."""
    batch, classes, dim = centers.shape
    per_head = dim // heads
    attended = np.zeros_like(centers)
    for b in range(batch):
        x = layer_norm(centers[b], norm1_gamma, norm1_beta, eps)
        query, key, value = np.split(x @ qkv_weight.T + qkv_bias, 3, axis=1)
        for h in range(heads):
            part = slice(h * per_head, (h + 1) * per_head)
            scores = (query[:, part] @ key[:, part].T + position[0, h]) / math.sqrt(per_head)
            attended[b, :, part] = softmax(scores, 1) @ value[:, part]
    assert position.shape[2:] == (classes, classes)
    centers = centers + attended @ out_weight.T + out_bias
    hidden = gelu(layer_norm(centers, norm2_gamma, norm2_beta, eps) @ fc1_weight.T + fc1_bias)
    return layer_norm(centers + hidden @ fc2_weight.T + fc2_bias, final_gamma, final_beta, eps)


def cluster(
    centers: Array, key: Array, value: Array, *, temperature: float, update: str, assignment: str, eps: float = 1e-6
) -> tuple[Array, Array]:
    """§4 steps 3 and 5, one voxel at a time."""
    batch, classes, _ = centers.shape
    assigned = np.zeros((batch, classes, *key.shape[2:]))
    moved = centers.copy()
    for b in range(batch):
        total, mass = np.zeros_like(centers[b]), np.zeros(classes)
        for voxel in np.ndindex(*key.shape[2:]):
            similarity = centers[b] @ key[(b, slice(None), *voxel)] / temperature
            a = softmax(similarity, 0) if assignment == "softmax" else sigmoid(similarity)
            assigned[(b, slice(None), *voxel)] = a
            total += a[:, None] * value[(b, slice(None), *voxel)]
            mass += a
        moved[b] += total / (mass[:, None] + eps) if update == "mean" else total
    return assigned, moved


def center_atlas(atlas: Array, queries: Array, *, query_weight: Array, key_weight: Array, value_weight: Array) -> Array:
    """Each query is moved by a mixture of the atlas vectors."""
    out = queries.copy()
    for k, query in enumerate(queries):
        scores = np.array([(query_weight @ query) @ (key_weight @ vector) for vector in atlas])
        for share, vector in zip(softmax(scores / math.sqrt(len(query)), 0), atlas, strict=True):
            out[k] += share * (value_weight @ vector)
    return out


def gate(pull: Array, push: Array) -> Array:
    """§4: final logits."""
    return pull * (1 + sigmoid(push))


def center_loss_paper(
    centers: Array,
    features: Array,
    one_hot: Array,
    *,
    project_weight: Array,
    project_gamma: Array,
    project_beta: Array,
    target_gamma: Array,
    target_beta: Array,
    center_gamma: Array,
    center_beta: Array,
    norm: Norm,
    eps: float = 1e-6,
) -> float:
    """§4.1, the published arithmetic."""
    weights = linear_resize(one_hot, features.shape[2:])
    projected = relu(norm(conv(features, project_weight), project_gamma, project_beta))
    batch, classes, dim = centers.shape
    sums = np.zeros((batch, classes, dim))
    for b, k, d in np.ndindex(batch, classes, dim):
        sums[b, k, d] = (weights[b, k] * projected[b, d]).sum()
    difference = layer_norm(sums, target_gamma, target_beta, eps) - layer_norm(centers, center_gamma, center_beta, eps)
    return float((np.clip(difference, -1, 1) ** 2).mean())


def center_loss(centers: Array, values: Array, one_hot: Array) -> float:
    """The sound form: smooth L1 between layer-normalised centre and class mean, over the pairs that occur."""
    batch, classes, dim = centers.shape
    costs = []
    for b, k in np.ndindex(batch, classes):
        mass = one_hot[b, k].sum()
        if mass > 0:
            mean = np.array([(one_hot[b, k] * values[b, d]).sum() / mass for d in range(dim)])
            gap = np.abs(layer_norm(centers[b, k], 1.0, 0.0, 1e-5) - layer_norm(mean, 1.0, 0.0, 1e-5))
            costs.append(np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean())
    return float(np.sum(costs) / max(1, len(costs)))
