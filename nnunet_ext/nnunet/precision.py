"""Precision of training and inference: nnU-Net's, or bfloat16 on a CPU that has units for it.

nnU-Net computes with autocast to float16 on a GPU and in float32 on a CPU. CPUs with AMX or AVX512-BF16 multiply
bfloat16 matrices much faster; ``nnunet-ext plans DATASET --option precision.cpu=bfloat16`` writes plans that use them.
Weights, their gradients, the optimizer and the losses stay in float32.

The plans travel to other CPUs. Without such units training and inference are in float32, because PyTorch would emulate
bfloat16 and take many times as long. Logits come out as float32, and differ from those of float32 by at most
:data:`TOLERANCE` of the largest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, autocast, nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import extension_settings

SECTION = "precision"
"""Section of our settings in the plans: ``{"cpu": "bfloat16"}``."""

TOLERANCE = 0.05
"""Largest difference of logits in bfloat16 from those in float32, as a share of the largest logit."""

NO_UNITS = "The plans ask for bfloat16, but this CPU has no units for it (AVX512-BF16 or AMX): training in float32."

_ON_CPU = ("float32", "bfloat16")


class Precision:
    """Precision of one device.

    Args:
        device: of the training or the inference.
        settings: the section :data:`SECTION` of the plans.

    Raises:
        InputError: it names another device or precision.
    """

    def __init__(self, device: torch.device, settings: Mapping[str, Any]) -> None:
        if set(settings) - {"cpu"} or settings.get("cpu", "float32") not in _ON_CPU:
            raise InputError(
                f"The plans have the precision {dict(settings)}; known are {{'cpu': 'float32'}} (nnU-Net's) and "
                "{'cpu': 'bfloat16'}; on a GPU it is always nnU-Net's."
            )
        self.device_type = device.type
        self.planned_bfloat16 = device.type == "cpu" and settings.get("cpu") == "bfloat16"

    @property
    def bfloat16(self) -> bool:
        """Whether the plans ask for bfloat16 and this CPU has units for it."""
        return self.planned_bfloat16 and has_bfloat16_units()

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast for one forward pass. On a GPU it is nnU-Net's own."""
        if self.bfloat16:
            return autocast("cpu", dtype=torch.bfloat16)
        # mps and cpu: as nnUNetTrainer.train_step
        return autocast(self.device_type, enabled=True) if self.device_type == "cuda" else nullcontext()

    @contextmanager
    def inference(self, threads: int | None = None) -> Iterator[None]:
        """Context of inference: :meth:`autocast` without gradients.

        Args:
            threads: of PyTorch on the CPU; None leaves their number as it is.
        """
        before = torch.get_num_threads()
        if threads:
            torch.set_num_threads(threads)
        try:
            with torch.inference_mode(), self.autocast():
                yield
        finally:
            torch.set_num_threads(before)

    def guard(self, loss: nn.Module) -> None:
        """Give nnU-Net's losses float32 logits: autocast computes softmax and sums so on a GPU, but not on a CPU."""
        if self.planned_bfloat16:
            for module in loss.modules():
                module.register_forward_pre_hook(_logits_in_float32)


def has_bfloat16_units() -> bool:
    """Whether this CPU multiplies in bfloat16, which is AMX or AVX512-BF16; PyTorch knows of no others."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def planned_precision(device: torch.device, configuration: Any) -> Precision:
    """Return the precision of a model.

    Args:
        device: of the network.
        configuration: nnU-Net's configuration manager of the plans.
    """
    return Precision(device, extension_settings(configuration.configuration, SECTION))


def infer_in(network: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    """Let a network, which nnU-Net's predictor calls in float32 on a CPU, infer in the precision of the plans.

    What it computes in training is left alone. Nothing is added to its weights.

    Args:
        network: see above; returned.
        settings: the section :data:`SECTION` of the plans.
    """
    precision = Precision(torch.device("cpu"), settings)
    if precision.planned_bfloat16:
        inference = _Inference(precision)
        network.register_forward_pre_hook(inference.begin)
        network.register_forward_hook(inference.end, always_call=True)
    return network


def infer_in_float32(network: nn.Module) -> nn.Module:
    """Undo :func:`infer_in`, for what needs the network as such; returns it."""
    for hooks in (network._forward_pre_hooks, network._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), _Inference):
                del hooks[key]
    return network


class _Inference:
    """Autocast around each call of a network in evaluation on a CPU, unless the caller has begun it."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self.entered: list[AbstractContextManager[Any]] = []

    @torch.compiler.disable
    def begin(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        on_cpu = bool(inputs) and isinstance(inputs[0], Tensor) and inputs[0].device.type == "cpu"
        begins = not network.training and on_cpu and not torch.is_autocast_enabled("cpu")
        self.entered.append(self.precision.autocast() if begins else nullcontext())
        self.entered[-1].__enter__()

    @torch.compiler.disable
    def end(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        context = self.entered.pop()
        context.__exit__(None, None, None)
        return output if isinstance(context, nullcontext) else _in_float32(output)


def _in_float32(output: Any) -> Any:
    """Outputs of a network, tensors or nested lists and tuples of them, with float32 instead of bfloat16."""
    if isinstance(output, Tensor):
        return output.float() if output.dtype == torch.bfloat16 else output
    if isinstance(output, (list, tuple)):
        parts = [_in_float32(part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def _logits_in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for x in inputs)
