"""Pretraining of the embedded CLIP on procedural faces: run, checkpoint, evaluation and model card.

Nothing here is imported when the package is used; code that a probe or a training run needs does not belong here.
"""
