"""Interactive segmentation with a trained S2VNet: prompts on one volume, and a label map that follows them.

Begin with ``session``: an image goes into an :class:`S2VSession`, prompts follow, and a label map comes out. Its parts,
in the order in which a prompt passes them: ``drawing`` (its voxels), ``strokes`` (the voxels that it decides by
itself), ``marks`` (the input of the network, and what newer prompts supersede), ``propagation`` (which slices are
computed again), ``provenance`` (how both become the label map), ``correction`` (all of that for one image), and
``saved`` (a session as a file).

Around it the commands: ``interact`` repeats prompts from a file, whose format is ``prompt_list``; ``evaluate_clicks``
clicks like a simulated user and measures, ``click_effects`` counts the effects of each click, and ``click_figure``
draws the results; ``evaluate_box_and_clicks`` does so by the protocol of a challenge, whose prompts are in
``box_and_clicks``. Both walk over ``click_cases``. The page of ``nnunet-ext s2v serve`` is in
:mod:`nnunet_ext.viewer`.

The network does not know this folder: training and automatic prediction are in :mod:`nnunet_ext.s2vnet`.
"""
