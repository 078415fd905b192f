"""Landmarks in a training: mix-ins that give any trainer batches with landmarks, and measure its errors.

Read in this order: ``cases`` (annotation of each case, batches, folds), ``augmentation`` (points move with the voxels),
``loader`` (contents of a batch), ``data`` (the mix-in for batches), ``validation`` (the mix-in for errors in mm).
"""
