"""Exports trained models: for people without this package where possible, otherwise with a list of requirements."""
