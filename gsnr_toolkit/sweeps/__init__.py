"""Sweeps: a grid of training runs over radius, data, tuning and seed, in one folder, as one table."""
