"""Studies of CoRIT and its baselines, on embedded encoders and data: heads on frozen features, the proxy, ablations.

The detector itself lives in the package ``corit``, not here; figures of the paper do not live here either, and neither
of the two folders may import the other.
"""
