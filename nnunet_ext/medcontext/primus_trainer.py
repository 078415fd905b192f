"""MedContext around nnU-Net's transformers, the Primus trainers.

What is hidden are voxels of the input, as around planned networks, in blocks that are made of whole tokens. Primus
embeds a token by a linear map of its voxels alone, so with ``fill`` zero the transformer gets, for every hidden token,
the bias of that map and its position: one learned vector, which starts at 0, like the mask token of the published code.
Its decoder has no skip connections; nothing shows what is hidden.

Deviations from the published code, each with its reason:

* *The mask token is the bias of the embedding*, not a parameter of its own: the network stays the one of nnU-Net's
  trainer, with its names and its inference. Blocks in which an image is 0 throughout look the same.
* *Primus' own* ``mask_token`` *is not used.* It is a constant 0 that fills dropped tokens behind the transformer, for
  pre-training; which tokens are dropped cannot be chosen from outside.
"""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer

from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.masking import default_block
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.nnunet.primus import TOKEN, AroundPrimus


class MedContextPrimus(MedContext, AroundPrimus):
    """MedContext in front of one of nnU-Net's Primus trainers; blocks are made of whole tokens."""

    @property
    def block(self) -> int:
        """Side of a hidden column in voxels, a multiple of that of a token.

        Raises:
            InputError: the option is none.
        """
        chosen = self.context.block
        if chosen is None:
            return max(TOKEN, default_block(self.training_patch_size[-2:]))  # both are powers of two
        if chosen % TOKEN:
            raise InputError(
                f"medcontext option block is {chosen}, but {type(self).__name__} hides whole tokens, which are {TOKEN} "
                f"voxels wide; choose a multiple of {TOKEN}."
            )
        return chosen


class nnUNetTrainerMedContextPrimusS(MedContextPrimus, nnUNet_Primus_S_Trainer):
    """MedContext around the small Primus, with images without labels where there are any."""
