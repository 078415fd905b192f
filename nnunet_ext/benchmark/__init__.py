"""Runs trainers against baselines on the same splits, plans and schedules, and reports what can be said.

Read in this order: ``spec`` (what is compared), ``prepare`` (plans, splits and the list of jobs), ``job`` (one training
with its evaluation), ``queue`` (many jobs), ``records`` (what came out), ``report`` (tables, figures, pages).
"""
