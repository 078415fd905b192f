"""The common trainer: stock nnU-Net with the hooks that every method of this package uses.

1. **Options.** A class names the options of its method (:attr:`CommonTrainer.methods`); they are read from the plans
   once, refused in one sentence before anything is written, and lie under ``self.options``
   (:mod:`nnunet_ext.nnunet.options`).
2. **Network.** :meth:`CommonTrainer.attach` adds the modules of a method to the planned network.
3. **Named loss terms, in one pass or several.** The step itself is written once, here, and calls in this order:
  :meth:`CommonTrainer.prepare_batch`, :meth:`CommonTrainer.loss_passes` (one forward pass of the network unless a
  method says otherwise), :meth:`CommonTrainer.network_input`, :meth:`CommonTrainer.run_network`,
  :meth:`CommonTrainer.compute_terms`, :meth:`CommonTrainer.term_weight` and :meth:`CommonTrainer.after_step`. Each pass
  is followed by its own backward pass, so two passes need the memory of one. Each epoch logs the mean of every term
  with its weight, and beside them the statistics (:meth:`CommonTrainer.record`), which no loss contains.
4. **Auxiliary modules.** Modules that inference does not need (teachers, projection heads) are in
  :attr:`CommonTrainer.aux`: optimised with the network, saved in the checkpoint under :data:`CHECKPOINT_KEY`, restored
  on ``--c``, and absent from ``network_weights``, so that the network stays what nnU-Net planned.
5. **Schedule from the plans.** Epochs, iterations and learning rate come from the plans (``nnunet-ext plans``), epochs
   also from the class name (``…_50epochs``).
6. **A time to stop.** A file or a time limit ends a training after an epoch, see :mod:`nnunet_ext.nnunet.stopping`.
7. **Whole checkpoints.** Written to a temporary file, then renamed: a killed training never leaves half a file. Two
   trainings of one fold do not run at once, see :mod:`nnunet_ext.nnunet.results`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch import distributed as dist

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.raw import other_in_raw
from nnunet_ext.devices import require_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.nnunet import plans as plans_file
from nnunet_ext.nnunet.annotated import never_annotated
from nnunet_ext.nnunet.checkpoints import read_checkpoint, to_continue, write_checkpoint
from nnunet_ext.nnunet.labels import LabelView, finest
from nnunet_ext.nnunet.loggers import loggers, wanted_loggers
from nnunet_ext.nnunet.loss_line import loss_line
from nnunet_ext.nnunet.noted_options import (
    noted_for,
    refuse_other_fold,
    refuse_other_options,
    refusing_other_weights,
    to_note,
)
from nnunet_ext.nnunet.options import THE_PLANS, MethodOptions, all_methods, merged, not_applied, resolve
from nnunet_ext.nnunet.plans import KEY
from nnunet_ext.nnunet.precision import NO_UNITS, Precision, infer_in
from nnunet_ext.nnunet.precision import SECTION as PRECISION
from nnunet_ext.nnunet.pretrained import install as install_pretrained_weights
from nnunet_ext.nnunet.results import alone_in, written_or_said_why
from nnunet_ext.nnunet.schedule import Schedule, warmed_up
from nnunet_ext.nnunet.stopping import Stopped, StopRule, limit_from_environment
from nnunet_ext.processes.time_left import time_left

CHECKPOINT_KEY = "nnunet_ext"
SEGMENTATION = "segmentation"
"""Name of the term that is nnU-Net's own loss."""
INSIDE = "inside"
"""Entry of batches that tell the image from its padding (:mod:`nnunet_ext.nnunet.padding`)."""

TERM, STATISTIC = "loss_", "stat_"
"""Prefixes of terms and statistics in nnU-Net's log."""

Batch = dict[str, Any]
"""A batch on the device of the training.

``data`` is ``(B, C, *spatial)``; ``target`` is ``(B, 1 or R, *spatial)``, with deep supervision a list of these, finest
first; ``keys`` are the names of the cases. Methods and their loaders add entries.
"""


