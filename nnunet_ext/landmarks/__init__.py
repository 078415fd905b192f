"""Landmarks: named points in physical space, in cases that may have no segmentation.

Each term has one meaning:

- **landmark**: a named point of the anatomy in one case (``Landmark``). Its **state** is present, absent or unknown.
- **position**: where a present landmark is, in mm in the patient (LPS).
- **keypoints**: the landmarks of a case in voxels of an array that a network sees (``Keypoints``).
- **placed landmarks**: the landmarks of a case together with the geometry of its image (``PlacedLandmarks``).
- **declaration**: the block ``landmarks`` of ``dataset.json``: names, mirror pairs, spans, ``surface_of``.
- **organ**: a label or region of the data set, on whose surface a landmark may lie (``Organs``).
- **annotation**: which parts of a case people drew or placed: segmentation, landmarks, both, nothing (``Annotation``).
- **raw data set with landmarks**: images, label maps and files of landmarks (``RawLandmarkDataset``).
- **preprocessed data set with landmarks**: nnU-Net's data set, with the keypoints of its cases
  (``DatasetWithLandmarks``).
- **rule**: how landmarks follow from a label map (``Rule``). A data set made by a rule is **derived** (``Derived``).
- **heatmap**: a landmark as an image. Its peak value is the **confidence** of a prediction; a prediction below the
  **threshold** is absent.
- **prompt**: a point inside or outside an organ, from a pair of landmarks. An **engine** turns prompts into a mask.

Read in this order: ``points``, ``slicer`` and ``formats`` (files), ``surface`` (distance from an organ), ``dataset``.
For a training: ``heatmaps`` (targets, loss, decoding), ``mirroring`` (allowed flips) and ``training`` (batches from
nnU-Net's loader). The commands: ``formats`` (convert), ``check`` and ``check_rules``, ``predictor``, ``evaluate``,
``pseudo``; ``rules``, ``derive`` and ``from_masks`` (landmarks from label maps).
"""
