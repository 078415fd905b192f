"""Cases in which only some of the labels were annotated, and what is not annotated is part of the background.

Read in this order: ``declaration`` (what ``dataset.json`` says), ``cases`` (which channels of a network that concerns),
``loss`` (nnU-Net's loss for such samples), ``trainer``.
"""
