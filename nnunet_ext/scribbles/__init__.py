"""Scribbles: drawn from dense labels (``nnunet-ext scribbles generate``), and checked before a training (``check``).

Read in this order: ``strokes`` (one class in one slice), ``label_map`` (one case), ``dataset`` (nnU-Net's raw format),
``generate``; then ``findings`` (what is wrong with one case), ``resampling``, ``check``; ``overview`` draws.
"""
