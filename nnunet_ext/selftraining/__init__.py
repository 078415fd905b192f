"""Self-training: a network learns from its own labels of images that nobody labelled; the control for MedContext.

The idea is old (Yarowsky 1995; for segmentation with hard labels and flips arXiv 2509.19746): after a warm-up the
network labels a batch of unlabelled patches, patches and labels are turned together, and nnU-Net's own loss is computed
on them too. There is no teacher, no mask and no confidence. Written from the idea, without any published code.

Read in this order: ``options``, ``trainer``; the turns are in :mod:`nnunet_ext.unlabelled.turns`.
"""
