"""Training runs: configs, batches, the loop, checkpoints, evaluation, diagnosis, and a SAM radius that follows COR.

Grids of runs do not belong here (see ``sweeps``), nor do optimizers (``optim``) or measurements (``probing``).
"""
