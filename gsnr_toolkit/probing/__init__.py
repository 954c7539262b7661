"""The public functions: one measurement (gather, estimate, tell), a probe along a plain run, a recorder for any loop.

They combine the rooms below. Nothing is computed here that an estimator, a reading or a table could compute, and names
of models and data sets are not resolved here: that is the work of ``commands``.
"""
