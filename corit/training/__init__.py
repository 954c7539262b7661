"""Training of detectors: configs, batches of images or cached features, one run per folder, and ablations.

What a detector computes does not belong here (see ``model``), nor do test scores (``scoring``). The demo detector's
own training script is ``train_demo``.
"""
