"""Images without labels: they are checked, preprocessed beside the labelled data, and drawn in training.

Read in this order: ``found`` (where they lie), ``check`` (what is wrong with them), ``prepared`` (the preprocessed
ones, and for which plans they are), ``preprocess`` (``nnunet-ext unlabelled``), ``pool`` (which of them a fold may
use), ``options``, ``loader`` (patches of them in nnU-Net's batches), ``training`` (the mix-in for trainers).

No label is made up for them, and none is read: whoever trains with them gets images.
"""
