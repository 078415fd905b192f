"""Interactive segmentation with a trained S2VNet: prompts on one volume, and a label map that follows them.

Begin with ``session``: an image goes into an :class:`S2VSession`, prompts follow, and a label map comes out. A prompt
passes these modules in order: ``drawing`` (its voxels), ``strokes`` (the voxels that it decides by itself), ``marks``
(the input of the network, and which older marks count), ``renaming`` (is it about a whole structure?), ``propagation``
(which slices are computed again), ``nearby`` (what else looks like the drawn pixels), ``provenance`` (how strokes and
answers become the label map), ``correction`` (all of that for one image), and ``saved`` (a session as a file).

The commands use the session. ``interact`` repeats prompts from a file in the format of ``prompt_list``.
``evaluate_clicks`` measures the results of a simulated user; ``click_effects`` counts the effects of each click.
``evaluate_box_and_clicks`` measures by the protocol of a challenge; ``box_and_clicks`` makes its prompts. Both go
through ``click_cases``, report by ``click_report`` and draw by ``click_figure``. The page of ``nnunet-ext s2v serve``
is in :mod:`nnunet_ext.viewer`.

The network does not depend on this room: training and automatic prediction are in :mod:`nnunet_ext.s2vnet`.
"""
