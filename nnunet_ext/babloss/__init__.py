"""BaBLoss, "Boundary as the Bridge" (Gong et al., IEEE TMI 2025): one network from two kinds of annotation.

Some cases have a segmentation, others have landmarks. A landmark that lies on the surface of an organ says something
about the segmentation of that organ, and the other way round: the boundary is the bridge between the two. Where the
landmark is known, the predicted boundary is pulled to it; where the organ is labelled, the predicted landmark is.

Read in this order: ``heatmaps`` (landmarks as the targets and outputs of a network), ``boundary_distance`` (how near is
the boundary of a soft organ, such that a gradient moves it), ``loss`` (the two directions of the bridge), ``published``
(the arithmetic of the published code, for comparison).
"""
