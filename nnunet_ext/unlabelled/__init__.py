"""Images without labels: checked, preprocessed beside the labelled data, and drawn in training.

Read in this order: ``found`` (where they are), ``check`` (their faults), ``prepared`` (the preprocessed ones, and their
plans), ``preprocess`` (``nnunet-ext unlabelled``), ``pool`` (those that a fold may use), ``options``, ``loader``
(patches of them in nnU-Net's batches), ``training`` (the mix-in for trainers).

Nothing invents or reads labels for them: a trainer gets images only.
"""
