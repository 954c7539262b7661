"""The two readings of "layer-wise": a block's own parameters, or a readout head on its features."""
