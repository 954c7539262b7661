"""The range test for SAM's radius: short runs from one start, and a bisection over radii.

Belongs here: trials, their fate, the bisection, and its result. Does not belong here: whole training runs
(``training/``), and grids of them (``sweeps/``).
"""
