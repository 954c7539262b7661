"""Training: what of a model is trained, and the plain run that a probe measures along."""
