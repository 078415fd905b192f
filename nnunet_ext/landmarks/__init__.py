"""Landmarks: named points in physical space, of cases that may have no segmentation.

The words, each for one thing:

- **landmark**: a named point of the anatomy in one case (``Landmark``). Its **state** is present, absent or unknown.
- **position**: where a present landmark is, in mm in the patient (LPS).
- **keypoints**: the landmarks of a case in voxels of an array that a network sees (``Keypoints``).
- **placed landmarks**: the landmarks of a case with the geometry of its image, for checks (``PlacedLandmarks``).
- **declaration**: the block ``landmarks`` of ``dataset.json``: names, mirror pairs, spans, ``surface_of``.
- **organ**: a label or region of the data set, on whose surface a landmark may lie (``Organs``).
- **annotation**: which parts of a case people drew or placed: segmentation, landmarks, both, nothing (``Annotation``).
- **raw data set with landmarks**: images, label maps and files of landmarks (``RawLandmarkDataset``).
- **preprocessed data set with landmarks**: nnU-Net's, whose cases know their keypoints (``DatasetWithLandmarks``).
- **rule**: how landmarks follow from a label map; data sets with such are **derived** (``Rule``, ``Derived``).
- **heatmap**: a landmark as an image. Its peak is the **confidence** of a prediction; below a **threshold**: absent.
- **prompt**: a point inside or outside of an organ, from a pair of landmarks, for an **engine** that makes a mask.

Read in this order: ``points``, ``slicer`` and ``formats`` (files), ``surface`` (distance from an organ), ``dataset``.
For a training: ``heatmaps`` (targets, their loss, and the way back), ``mirroring`` (which flips are right) and
``training`` (all of it through nnU-Net's loader). The commands: ``formats`` (convert), ``check`` and ``check_rules``,
``predictor``, ``evaluate``, ``pseudo``; ``rules``, ``derive`` and ``from_masks`` (landmarks from label maps).
"""
