"""Scribbles: drawn from dense labels (``nnunet-ext scribbles generate``), and checked before a training (``check``).

Read in this order: ``strokes`` (one class in one slice), ``label_map`` (one case), ``generate``; then ``check_rules``
and ``check_strokes`` (mistakes in one case), ``resampling``, ``crf``, ``check``; ``overview`` draws the pictures.
``nnunet_ext.data.raw`` reads data sets.
"""
