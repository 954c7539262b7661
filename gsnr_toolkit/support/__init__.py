"""General helpers: name look-up, settings, atomic files, run folders, progress bars, provenance, memory allocation.

Every other folder may import them. Code that knows a model, a gradient or a data set does not belong here.
"""
