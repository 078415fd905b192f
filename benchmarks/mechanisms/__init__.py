"""Toys with a known answer, one file per method: ``python -m benchmarks.mechanisms``, and docs/mechanisms.md."""
