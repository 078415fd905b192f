"""Measures segmentations: surface metrics with a stated definition, rules for empty masks, paired statistics.

``metrics`` compares arrays, ``folders`` compares folders (``nnunet-ext evaluate``), ``statistics`` compares trainers.
"""

from nnunet_ext.evaluation.metrics import CaseMetrics, label_metrics, surface_metrics

__all__ = ["CaseMetrics", "label_metrics", "surface_metrics"]
