"""The command ``nnunet-ext demo``: a small benchmark of two trainers, ready to run."""
