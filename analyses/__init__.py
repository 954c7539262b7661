"""Scripts that regenerate the figures and tables; each states its claim, command and hardware.

The findings are in ``analyses/README.md``, not in the docstrings.
"""
