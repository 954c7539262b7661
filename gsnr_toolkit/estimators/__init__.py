"""Estimators: pure functions from moments and Gram matrices to GSNR, COR and their intervals.

A module returns frozen dataclasses of arrays, one entry per group and one for the whole model. Models, loaders and
table rows do not belong here.
"""
