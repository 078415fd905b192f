"""Trainers that keep an average of their network (:mod:`nnunet_ext.nnunet.teacher`) beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.teacher import Teacher
from nnunet_ext.nnunet.trainer import CommonTrainer

AVERAGE = "average"
"""Name of the auxiliary module."""


class AveragedNetwork(CommonTrainer):
    """A trainer that may keep an average of its network, in ``self.aux``: one more copy of the weights in memory.

    ``checkpoint_final.pth`` does not hold it: that is what people share, and nobody needs a teacher in it.
    """

    @property
    def average_momentum(self) -> float | None:
        """The momentum m of the average; None: there is none."""
        return None

    def build_aux(self) -> Mapping[str, nn.Module]:
        aux = dict(super().build_aux())
        if self.average_momentum is not None:
            aux[AVERAGE] = Teacher(unwrap(self.network))
        return aux

    def average(self) -> Teacher:
        """Return the average of the network."""
        return cast(Teacher, self.aux[AVERAGE])

    def after_step(self) -> None:
        super().after_step()
        if AVERAGE in self.aux and self.average_momentum is not None:
            # in the first steps the mean of all networks so far: the untrained one does not stay in it for long
            self.average().follow(unwrap(self.network), min(self.average_momentum, self.step / (self.step + 1)))

    def on_train_start(self) -> None:
        super().on_train_start()
        # -pretrained_weights are loaded, and the weights of all processes made equal, after the average was built
        if AVERAGE in self.aux and self.current_epoch == 0:
            self.average().follow(unwrap(self.network), 0.0)

    def load_aux(self, state: dict[str, Tensor]) -> None:
        """Restore the average; a checkpoint without one is nnU-Net's own, or that of a finished training."""
        if AVERAGE in self.aux and not any(key.startswith(f"{AVERAGE}.") for key in state):
            self.print_to_log_file("The checkpoint holds no averaged network: it starts as a copy of the network")
            self.average().follow(unwrap(self.network), 0.0)
            state = {**state, **self.aux[AVERAGE].state_dict(prefix=f"{AVERAGE}.")}
        super().load_aux(state)

    def on_train_end(self) -> None:
        if AVERAGE in self.aux:
            del self.aux[AVERAGE]
        super().on_train_end()
