"""Evaluation of trained networks and comparison of trainers."""
