"""Masks of organs in cases that have only landmarks: prompts, an engine, and filters that refuse what looks wrong.

Read in this order: ``prompts`` (from pairs of landmarks), ``engines`` (what turns them into a mask: ``random_walker``,
``nninteractive``, ``sam``, or your own), ``filters`` (which masks are believed), ``generate`` (the command).
"""
