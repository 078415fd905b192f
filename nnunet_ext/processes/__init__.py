"""Runs commands, mostly nnU-Net's, as child processes: starts, follows, continues and ends them with all they started.

``memory`` measures this process itself.
"""
