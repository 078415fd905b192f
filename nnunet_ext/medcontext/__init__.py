"""MedContext (arXiv 2402.17725, MICCAI 2024): predict hidden parts of a patch from their surroundings, and segment.

Read in this order: ``masking`` (hide columns of a patch), ``teacher`` (a moving average of the network that sees the
whole patch), ``consistency`` (the network on the masked patch is compared with the teacher on the whole one),
``options``, ``trainer`` (the two views, one after the other).
"""
