"""S2VNet, slice-to-volume propagation of cluster centres (Ding et al., CVPR 2024): volumes with 2D layers only.

A slice is segmented by clustering its pixels, one centre per label. The centres that a slice ends with are the ones
that its neighbour starts from, so what was seen in one slice, or clicked there, reaches the whole volume.

The body of the paper was not available. This is a re-implementation from its abstract and one figure; every choice that
they do not fix is an option and is marked *inferred* where it is made. Centres are what the paper propagates; the place
of pixels and the mask of the slice before, which travel with them here, are marked *added*.

Read in this order: ``clustering`` (one slice: assign pixels to centres, move the centres), ``centroid_aggregation``
(from the centres of earlier slices to those a slice starts from), ``position`` and ``mask_memory`` (what is added to
centres), ``prompts`` (clicks move centres), ``labels`` (from centres to labels and regions), ``network`` (all of it on
the planned 2D U-Net), ``loss``, ``click_simulation`` (who clicks in a training), ``trainer``, ``predictor``,
``memory_test`` (what the memory is worth).

What a person does with a trained model is in ``interactive``.
"""
