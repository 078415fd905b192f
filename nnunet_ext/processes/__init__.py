"""Runs commands, nnU-Net's above all, as child processes: started, followed, continued, and ended as a whole.

``memory`` is about this process itself.
"""
