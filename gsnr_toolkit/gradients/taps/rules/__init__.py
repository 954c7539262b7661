"""One rule per operation: it turns output gradient and saved inputs into per-sample gradients of a parameter.

A new rule is one new file here; :mod:`.table` finds it. Rules read one graph node. Walking the graph, running the model
and merging into moments are not done here.
"""
