"""Trainers that keep averages of their network (:mod:`nnunet_ext.nnunet.teacher`) beside it.

:class:`KeepsTeachers` manages them: a teacher is built with the auxiliary modules as a copy of the network, updated
after every step, restored on ``--c``, and absent from ``checkpoint_final.pth``, the file that people share. A method
says which teachers there are and how they follow; several methods may each have their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.teacher import Teacher
from nnunet_ext.nnunet.trainer import CommonTrainer

AVERAGE = "averaged_network"
"""Name of the auxiliary module of :class:`AveragedNetwork`."""


class KeepsTeachers(CommonTrainer):
    """A trainer with averages of its network in ``self.aux``, each one more copy of the weights in memory."""

    def teacher_names(self) -> tuple[str, ...]:
        """Return the names of the auxiliary modules that are teachers; those of the bases are kept."""
        return ()

    def teacher_momentum(self, name: str) -> float:
        """Return the momentum m with which a teacher follows the network after this step."""
        raise NotImplementedError(name)

    def follow_network(self, name: str, momentum: float) -> None:
        """Update a teacher; with a momentum of 0 it becomes a copy of the network."""
        cast(Teacher, self.aux[name]).follow(unwrap(self.network), momentum)

    def build_aux(self) -> Mapping[str, nn.Module]:
        teachers = {name: Teacher(unwrap(self.network)) for name in self.teacher_names()}
        return {**super().build_aux(), **teachers}

    def after_step(self) -> None:
        super().after_step()
        for name in self._kept():
            self.follow_network(name, self.teacher_momentum(name))

    def on_train_start(self) -> None:
        super().on_train_start()
        # -pretrained_weights are loaded, and the weights of all processes made equal, after the teachers were built
        for name in self._kept() if self.current_epoch == 0 else ():
            self.follow_network(name, 0.0)

    def load_aux(self, state: dict[str, Tensor]) -> None:
        """Restore the teachers; a checkpoint without one is nnU-Net's own, or that of a finished training."""
        for name in self._kept():
            if not any(key.startswith(f"{name}.") for key in state):
                if self.current_epoch >= self.num_epochs:  # no epoch follows in which it would become an average
                    del self.aux[name]
                    continue
                said = name.replace("_", " ")
                self.print_to_log_file(f"The checkpoint holds no {said}: it starts as a copy of the network")
                self.follow_network(name, 0.0)
                state = {**state, **self.aux[name].state_dict(prefix=f"{name}.")}
        # --val_best loads a checkpoint with teachers after the end of the training, which removed them
        gone = tuple(f"{name}." for name in self.teacher_names() if name not in self.aux)
        super().load_aux({key: value for key, value in state.items() if not key.startswith(gone)})

    def on_train_end(self) -> None:
        for name in self._kept():
            del self.aux[name]
        super().on_train_end()

    def _kept(self) -> list[str]:
        """Names of the existing teachers; none after the end of a training."""
        return [name for name in self.teacher_names() if name in self.aux]


class AveragedNetwork(KeepsTeachers):
    """A trainer that may keep an average of its network with a constant momentum."""

    @property
    def average_momentum(self) -> float | None:
        """Momentum m of the average; None: there is no average."""
        return None

    def average(self) -> Teacher:
        """Return the average of the network."""
        return cast(Teacher, self.aux[AVERAGE])

    def teacher_names(self) -> tuple[str, ...]:
        return (*super().teacher_names(), *([] if self.average_momentum is None else [AVERAGE]))

    def teacher_momentum(self, name: str) -> float:
        if name != AVERAGE or self.average_momentum is None:
            return super().teacher_momentum(name)
        # in the first steps the mean of all networks so far: the untrained one does not stay in it for long
        return min(self.average_momentum, self.step / (self.step + 1))
