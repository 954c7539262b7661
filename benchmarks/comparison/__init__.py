"""The comparison of per-sample gradients with other libraries: models, methods, one measured case, and its table.

Commands do not live here, except the one that prints the table.
"""
