"""Splits by subject and few-shot subsets for nnU-Net (``nnunet-ext splits``), and a search for leaks (``--check``).

Read in this order: ``cases`` (what is split), ``subjects`` and ``names`` (which cases are one subject), ``folds`` (who
trains and who validates), ``files`` (``splits_final.json`` and what is stored beside it), ``write``; then ``images``
(what grey values tell about subjects) and ``check``.
"""
