"""The inference network as ONNX: one patch in, its logits out. The sliding window around it is not part of it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.export.planned import logits

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-3
"""Largest difference of logits that is accepted, relative to the largest logit (at least 1). The runtime fuses and
reorders operations, so bit for bit cannot be expected."""


def require_packages() -> None:
    """Raise InputError unless the packages of the extra are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f'--onnx needs {" and ".join(missing)}; install the extra: pip install "nnunet-ext[onnx]".')


def write_onnx(network: nn.Module, image: Tensor, file: Path) -> float:
    """Write ``network`` for inputs of the shape of ``image``, run it in onnxruntime and compare.

    Args:
        network: in evaluation mode.
        image: ``(1, C, *patch)``.
        file: to write; input and output are called ``image`` and ``logits``.

    Returns:
        The largest difference of logits on ``image``.

    Raises:
        InputError: the network cannot be written, or computes something else.
    """
    import onnxruntime

    expected = logits(network, image)
    try:
        torch.onnx.export(
            network,
            (image,),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # whatever the exporter of torch stumbles over
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0][:200]  # without its colours
        raise InputError(
            f"{type(network).__name__} cannot be written as ONNX ({type(error).__name__}: {reason}); export it without "
            "--onnx."
        ) from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": image.numpy()})
    gap = float((torch.from_numpy(found) - expected).abs().max())
    if not gap <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"The ONNX form of {type(network).__name__} computes logits that differ by {gap:.3g} from those of torch; "
            "nothing was written. Export it without --onnx."
        )
    return gap
