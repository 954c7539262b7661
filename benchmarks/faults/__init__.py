"""What is lost, and what is said, when a run is killed, its disk is full, or its files are damaged.

Nothing here may be imported by the packages. ``python -m benchmarks.faults`` runs all cases.
"""
