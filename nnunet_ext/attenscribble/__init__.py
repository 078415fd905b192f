"""AttenScribble (Yang et al., arXiv 2312.06614): segmentation from scribbles.

Read in this order: ``crf_loss`` (similar neighbours agree), ``spatial_attention`` (which voxels look alike to the
network), ``similarity`` and ``attentive_similarity_loss`` (voxels that look alike agree), ``confidence_gate`` (when
both begin to count), ``network``, ``trainer``.
"""
