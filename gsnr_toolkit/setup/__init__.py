"""From a model, a loader and options to a complete :class:`~gsnr_toolkit.setup.prepare.Setup`.

Guards on model and batches, the choice of the engine, SAM's mini-batches, and the processes that share the work live
here. Measuring does not belong here: no gradient is accumulated and nothing is estimated before the setup is complete.
"""
