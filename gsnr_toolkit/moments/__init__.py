"""Streaming sums over samples: means and centred squares per parameter or per group, shards, and sketched rows.

Everything here works on named tensors. Code that knows a model, a loss or an engine does not belong here.
"""
