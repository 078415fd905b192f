"""PnPNet: pushing and pulling branches for structures with a confused boundary (arXiv 2312.08323).

Read in this order: :mod:`.semantic_difference` (pushing: sharpen skip features where the decoder sees a difference),
:mod:`.class_clustering` (pulling: one centre per class, refined level by level, attracts the voxels of its class),
:mod:`.network` (both beside the planned U-Net, and how they are added to it), :mod:`.trainer`, :mod:`.predictor` (one
branch off after training), and :mod:`.published` (what only the published code does).
"""
