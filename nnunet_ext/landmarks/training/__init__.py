"""Landmarks in a training: mix-ins that give any trainer batches with landmarks, and measure what it finds.

Read in this order: ``cases`` (what is known of each, batches, folds), ``augmentation`` (what moves voxels moves
points), ``loader`` (what is in a batch), ``data`` (the mix-in), ``validation`` (another one, errors in mm).
"""
