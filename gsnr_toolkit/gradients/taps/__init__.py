"""The taps engine: one ordinary backward, tapped at the operations that use parameters.

Graph, plan, rules and the merging of their terms live here. Statistics do not, nor does anything that reads a report
option; arithmetic on bare tensors belongs in ``kernels``.
"""
