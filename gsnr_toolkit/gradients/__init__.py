"""Engines that compute per-sample gradients and merge them into moments.

An engine knows a model, its parameters and a loss. It does not know any statistic, group or report.
"""
