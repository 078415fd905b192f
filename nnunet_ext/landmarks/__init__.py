"""Landmarks: named points in physical space, of cases that may have no segmentation.

Read in this order: ``points`` (what a landmark is), ``declaration`` (what ``dataset.json`` says about them),
``markups``, ``fcsv``, ``tables``, ``simple_json`` and ``formats`` (files); ``keypoints`` (in voxels of what a network
sees), ``surface`` (how far from an organ), ``dataset``. For a training: ``heatmaps`` (targets, their loss, and the way
back), ``annotation`` (kinds of cases, batches of them), ``mirroring`` (which flips are right), ``warping`` (points
after augmentation) and ``training`` (all of it through nnU-Net's loader). The commands: ``findings``, ``check`` and
``check_report``; ``convert``; ``calibration`` and ``predictor``; ``radial_errors`` and ``evaluate``; ``pseudo``.
"""
