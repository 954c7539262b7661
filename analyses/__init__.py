"""Scripts that regenerate the figures and tables; each states its claim, command, hardware and main result.

All findings are in ``analyses/README.md``, not in the docstrings.
"""
