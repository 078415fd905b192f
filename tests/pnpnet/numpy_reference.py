"""Brute-force NumPy reference of PnPNet, written without looking at the modules it checks.

Every function is the plainest transcription of one equation: float64, explicit loops over kernel offsets, heads and
samples, no PyTorch. Arrays are (B, C, *spatial) with any number of spatial axes; centres are (B, K, d): K classes, d
features. Weights are keyword arguments laid out as PyTorch keeps them: a convolution's weight is
(C_out, C_in / groups, *kernel), a linear map's is (d_out, d_in) and acts as x W^T + b.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Norm = Callable[[Array, Array, Array], Array]  # batch_norm or instance_norm: (x, gamma, beta) -> normalised x


def conv(x: Array, weight: Array, bias: Array | None = None, *, groups: int = 1, padding_mode: str = "zeros") -> Array:
    """The convolutions: cross-correlation, stride 1, padded by k // 2 on each side of each axis.

    y[b, o, p] = bias[o] + sum over input channels i of o's group and kernel offsets t of
    weight[o, i, t] * padded[b, i, p + t]; depthwise is groups = C. padding_mode: 'zeros' or 'replicate'.
    x (B, C_in, *spatial), weight (C_out, C_in / groups, *kernel), bias (C_out,) -> (B, C_out, *spatial);
    kernel sizes are odd.
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    batch, channels_in, *spatial = x.shape
    channels_out, inputs_per_group, *kernel = weight.shape
    assert len(kernel) == len(spatial)
    assert all(k % 2 == 1 for k in kernel)
    assert channels_in == groups * inputs_per_group
    assert channels_out % groups == 0
    outputs_per_group = channels_out // groups
    pad = [(0, 0), (0, 0)] + [(k // 2, k // 2) for k in kernel]
    padded = np.pad(x, pad, mode={"zeros": "constant", "replicate": "edge"}[padding_mode])
    y = np.zeros((batch, channels_out, *spatial))
    for offset in itertools.product(*(range(k) for k in kernel)):
        window = tuple(slice(t, t + n) for t, n in zip(offset, spatial, strict=True))
        for out in range(channels_out):
            first = (out // outputs_per_group) * inputs_per_group
            for i in range(inputs_per_group):
                y[:, out] += weight[(out, i, *offset)] * padded[(slice(None), first + i, *window)]
    if bias is not None:
        for out in range(channels_out):
            y[:, out] += bias[out]
    return y


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    """BN with training-mode statistics: each channel over batch and space, biased variance.

    x (B, C, *spatial), gamma and beta (C,) -> (B, C, *spatial).
    """
    x = np.asarray(x, np.float64)
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        mean = x[:, c].mean()
        variance = ((x[:, c] - mean) ** 2).mean()
        y[:, c] = gamma[c] * (x[:, c] - mean) / math.sqrt(variance + eps) + beta[c]
    return y


def instance_norm(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
    """InstanceNorm, the plans' norm: each channel of each sample over space, biased variance.

    x (B, C, *spatial), gamma and beta (C,) -> (B, C, *spatial).
    """
    x = np.asarray(x, np.float64)
    return np.concatenate([batch_norm(x[b : b + 1], gamma, beta, eps) for b in range(x.shape[0])])


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """LN: each token over the last axis, biased variance.

    x (..., d), gamma and beta (d,) -> (..., d).
    """
    x = np.asarray(x, np.float64)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + eps) + beta


def relu(x: Array) -> Array:
    """ReLU: max(x, 0), elementwise; any shape."""
    return np.where(np.asarray(x) > 0, x, 0.0)


def gelu(x: Array) -> Array:
    """GELU, exact: x * (1 + erf(x / sqrt 2)) / 2, elementwise; any shape."""
    x = np.asarray(x, np.float64)
    return np.array([v * 0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x.ravel()]).reshape(x.shape)


def sigmoid(x: Array) -> Array:
    """Logistic function: 1 / (1 + e^-x), without overflow; any shape."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def softmax(x: Array, axis: int) -> Array:
    """Softmax: e^x / sum of e^x along one axis (the maximum taken off first); any shape."""
    exponentials = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def linear_resize(x: Array, size: Sequence[int]) -> Array:
    """Linear interpolation (align_corners=False), one spatial axis after the other.

    Voxel j of the n_new new ones lies at s = (j + 1/2) * n_old / n_new - 1/2 in the old axis, clamped to
    [0, n_old - 1], and mixes the old voxels floor(s) and floor(s) + 1.
    x (B, C, *spatial), size: new spatial sizes -> (B, C, *size).
    """
    y = np.asarray(x, np.float64)
    assert len(size) == y.ndim - 2
    for axis, n_new in enumerate(size, start=2):
        old = np.moveaxis(y, axis, 0)
        n_old = old.shape[0]
        new = np.empty((n_new, *old.shape[1:]))
        for j in range(n_new):
            s = min(max((j + 0.5) * n_old / n_new - 0.5, 0.0), n_old - 1.0)
            low = math.floor(s)
            high = min(low + 1, n_old - 1)
            new[j] = (1.0 - (s - low)) * old[low] + (s - low) * old[high]
        y = np.moveaxis(new, 0, axis)
    return y


def corner_stencil(kernel_size: Sequence[int]) -> Array:
    """Explicit part of the EID kernel: the product of the offsets' signs at the corners, zero elsewhere.

    A corner is an entry at an end of every axis of size >= 3 (offset sign -1 or +1); an axis of size 1 has a single
    index and contributes the factor 1. kernel_size: odd numbers -> array of that shape.
    """
    stencil = np.zeros(tuple(kernel_size))
    for index in itertools.product(*(range(k) for k in kernel_size)):
        value = 1.0
        for i, k in zip(index, kernel_size, strict=True):
            if k >= 3:
                value *= {0: -1.0, k - 1: 1.0}.get(i, 0.0)
        stencil[index] = value
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
) -> Array:
    """SDM of the code: y = x + ReLU(norm(conv(x_d * g_d * g_d))); all convolutions pad with zeros.

    skip (B, C, *spatial), guide (B, C_g, *spatial); guide_weight (C, C_g, *any kernel), skip_kernel and guide_kernel
    (C, 1, *kernel), mix_weight (C, C, *kernel), gammas and betas (C,) -> (B, C, *spatial).
    """
    channels = skip.shape[1]
    normalised_guide = norm(conv(guide, guide_weight), guide_gamma, guide_beta)
    skip_difference = conv(skip, skip_kernel, groups=channels)
    guide_difference = conv(normalised_guide, guide_kernel, groups=channels)
    product = skip_difference * guide_difference * guide_difference
    return skip + relu(norm(conv(product, mix_weight), mix_gamma, mix_beta))


def bounded_difference(
    skip: Array,
    guide: Array,
    *,
    reduce_weight: Array,
    guide_weight: Array,
    guide_gamma: Array,
    guide_beta: Array,
    skip_kernel: Array,
    guide_kernel: Array,
    mix_weight: Array,
    mix_gamma: Array,
    mix_beta: Array,
    factor: Array,
    norm: Norm,
) -> Array:
    """The sound SDM: y = x + s ReLU(norm(conv(x_d g_d^2 / (1 + g_d^2)))).

    The two depthwise kernels pad by repeating the border, the dense convolutions with zeros.
    skip and guide (B, C, *spatial); reduce_weight and guide_weight (r, C, *ones), skip_kernel and guide_kernel
    (r, 1, *kernel), mix_weight (C, r, *kernel), guide gamma and beta (r,), mix gamma and beta and factor (C,)
    -> (B, C, *spatial).
    """
    width = reduce_weight.shape[0]
    normalised_guide = norm(conv(guide, guide_weight), guide_gamma, guide_beta)
    skip_difference = conv(conv(skip, reduce_weight), skip_kernel, groups=width, padding_mode="replicate")
    guide_difference = conv(normalised_guide, guide_kernel, groups=width, padding_mode="replicate")
    conductivity = guide_difference**2 / (1.0 + guide_difference**2)
    mixed = relu(norm(conv(skip_difference * conductivity, mix_weight), mix_gamma, mix_beta))
    result = np.array(skip, np.float64)
    for c in range(skip.shape[1]):
        result[:, c] += factor[c] * mixed[:, c]
    return result


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
    """ResBlk: ReLU([1x1 conv, norm, ReLU -> 3x3 conv, norm, ReLU] + [1x1 conv, norm]), no biases.

    x (B, C, *spatial); reduce_weight and shortcut_weight (d, C, *ones), conv_weight (d, d, *kernel), gammas and betas
    (d,) -> (B, d, *spatial).
    """
    main = relu(norm(conv(x, reduce_weight), reduce_gamma, reduce_beta))
    main = relu(norm(conv(main, conv_weight), conv_gamma, conv_beta))
    shortcut = norm(conv(x, shortcut_weight), shortcut_gamma, shortcut_beta)
    return relu(main + shortcut)


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
    """C_bar = LN(Block(c)), one pre-LN transformer block over the K centre tokens, without dropout.

    Head h: softmax over the keys of (Q_h K_h^T + P_h) / sqrt(d / heads), times V_h; residual; MLP with GELU; residual;
    final LayerNorm. qkv_weight's rows are all of q, then k, then v; head h owns rows h * d/heads ... of each.
    centers (B, K, d); qkv_weight (3d, d), position (1, heads, K, K), out_weight (d, d), fc1_weight (hidden, d),
    fc2_weight (d, hidden), biases to match -> (B, K, d).
    """
    centers = np.asarray(centers, np.float64)
    batch, _, dim = centers.shape
    assert dim % heads == 0
    head_dim = dim // heads
    after_attention = np.empty_like(centers)
    for b in range(batch):
        tokens = layer_norm(centers[b], norm1_gamma, norm1_beta, eps) @ qkv_weight.T + qkv_bias
        query, key, value = tokens[:, :dim], tokens[:, dim : 2 * dim], tokens[:, 2 * dim :]
        attended = []
        for h in range(heads):
            own = slice(h * head_dim, (h + 1) * head_dim)
            scores = (query[:, own] @ key[:, own].T + position[0, h]) / math.sqrt(head_dim)
            attended.append(softmax(scores, axis=1) @ value[:, own])
        after_attention[b] = centers[b] + np.concatenate(attended, axis=1) @ out_weight.T + out_bias
    hidden = gelu(layer_norm(after_attention, norm2_gamma, norm2_beta, eps) @ fc1_weight.T + fc1_bias)
    after_mlp = after_attention + hidden @ fc2_weight.T + fc2_bias
    return layer_norm(after_mlp, final_gamma, final_beta, eps)


def cluster(
    centers: Array,
    key: Array,
    value: Array,
    *,
    temperature: float,
    update: str = "mean",
    assignment: str = "softmax",
    eps: float = 1e-6,
) -> tuple[Array, Array]:
    """Assign voxels to centres, then move the centres.

    a_kn = softmax over the K centres (or, for overlapping regions, sigmoid) of <c_k, key_n> / temperature;
    'sum': c'_k = c_k + sum_n a_kn v_n; 'mean': c'_k = c_k + sum_n a_kn v_n / (sum_n a_kn + eps).
    centers (B, K, d), key and value (B, d, *spatial) -> a (B, K, *spatial), c' (B, K, d).
    """
    centers = np.asarray(centers, np.float64)
    batch, classes, _ = centers.shape
    spatial = key.shape[2:]
    a = np.empty((batch, classes, *spatial))
    new_centers = np.empty_like(centers)
    for b in range(batch):
        scores = np.einsum("kd,d...->k...", centers[b], key[b]) / temperature
        a[b] = {"softmax": lambda s: softmax(s, axis=0), "sigmoid": sigmoid}[assignment](scores)
        for k in range(classes):
            moved = np.zeros(centers.shape[2])
            mass = 0.0
            for n in np.ndindex(*spatial):
                moved += a[(b, k, *n)] * value[(b, slice(None), *n)]
                mass += a[(b, k, *n)]
            new_centers[b, k] = centers[b, k] + moved * {"mean": 1.0 / (mass + eps), "sum": 1.0}[update]
    return a, new_centers


def center_atlas(atlas: Array, queries: Array, *, query_weight: Array, key_weight: Array, value_weight: Array) -> Array:
    """Centre atlas: c0 = Q + softmax over the atlas ((Q W_q^T)(A W_k^T)^T / sqrt(d)) (A W_v^T).

    atlas (M, d), queries (K, d), weights (d, d) -> c0 (K, d).
    """
    scores = (queries @ query_weight.T) @ (atlas @ key_weight.T).T / math.sqrt(queries.shape[1])
    return queries + softmax(scores, axis=1) @ (atlas @ value_weight.T)


def gate(pull: Array, push: Array) -> Array:
    """Pull and push interaction: logits = T * (1 + sigmoid(S)). Both (B, K, *spatial) -> the same."""
    return pull * (1.0 + sigmoid(push))


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
    """L_c: mean over batch, K and d of clamp(P - LN2(c), -1, 1)^2 with P = LN1(Y phi(F)^T).

    phi = ReLU(norm(1x1 conv)); Y is one_hot at full resolution, resized linearly to the features' size and hence soft;
    the product sums over the voxels. eps is that of the two LayerNorms.
    centers (B, K, d), features (B, C, *spatial), one_hot (B, K, *full); project_weight (d, C, *ones), all gammas and
    betas (d,) -> scalar.
    """
    projected = relu(norm(conv(features, project_weight), project_gamma, project_beta))
    soft = linear_resize(one_hot, features.shape[2:])
    pooled = np.einsum("bk...,bd...->bkd...", soft, projected).sum(axis=tuple(range(3, features.ndim + 1)))
    target = layer_norm(pooled, target_gamma, target_beta, eps)
    difference = target - layer_norm(centers, center_gamma, center_beta, eps)
    return float((np.clip(difference, -1.0, 1.0) ** 2).mean())
