"""BaBLoss, "Boundary as the Bridge" (Gong et al., IEEE TMI 2025): one network from two kinds of annotation.

Some cases have a segmentation, others have landmarks. A landmark on the surface of an organ says something about the
segmentation of that organ, and the other way round: the boundary is the bridge between the two. A known landmark pulls
the predicted boundary; the boundary of a labelled organ pulls the predicted landmark.

Read in this order: :mod:`nnunet_ext.landmarks.heatmaps` (landmarks as the targets and outputs of a network),
``boundary_distance`` (nearness to the boundary of a soft organ, with a gradient), ``loss`` (the two directions of the
bridge), ``published`` (the arithmetic of the published code, for comparison).
"""
