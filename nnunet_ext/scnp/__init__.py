"""Same-class neighbour penalisation (arXiv 2603.18671): a control for methods that claim better boundaries.

Read in this order: ``loss`` (the penalty), ``trainer``.
"""
