"""The taps engine: one ordinary backward, tapped at the operations that use parameters.

Graph, plan, rules and the merging of their terms live here. Statistics and options of reports do not belong here, and
arithmetic on bare tensors belongs in ``kernels``.
"""
