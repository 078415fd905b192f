"""Reads and describes files: label maps and images, label definitions, geometry, raw and preprocessed data sets."""
