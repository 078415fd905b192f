"""Masks of organs in cases that have only landmarks: prompts, an engine, and filters that refuse what looks wrong.

Read in this order: ``prompts`` (from pairs of landmarks, and which masks are believed), ``engines`` (what turns them
into a mask: ``random_walker``, adapters of models, or your own), ``generate`` (the command).
"""