class CommonTrainer(nnUNetTrainer):
    """Base of all trainers of this package; see the module's docstring."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = ()
    """Options of the methods that a class brings; those of its bases are kept."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Section → option → value: what makes a trainer what it is; wins over the plans. Merged over the bases."""

    published: ClassVar[bool] = False
    """Use the published values; options in the plans do not apply, nor does their learning rate if the trainer has the
    published optimizer."""

    term_weights: ClassVar[Mapping[str, float]] = {}
    """Weights of loss terms. Merged over the bases; wins over :meth:`option_weights`."""

    fixed_num_epochs: ClassVar[int | None] = None
    """Set by the catalogue for ``…_<N>epochs``; wins over the plans."""

    hyperparameters: ClassVar[Mapping[str, Any]] = {}
    """Attributes of ``nnUNetTrainer.__init__`` with other values in this trainer, such as ``initial_lr``."""

    declares: ClassVar[tuple[str, ...]] = ()
    """Entries of ``dataset.json`` beside nnU-Net's that this trainer learns from."""

    patches_only: ClassVar[bool] = False
    """Whether a loss of this trainer needs patches of the planned number of axes, not clips of slices."""

    gradient_clip: ClassVar[float] = 12.0
    """Largest norm of the gradients of a step; that of ``nnUNetTrainer.train_step``."""

    enable_deep_supervision: bool
    _best_ema: float | None

    # nnU-Net reads the parameter names of __init__ and restores the trainer from them: exactly these five
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        # whatever can be refused is refused before nnU-Net makes a folder for the results
        settings = PlansManager(plans).get_configuration(configuration).configuration
        where = f"Plans {plans['plans_name']}, configuration {configuration},"
        self.options = self.resolve_options(settings, where)
        self.schedule = self.resolve_schedule(settings, where)
        self.check_plans(plans, configuration)
        for section, content in self.to_remember(plans, configuration, dataset_json).items():
            plans_file.remember(plans, configuration, section, content)
        require_device(device.type, "-device")
        limit, self.other_loggers = limit_from_environment(), wanted_loggers()
        with written_or_said_why(Path(os.environ.get("nnUNet_results", "."))):
            super().__init__(plans, configuration, fold, dataset_json, device)
        self.labels = LabelView.from_label_manager(self.label_manager)
        self.aux = nn.ModuleDict()
        self.step_in_epoch = 0
        self.stop_rule = StopRule(Path(self.output_folder), limit)
        self.unannotated: list[str] = []
        self._recorded: dict[str, list[Tensor]] = {}
        for name, value in self.hyperparameters.items():
            setattr(self, name, value)
        settings = self.configuration_manager.configuration
        self.precision = Precision(self.device, plans_file.extension_settings(settings, PRECISION))
        if self.precision.planned_bfloat16 and not self.precision.bfloat16:
            self.print_to_log_file(NO_UNITS)
        self.schedule.apply(self)
        # nnU-Net saves every 50 epochs; a schedule of 12 epochs would never be saved before its end
        self.save_every = max(1, min(50, self.num_epochs // 10))
        self.adapt_configuration()

    @classmethod
    def resolve_options(cls, settings: Mapping[str, Any], where: str = THE_PLANS) -> SimpleNamespace:
        """Return the options of all methods of this trainer by section.

        Args:
            settings: resolved configuration of the plans.
            where: the name of the plans, for messages.

        Raises:
            InputError: the plans have an unknown option or a value that does not fit.
        """
        fixed, options = merged(cls, "fixed_options"), SimpleNamespace()
        for method in all_methods(cls):
            section = method.SECTION
            overrides = {**noted_for(method, settings), **plans_file.extension_settings(settings, section)}
            own = {"published": cls.published, "fixed": fixed.get(section, {}), "where": where}
            chosen = resolve(method, overrides, **own)
            chosen.require_fitting(settings)
            setattr(options, section, chosen)
        return options

    @classmethod
    def resolve_schedule(cls, settings: Mapping[str, Any], where: str = THE_PLANS) -> Schedule:
        """Return the schedule of the plans, as far as it applies to this trainer.

        Args:
            settings: resolved configuration of the plans.
            where: the name of the plans, for messages.

        Raises:
            InputError: the plans have an unknown entry or a value that does not fit.
        """
        schedule = Schedule.from_plans(plans_file.extension_settings(settings, "schedule"), where)
        if cls.fixed_num_epochs is not None:
            schedule = replace(schedule, epochs=cls.fixed_num_epochs)
        own_optimizer = cls.published and cls.build_optimizer is not CommonTrainer.build_optimizer
        return schedule.without_optimizer() if own_optimizer else schedule

    @property
    def image_channels(self) -> int:
        """Channels of the image; in a cascade the previous stage's prediction follows them."""
        return len(channel_names(self.dataset_json))

    @property
    def training_patch_size(self) -> list[int]:
        """Size of the patches that the loader gives in training."""
        return list(self.configuration_manager.patch_size)

    # -- what a method overrides ---------------------------------------------------------------------------------

    @classmethod
    def check_plans(cls, plans: Mapping[str, Any], configuration: str) -> None:
        """Raise InputError if this trainer cannot train this configuration; called before anything is written."""
        if cls.attach.__func__ is not CommonTrainer.attach.__func__:  # type: ignore[attr-defined]
            settings = PlansManager(dict(plans)).get_configuration(configuration).configuration
            plans_file.require_unet(settings, f"Plans {plans['plans_name']}")

    def to_remember(
        self, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
    ) -> dict[str, Mapping[str, Any]]:
        """Return what the plans must remember for inference, by section; called before anything else exists.

        nnU-Net rebuilds the network without ``dataset.json`` (:meth:`attach` receives plans only), but a network that
        ends in a softmax over clusters must know whether its heads exclude each other.
        """
        manager = PlansManager(plans).get_label_manager(dataset_json)
        known: dict[str, Mapping[str, Any]] = {"labels": {"has_regions": manager.has_regions}}
        noted = {} if self.published else to_note(self.options)  # published values are not read from plans
        settings = PlansManager(plans).get_configuration(configuration).configuration
        stale = plans_file.extension_settings(settings, plans_file.NOTED)  # of another model, whose plans these were
        return {**known, plans_file.NOTED: noted} if noted or stale else known

    def adapt_configuration(self) -> None:
        """Change the configuration of this training, such as its patch size; called at the end of ``__init__``."""

    @classmethod
    def attach(cls, network: nn.Module, settings: Mapping[str, Any], options: SimpleNamespace) -> nn.Module:
        """Return the planned network with the modules of the method, or the network as it is.

        Called for training and for inference. :class:`nnunet_ext.nnunet.unet.PlannedUNet` walks over the planned
        network; parameter names of the planned part stay.

        Args:
            network: that nnU-Net planned.
            settings: resolved configuration of the plans.
            options: see :meth:`resolve_options`.
        """
        return network

    def build_aux(self) -> Mapping[str, nn.Module]:
        """Return modules that training needs and inference does not, by name; called once the network exists."""
        return {}

    def prepare_batch(self, batch: Batch) -> Batch:
        """Return the batch that all hooks see; ``batch`` is the loader's, on the device."""
        return batch

    def loss_passes(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Yield the loss terms of each forward pass of one training step, one pass after the other.

        The step optimises the sum over all passes: each is followed by its backward pass, which frees its graph, before
        the next begins. If you yield several passes, do not keep tensors of a pass after yielding it, and give each
        term a name of its own. Leave a pass out in the steps that do not make it; its terms are logged as means over
        the steps that did.
        """
        image = self.network_input(batch)
        yield self.compute_terms(self.run_network(image, batch), batch)

    def network_input(self, batch: Batch) -> Tensor:
        """Return what the network sees in training, ``(B, C, *spatial)``."""
        return batch["data"]

    def run_network(self, image: Tensor, batch: Batch) -> Any:
        """Run the network once in training; a method whose network takes more than the image overrides this."""
        return self.network(image)

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the loss terms of one forward pass by name, each a scalar.

        Return the same names at every call: a term that does not apply to a batch is ``0 *`` something of the graph.

        Args:
            output: of :meth:`run_network`; see :mod:`nnunet_ext.nnunet.labels`.
            batch: see :data:`Batch`.
        """
        return {SEGMENTATION: self.loss(output, batch["target"])}

    def option_weights(self) -> Mapping[str, float]:
        """Return the weights of the method's terms in this step, from its options and the epoch."""
        return {}

    def term_weight(self, name: str) -> float:
        """Return the weight of one term in this step; 1 by default."""
        weights = {**self.option_weights(), **merged(type(self), "term_weights")}
        return weights.get(name, 1.0)

    def record(self, name: str, value: Tensor) -> None:
        """Log a statistic of this step, a scalar; it is no part of the loss, and may be nan."""
        self._recorded.setdefault(STATISTIC + name, []).append(value.detach().float())

    def after_step(self) -> None:
        """Called once after every step of the optimiser."""

    # -- nnU-Net's hooks -----------------------------------------------------------------------------------------

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the planned network with the modules of the method, for training and for inference."""
        settings = configuration_manager.configuration
        network = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        attached = cls.attach(network, settings, cls.resolve_options(settings))
        return infer_in(attached, plans_file.extension_settings(settings, PRECISION))

    def initialize(self) -> None:
        if len(self.configuration_manager.network_arch_init_kwargs.get("strides", ())) == 2:
            # nnUNetTrainer._build_loss leaves the coarsest output out, which in a network of two stages is the only
            # one: its weights are 0 / 0, and every loss is nan
            self.enable_deep_supervision = False
        if not Path(self.preprocessed_dataset_folder).is_dir():
            plans = self.plans_manager
            command = plans_file.preprocess_command(plans.dataset_name, plans.plans_name, [self.configuration_name])
            raise InputError(f"There is no preprocessed data in {self.preprocessed_dataset_folder}; run: {command}.")
        super().initialize()
        self.precision.guard(self.loss)
        install_pretrained_weights(channel_names(self.dataset_json))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Build the auxiliary modules and the optimiser; the first hook that nnU-Net calls when the network exists."""
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
        self.schedule.set_momentum(optimizer)
        return optimizer, scheduler

    def run_training(self) -> None:
        self.stop_rule = StopRule(Path(self.output_folder), self.stop_rule.limit)  # its time begins now
        with self._alone():
            if self.current_epoch == 0:
                model, fold = Path(self.output_folder_base), Path(self.output_folder)
                refuse_other_fold(model, fold, self.configuration_name, self.options)
            self._add_loggers(resume=self.current_epoch > 0)
            super().run_training()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self._best_ema is not None and np.isnan(self._best_ema):  # nothing would ever be better
            self._best_ema = None
        per_epoch = self.stop_rule.epoch_ended()
        if self.current_epoch < self.num_epochs:
            self.print_to_log_file(time_left(per_epoch * (self.num_epochs - self.current_epoch)))
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Leave the training after this epoch, with a whole checkpoint; all ranks do so together."""
        reason = [self.stop_rule.reason() if self.local_rank == 0 else None]
        if self.is_ddp:
            dist.broadcast_object_list(reason, 0)
        if reason[0] is None:
            return
        self.current_epoch -= 1  # nnU-Net saves before it counts the epoch
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self.current_epoch += 1
        self.print_to_log_file(f"Stopped after {self.current_epoch} of {self.num_epochs} epochs, because {reason[0]}.")
        if not self.disable_checkpointing:
            self.print_to_log_file("The same command with --c goes on from here.")
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()
        if self.is_ddp:
            dist.destroy_process_group()
        raise Stopped

    def on_train_end(self) -> None:
        super().on_train_end()
        self._forget_requests()

    def _forget_requests(self) -> None:
        """A request to stop that came too late is none for the next training."""
        if self.local_rank == 0:
            self.stop_rule.forget()

    def on_train_start(self) -> None:
        super().on_train_start()
        settings = self.configuration_manager.configuration
        for section, options in vars(self.options).items():
            self.print_to_log_file(f"Options of {section}: {options}")
        used = {**vars(self.options), "schedule": self.schedule}
        if ignored := not_applied(used, {name: plans_file.extension_settings(settings, name) for name in used}):
            self.print_to_log_file(f"{type(self).__name__} does not use {', '.join(ignored)} of the plans")
        declared = self.plans_manager.dataset_name, self.dataset_json, self.declares
        if self.declares and (other := other_in_raw(*declared)):
            if self.current_epoch == 0:
                raise InputError(other)
            self.print_to_log_file(f"WARNING: {other}")
        if self.labels.ignore_label is not None:
            self.unannotated = never_annotated(self.training_data, self.dataset_json["labels"])
        if self.unannotated and self.local_rank == 0:
            self.print_to_log_file(
                f"WARNING: no training case of fold {self.fold} annotates {', '.join(self.unannotated)}, so it cannot "
                "be learned; annotate it in some cases, or choose other folds (nnunet-ext splits)"
            )

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        self.training_data, validation = super().get_tr_and_val_datasets()
        return self.training_data, validation

    @property
    def what_validation_patches_show(self) -> str:
        """Name, for the log, the voxels among which the annotated share is counted."""
        return "the validation patches, what lies outside of the images included"

    def _alone(self) -> AbstractContextManager[None]:
        """Context in which no other process trains or validates this fold."""
        return alone_in(Path(self.output_folder)) if self.local_rank == 0 else nullcontext()

    def _add_loggers(self, *, resume: bool) -> None:
        """Make the loggers, once this process is alone: they may remove what an earlier training has logged."""
        folder, words = Path(self.output_folder), self.other_loggers
        self.other_loggers = []
        if self.local_rank == 0:
            name = f"{folder.parent.parent.name} {folder.parent.name} fold {self.fold}"
            self.logger.loggers += loggers(words, folder, name, resume=resume, say=self.print_to_log_file)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.aux.train()
        self.step_in_epoch = 0

    @property
    def step(self) -> int:
        """Number of this step in the whole training, from 0."""
        return self.current_epoch * self.num_iterations_per_epoch + self.step_in_epoch

    def to_device(self, batch: Batch) -> Batch:
        """Move the tensors of a batch to the training device."""

        def moved(value: Any) -> Any:
            if isinstance(value, list) and all(isinstance(item, Tensor) for item in value):
                return [moved(item) for item in value]
            return value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value

        return {key: moved(value) for key, value in batch.items()}

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's training step with named terms; with only the term of stock nnU-Net it is bit for bit the same."""
        self._recorded = {}
        batch = self.prepare_batch(self.to_device(batch))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        values: dict[str, Tensor] = {}
        passes = self.loss_passes(batch)
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
            values |= {TERM + name: term.detach() for name, term in terms.items()}
            del terms, loss  # and with them this pass's graph

        self._average_aux_gradients()
        with warmed_up(self.optimizer, self.step, self.schedule):
            if self.grad_scaler is not None:
                self.grad_scaler.unscale_(self.optimizer)
                self._clip_gradients()
                self.grad_scaler.step(self.optimizer)
                self.grad_scaler.update()
            else:
                self._clip_gradients()
                self.optimizer.step()
        self.after_step()
        self.step_in_epoch += 1
        values |= {name: torch.stack(found).mean() for name, found in self._recorded.items()}
        return {"loss": total.cpu().numpy(), **{name: value.cpu().numpy() for name, value in values.items()}}

    def _clip_gradients(self) -> None:
        parameters = [*self.network.parameters(), *self.aux.parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip)

    def _average_aux_gradients(self) -> None:
        """Average the gradients of the auxiliary modules: DistributedDataParallel does this for the network only."""
        if self.is_ddp:
            for parameter in self.aux.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
            for module in self.aux.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for buffer in module.buffers():  # statistics of rank 0 everywhere, as in the network
                        dist.broadcast(buffer, 0)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end([{"loss": output["loss"]} for output in train_outputs])
        # not every step makes every pass, and nnU-Net collates only what is there at each step
        names = dict.fromkeys(name for output in train_outputs for name in output if name != "loss")
        found = {name: [output[name] for output in train_outputs if name in output] for name in names}
        means = {name: float(np.mean(values)) for name, values in found.items()}
        shares = {name: len(values) / len(train_outputs) for name, values in found.items()}
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, (means, shares))
            keys = dict.fromkeys(key for rank, _ in gathered for key in rank)
            means = {key: float(np.mean([rank[key] for rank, _ in gathered if key in rank])) for key in keys}
            shares = {key: float(np.mean([rank.get(key, 0.0) for _, rank in gathered])) for key in keys}
        for key, mean in means.items():
            # LocalLogger.log asserts that it knows the key, and appends: a nan for every epoch without the key
            known = self.logger.local_logger.my_fantastic_logging.setdefault(key, [])
            known += [float("nan")] * (self.current_epoch - len(known))
            self.logger.log(key, mean, self.current_epoch)
        terms = {key.removeprefix(TERM): mean for key, mean in means.items() if key.startswith(TERM)}
        weights = {name: shares[TERM + name] * self.term_weight(name) for name in terms}
        statistics = {key.removeprefix(STATISTIC): mean for key, mean in means.items() if key.startswith(STATISTIC)}
        self.print_to_log_file(loss_line(terms, weights, statistics))

    def validation_step(self, batch: dict) -> dict:
        if self.labels.ignore_label is None:
            return super().validation_step(batch)
        annotated = self.labels.annotated(finest(batch["target"]))  # before: nnU-Net overwrites ignored voxels
        image = batch.get(INSIDE, torch.ones_like(annotated))
        counts = {"annotated": annotated.sum().item(), "voxels": image.sum().item()}
        return {**super().validation_step(batch), **counts}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        super().on_validation_epoch_end(val_outputs)
        self._average_over_gaps()
        if self.labels.ignore_label is not None:
            annotated, voxels = (sum(output[key] for output in val_outputs) for key in ("annotated", "voxels"))
            share = annotated / max(1, voxels)
            self.print_to_log_file(
                f"Pseudo dice is on annotated voxels only, {share:.1%} of {self.what_validation_patches_show}"
            )

    def _average_over_gaps(self) -> None:
        """Leave epochs without a pseudo Dice out of its moving average, which nnU-Net lets be nan ever after."""
        log = self.logger.local_logger.my_fantastic_logging
        averages, now = log["ema_fg_dice"], log["mean_fg_dice"][-1]
        if np.isnan(averages[-1]):
            before = averages[-2] if len(averages) > 1 else np.nan
            averages[-1] = before if np.isnan(now) else now

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._alone():  # with --val nothing was trained before
            self._add_loggers(resume=True)
            super().perform_actual_validation(save_probabilities)
        self._forget_requests()
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
        with replacing(Path(filename)) as temporary:
            write_checkpoint(checkpoint, temporary)

    # by position only: nnU-Net's master has renamed the parameter
    def load_checkpoint(self, checkpoint_file: str, /) -> None:
        wanted = to_continue(Path(checkpoint_file)) if self.logger.resume else Path(checkpoint_file)  # not with --val
        if wanted != Path(checkpoint_file):
            self.print_to_log_file(
                f"{Path(checkpoint_file).name} is of an earlier training than {wanted.name}, which is continued."
            )
        path, checkpoint = read_checkpoint(wanted, self.device)
        settings = self.configuration_manager.configuration
        refuse_other_options(checkpoint, self.configuration_name, settings, self.options)
        if path != wanted:
            self.print_to_log_file(
                f"{wanted} is damaged; the training goes on from {path.name} instead, after epoch "
                f"{checkpoint['current_epoch'] - 1}."
            )
        plans = checkpoint.get("init_args", {}).get("plans", {}).get("configurations", {})
        began = plans.get(self.configuration_name, {}).get(KEY, {})
        now, methods = settings.get(KEY, {}), vars(self.options).keys()
        with refusing_other_weights(path, self.configuration_name, began, now, methods):
            # read again: load_checkpoint of nnU-Net 2.8.1 takes a dict, but binds its `checkpoint` only for a name
            super().load_checkpoint(str(path))
            self.load_aux(checkpoint.get(CHECKPOINT_KEY, {}).get("aux", {}))
        # nnUNetTrainer.on_epoch_end writes the latest checkpoint before it looks whether the epoch was the best one, so
        # it holds the best value up to the epoch before, and a worse epoch would replace checkpoint_best.pth
        averages = [value for value in self.logger.get_value("ema_fg_dice", step=None) if not np.isnan(value)]
        self._best_ema = max(averages, default=None)

    def load_aux(self, state: dict[str, Tensor]) -> None:
        """Restore the auxiliary modules; ``state`` is empty if stock nnU-Net wrote the checkpoint.

        Raises:
            InputError: they are those of other options.
        """
        there, here = ({key.partition(".")[0] for key in keys} for keys in (state, self.aux.state_dict()))
        if here and not there:
            raise InputError(
                f"The checkpoint is of another trainer: it holds no {', '.join(sorted(here)).replace('_', ' ')}, which "
                f"{type(self).__name__} trains, too; use its weights with -pretrained_weights."
            )
        if there != here:
            differ = ", ".join(name.replace("_", " ") for name in sorted(there ^ here))
            where = "the checkpoint" if there - here else "this training"
            raise InputError(
                f"The checkpoint was written with other options than {self.plans_manager.plans_name} has: {differ} is "
                f"only in {where}; restore the options, or start anew without --c."
            )
        self.aux.load_state_dict(state)


class nnUNetTrainerReference(CommonTrainer):
    """The common trainer with no method: stock nnU-Net, with our schedules, log and checkpoints.

    The baseline that every method is compared with; its losses equal ``nnUNetTrainer``'s bit for bit.
    """
