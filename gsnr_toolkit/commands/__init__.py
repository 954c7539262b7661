"""The command lines ``gsnr-probe`` and ``gsnr-sweep``: options, output and exit codes.

They read options, call the library and print results. Computation does not belong here, and a module that ``--help``
imports may not import torch or pandas.
"""
