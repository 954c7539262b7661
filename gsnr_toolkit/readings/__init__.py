"""The two readings of "layer-wise": the gradient of a block's own parameters, or of a readout head on its features.

A reading runs the model over the batches and returns :class:`~gsnr_toolkit.estimators.evidence.Evidence`. It does not
estimate intervals, build tables or write text.
"""
