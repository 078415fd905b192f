"""Scribbles: drawn from dense labels (``nnunet-ext scribbles generate``), and checked before a training (``check``).

Read in this order: ``strokes`` (one class in one slice), ``label_map`` (one case), ``generate``; then ``findings``
(what is wrong with a case), ``resampling``, ``check``; ``overview`` draws. ``nnunet_ext.data.raw`` reads data sets.
"""
