"""The common trainer: stock nnU-Net with four seams that every method of this package uses.

1. **Named loss terms, in one pass or several.** The step itself is written once, here, and asks in this order:
   :meth:`CommonTrainer.loss_passes` what is computed one after the other (one forward pass of the network unless a
   method says otherwise), :meth:`CommonTrainer.network_input` what the network sees of a batch,
   :meth:`CommonTrainer.compute_terms` which loss terms its output has, :meth:`CommonTrainer.term_weight` how much each
   counts, and :meth:`CommonTrainer.after_step` what follows the optimizer. Each pass is followed by its own backward
   pass, so two passes need the memory of one. The mean of every term is logged each epoch.
2. **Auxiliary modules.** What inference does not need (teachers, projection heads) lives in :attr:`CommonTrainer.aux`:
   optimised with the network, saved in the checkpoint under :data:`CHECKPOINT_KEY`, restored on ``--c``, and absent
   from ``network_weights``, so that the network stays what nnU-Net planned.
3. **Schedule from the plans.** Epochs and iterations come from the plans (``nnunet-ext plans``) or from the class name
   (``…_50epochs``).
4. **Whole checkpoints.** Written to a temporary file, then renamed: a killed training never leaves half a file. Two
   trainings of one fold do not run at once, see :mod:`nnunet_ext.nnunet.results`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch import distributed as dist

from nnunet_ext.data.channels import channel_names
from nnunet_ext.devices import require_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.nnunet import plans as plans_file
from nnunet_ext.nnunet.checkpoints import read_checkpoint
from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.nnunet.precision import SECTION as PRECISION
from nnunet_ext.nnunet.precision import Precision
from nnunet_ext.nnunet.pretrained import install as install_pretrained_weights
from nnunet_ext.nnunet.results import alone_in, written_or_said_why
from nnunet_ext.nnunet.unet import PlannedUNet

CHECKPOINT_KEY = "nnunet_ext"
SEGMENTATION = "segmentation"
"""Name of the term that is nnU-Net's own loss."""

GRADIENT_CLIP = 12.0  # nnUNetTrainer.train_step


