"""Masks of organs in cases that have only landmarks: prompts, an engine, and filters that refuse wrong masks.

Read in this order: ``prompts`` (prompts from pairs of landmarks, and the filters), ``engines`` (they turn prompts into
a mask: ``random_walker``, adapters of models, or your own), ``generate`` (the command).
"""
