"""Benchmarks of CoRIT: self-blended pairs, features, and training.

Benchmarks of the gradient engines do not belong here.
"""