class CommonTrainer(nnUNetTrainer):
    """Base of all trainers of this package; see the module's docstring."""

    fixed_num_epochs: ClassVar[int | None] = None
    """Set by the catalogue for ``…_<N>epochs``; wins over the plans."""

    hyperparameters: ClassVar[Mapping[str, Any]] = {}
    """Attributes that ``nnUNetTrainer.__init__`` sets and this trainer wants otherwise, such as ``initial_lr``."""

    enable_deep_supervision: bool
    _best_ema: float | None

    term_weights: ClassVar[Mapping[str, float]] = {}
    """Weight of every loss term; 1 for a term that is not listed."""

    # nnU-Net reads the parameter names of __init__ and restores the trainer from them: exactly these five
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        plans_file.remember_labels(plans, configuration, dataset_json)
        require_device(device.type, "-device")
        with written_or_said_why(Path(os.environ.get("nnUNet_results", "."))):
            super().__init__(plans, configuration, fold, dataset_json, device)
        self.labels = LabelView.from_label_manager(self.label_manager)
        self.aux = nn.ModuleDict()
        for name, value in self.hyperparameters.items():
            setattr(self, name, value)
        settings = self.configuration_manager.configuration
        self.precision = Precision(self.device, plans_file.extension_settings(settings, PRECISION))
        self._apply_schedule(plans_file.extension_settings(settings, "schedule"))

    def _apply_schedule(self, schedule: Mapping[str, int]) -> None:
        unknown = set(schedule) - set(plans_file.SCHEDULE)
        if unknown:
            raise InputError(
                f"Plans {self.plans_manager.plans_name}, configuration {self.configuration_name}: unknown schedule "
                f"entries {sorted(unknown)}; known are {sorted(plans_file.SCHEDULE)}."
            )
        for word, attribute in plans_file.SCHEDULE.items():
            setattr(self, attribute, schedule.get(word, getattr(self, attribute)))
        if self.fixed_num_epochs is not None:
            self.num_epochs = self.fixed_num_epochs
        # nnU-Net saves every 50 epochs; a schedule of 12 epochs would never be saved before its end
        self.save_every = max(1, min(50, self.num_epochs // 10))

    @staticmethod
    def planned_unet(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool,
    ) -> PlannedUNet:
        """The planned network, ready to attach modules to; for ``build_network_architecture`` of a method.

        Raises:
            InputError: the plans describe no U-Net.
        """
        plans_file.require_unet(configuration_manager.configuration, f"Plans {plans_manager.plans_name}")
        planned = PlannedUNet(
            nnUNetTrainer.build_network_architecture(
                plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
            )
        )
        if not enable_deep_supervision:
            # the coarser ones are computed for nobody, and distributed training allows no parameters without gradient
            planned.decoder.seg_layers[:-1].requires_grad_(False)
        return planned

    @property
    def image_channels(self) -> int:
        """Channels of the image; in a cascade the previous stage's prediction follows them."""
        return len(channel_names(self.dataset_json))

    # -- what a method overrides ---------------------------------------------------------------------------------

    def build_aux(self) -> Mapping[str, nn.Module]:
        """Modules that training needs and inference does not, by name. Called once, when the network exists."""
        return {}

    def loss_passes(self, data: Tensor, target: Tensor | list[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Forward passes of one training step, one after the other, each as its loss terms by name.

        The step optimises the sum over all passes: each is followed by its backward pass, which frees its graph, before
        the next begins. A method with several passes keeps nothing of a graph beyond its ``yield`` and gives each term
        a name of its own. A pass that only some of the steps make is left out in the others; its terms are logged as
        means over the steps that made it.

        Args:
            data: ``(B, C, *spatial)``, as the loader gives it.
            target: ``(B, 1 or R, *spatial)``; with deep supervision a list of these, finest first.
        """
        yield self.compute_terms(self.network(self.network_input(data)), data, target)

    def network_input(self, data: Tensor) -> Tensor:
        """What the network sees in training of ``data``, the loader's ``(B, C, *spatial)``."""
        return data

    def compute_terms(self, output: Any, data: Tensor, target: Tensor | list[Tensor]) -> dict[str, Tensor]:
        """Loss terms of one forward pass, each a scalar.

        The same names at every call: a term that does not apply to a batch is ``0 *`` something of the graph.

        Args:
            output: of the network in training mode; see :mod:`nnunet_ext.nnunet.outputs`.
            data: of the loader; the network may have seen something else, see :meth:`network_input`.
            target: as in :meth:`loss_passes`.
        """
        return {SEGMENTATION: self.loss(output, target)}

    def current_term_weights(self) -> Mapping[str, float]:
        """Weights of the terms in this step; a method overrides it where they change during the training."""
        return self.term_weights

    def term_weight(self, name: str) -> float:
        """Weight of one term in this step; a method that wraps others overrides it for the terms it adds."""
        return self.current_term_weights().get(name, 1.0)

    def after_step(self) -> None:
        """Called once after every step of the optimizer."""

    # -- nnU-Net's hooks -----------------------------------------------------------------------------------------

    def initialize(self) -> None:
        if len(self.configuration_manager.network_arch_init_kwargs.get("strides", ())) == 2:
            # nnUNetTrainer._build_loss leaves the coarsest output out, which in a network of two stages is the only
            # one: its weights are 0 / 0, and every loss is nan
            self.enable_deep_supervision = False
        super().initialize()
        self.precision.guard(self.loss)
        install_pretrained_weights()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Build the auxiliary modules and the optimizer; the first hook that nnU-Net calls when the network exists."""
        self.aux = nn.ModuleDict(dict(self.build_aux())).to(self.device)
        if self.is_ddp:  # as DistributedDataParallel does for the network: every process drew its own
            for tensor in self.aux.state_dict().values():
                dist.broadcast(tensor, 0)
        return self.build_optimizer([p for p in self.aux.parameters() if p.requires_grad])

    def build_optimizer(self, aux_parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
        """Optimizer and schedule for the network and these parameters; stock nnU-Net's unless a method overrides it."""
        optimizer, scheduler = super().configure_optimizers()
        if aux_parameters:
            optimizer.add_param_group({"params": aux_parameters})
        return optimizer, scheduler

    def run_training(self) -> None:
        with alone_in(Path(self.output_folder)) if self.local_rank == 0 else nullcontext():
            super().run_training()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.aux.train()

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's training step with named terms; with the term of stock nnU-Net alone it is bit for bit the same."""
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        if isinstance(target, list):
            target = [t.to(self.device, non_blocking=True) for t in target]
        else:
            target = target.to(self.device, non_blocking=True)

        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        values: dict[str, Tensor] = {}
        passes = self.loss_passes(data, target)
        while True:
            # entered again for every pass: until it is left, autocast keeps half-precision copies of the weights, and
            # the backward pass frees what led to them
            with self.precision.autocast():
                terms = next(passes, None)
                if terms is None:
                    break
                loss = sum(
                    (self.term_weight(name) * term.float() for name, term in terms.items()),
                    start=torch.zeros((), device=self.device),
                )
            (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()
            total += loss.detach()
            values |= {f"loss_{name}": term.detach() for name, term in terms.items()}
            del terms, loss  # and with them this pass's graph

        self._average_aux_gradients()
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
            self._clip_gradients()
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            self._clip_gradients()
            self.optimizer.step()
        self.after_step()
        return {"loss": total.cpu().numpy(), **{name: value.cpu().numpy() for name, value in values.items()}}

    def _clip_gradients(self) -> None:
        parameters = [*self.network.parameters(), *self.aux.parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)

    def _average_aux_gradients(self) -> None:
        """The network is inside DistributedDataParallel, the auxiliary modules are not."""
        if self.is_ddp:
            for parameter in self.aux.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end([{"loss": output["loss"]} for output in train_outputs])
        # not every step makes every pass, and nnU-Net collates only what is there at each step
        names = dict.fromkeys(name for output in train_outputs for name in output if name != "loss")
        means = {name: float(np.mean([o[name] for o in train_outputs if name in o])) for name in names}
        if self.is_ddp:
            gathered: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(gathered, means)
            means = {key: float(np.mean([rank[key] for rank in gathered])) for key in means}
        for key, mean in means.items():
            # LocalLogger.log asserts that it knows the key, and the progress plot ends at the shortest list: a new key
            # starts with a nan for every epoch that was trained without it
            self.logger.local_logger.my_fantastic_logging.setdefault(key, [float("nan")] * self.current_epoch)
            self.logger.log(key, mean, self.current_epoch)
        self.print_to_log_file("train terms", {key.removeprefix("loss_"): round(v, 4) for key, v in means.items()})

    def validation_step(self, batch: dict) -> dict:
        if self.labels.ignore_label is None:
            return super().validation_step(batch)
        target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        share = self.labels.annotated(target).float().mean().item()  # before: nnU-Net overwrites ignored voxels
        return {**super().validation_step(batch), "annotated": share}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        super().on_validation_epoch_end(val_outputs)
        if self.labels.ignore_label is not None:
            share = float(np.mean([output["annotated"] for output in val_outputs]))
            self.print_to_log_file(f"Pseudo dice is on annotated voxels only, {share:.1%} of the validation patches")

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        super().perform_actual_validation(save_probabilities)
        if self.labels.ignore_label is not None:
            self.print_to_log_file(
                "The validation Dice above is on annotated voxels only: false positives where nothing is annotated "
                "cost nothing. Compare with dense labels (nnunet-ext evaluate) before you believe it."
            )

    def save_checkpoint(self, filename: str) -> None:
        # nnUNetTrainer.save_checkpoint builds the dict and writes it in one go, straight onto the file. Written to
        # memory instead, our state can be added and the file replaced as a whole.
        buffer = io.BytesIO()
        super().save_checkpoint(buffer)
        if buffer.tell() == 0:  # another rank, or checkpointing disabled
            return
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
        checkpoint[CHECKPOINT_KEY] = {"aux": self.aux.state_dict()}
        with replacing(Path(filename)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # PyTorch complains about a position in the file and hides what the file system said
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        path, checkpoint = read_checkpoint(Path(filename_or_checkpoint), self.device)
        if path != Path(filename_or_checkpoint):
            self.print_to_log_file(
                f"{filename_or_checkpoint} is damaged; the training goes on from {path.name} instead, after epoch "
                f"{checkpoint['current_epoch'] - 1}."
            )
        # read a second time: nnU-Net 2.8.1's load_checkpoint takes a dict, but binds its `checkpoint` only for a name
        super().load_checkpoint(str(path))
        # nnUNetTrainer.on_epoch_end writes the latest checkpoint before it looks whether the epoch was the best one, so
        # it holds the best value up to the epoch before, and a worse epoch would replace checkpoint_best.pth
        self._best_ema = max(self.logger.get_value("ema_fg_dice", step=None), default=self._best_ema)
        self.load_aux(checkpoint.get(CHECKPOINT_KEY, {}).get("aux", {}))

    def load_aux(self, state: dict[str, Tensor]) -> None:
        """Restore the auxiliary modules; ``state`` is empty if the checkpoint is stock nnU-Net's."""
        self.aux.load_state_dict(state)


class nnUNetTrainerReference(CommonTrainer):
    """The common trainer with no method: stock nnU-Net, with our schedules, log and checkpoints.

    The baseline that every method is compared with; its losses equal ``nnUNetTrainer``'s bit for bit.
    """
