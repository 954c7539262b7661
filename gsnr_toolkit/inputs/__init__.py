"""What a caller passes in: batches, loaders, devices, losses, groups of parameters, tuning modes and options.

Also the context managers that leave a model and the random states unchanged. Nothing here computes per-sample gradients
or statistics, and nothing knows a data set or a model by name: those do not belong here.
"""
