"""The teacher: a moving average of the network (exponential, EMA), which sees the patch as a whole.

After each step of the optimizer ``teacher ← m · teacher + (1 − m) · student``. m soon rises from 0 to a base, and stays
there. So the teacher equals the student at first, and is then a mean over about ``1 / (1 − m)`` steps, always the same
share of the training (``ema_memory`` in the options).

Deviations from the published code, each with its reason:

* *m follows the steps of the whole training.* The code computes that schedule, too, but looks it up by the number of
  the batch within its epoch: m starts at 0 again in every epoch and never exceeds 0.05, so the code's teacher is the
  student of the step before. ``ema_restarts`` in the options restores it.
* *The base follows the length of the training.* 0.996 is a mean over 250 steps, a thousandth of nnU-Net's 250,000. In a
  training of 1000 steps the student would be asked to resemble a network of more than half of the training ago.
* *m does not rise to 1.* The code intends that, by a half cosine. At the end the teacher would be a network of 10 to 20
  % of the training ago, while the learning rate falls and the student is at its best. That is good where the teacher is
  the product; here it is a target. ``ema_final`` in the options restores it.
* *The teacher is in evaluation mode and without gradient.* In part of the code it has a gradient and dropout.
* *Statistics of norms are averaged, too*, see :mod:`nnunet_ext.nnunet.teacher`.
"""

from __future__ import annotations

import math

from nnunet_ext.nnunet.teacher import Teacher

__all__ = ["Teacher", "ema_momentum"]


def ema_momentum(step: int, total_steps: int, base: float, final: float, warmup_steps: int) -> float:
    """The momentum m after ``step``: linear from 0 to ``base``, then a half cosine to ``final``.

    Args:
        step: from 0.
        total_steps: of the schedule; beyond it m stays at ``final``.
        base: m at the end of the warm-up.
        final: m at the end of the training.
        warmup_steps: those of the linear part, which begins with 0 and ends with ``base``.
    """
    if step < warmup_steps:
        return base * step / max(1, warmup_steps - 1)
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (base - final) * (1 + math.cos(math.pi * done)) / 2
