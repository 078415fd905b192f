"""Trained models for people who do not have this package, and for those who do."""
