"""Presets for plans files, as data; see ``README.md`` in this folder."""
