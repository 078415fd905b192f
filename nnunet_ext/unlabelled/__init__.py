"""Images without labels: checked, preprocessed beside the labelled data, and drawn in training.

Read in this order: ``found`` (the raw images), ``check`` (their faults), ``prepared`` (the preprocessed images),
``preprocess`` (``nnunet-ext unlabelled``), ``pool`` (the images that a fold may use), ``options``, ``loader`` (their
patches in nnU-Net's batches), ``turns`` (views of a patch that differ by a turn), ``training`` (the mix-in for
trainers).

No labels are made up or read for these images: a trainer gets images only.
"""
