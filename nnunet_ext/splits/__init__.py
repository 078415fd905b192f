"""Splits by subject and few-shot subsets for nnU-Net (``nnunet-ext splits``), and a search for leaks (``--check``).

Read in this order: ``cases`` (the cases of a data set), ``subjects`` (which cases belong to one subject), ``folds``
(which cases train and which validate), ``files`` (``splits_final.json`` and the file that explains it), ``write``; then
``images`` (signs of shared subjects in grey values) and ``check``.
"""
