"""S2VNet, slice-to-volume propagation of cluster centres (Ding et al., CVPR 2024): volumes with 2D layers only.

A slice is segmented by clustering its pixels, one centre per label. A slice starts from the final centres of its
neighbour, so what was seen or clicked in one slice reaches the whole volume.

The body of the paper was not available. This is a re-implementation from its abstract and one figure; every choice that
they leave open is an option, and is marked *inferred* where it is made. Centres are what the paper propagates; the
place of pixels and the mask of the slice before, which travel with them here, are marked *added*.

Read in this order: ``clustering`` (one slice: assign pixels to centres, move the centres), ``centroid_aggregation``
(from the centres of earlier slices to those a slice starts from), ``position`` and ``mask_memory`` (what is added to
centres), ``prompts`` (clicks move centres), ``labels`` (from centres to labels and regions), ``network`` (all of it on
the planned 2D U-Net), ``loss``, ``click_simulation`` (a simulated user in training), ``trainer``, ``chain`` (how a
chain walks through a volume), ``predictor``, ``memory_test`` (what the memory is worth).

:mod:`nnunet_ext.interactive` is for people who click in a trained model.
"""
