"""Cases in which only some of the labels were annotated, and the others are part of the background.

Read in this order: ``declaration`` (the entry in ``dataset.json``), ``cases`` (the channels of a network it concerns),
``loss`` (nnU-Net's loss for such samples), ``trainer``.
"""
