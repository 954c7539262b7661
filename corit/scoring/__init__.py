"""How well a trained detector separates fake from real: scores, metrics with intervals, and perturbed images.

``metrics`` is pure functions of arrays; ``evaluate`` scores one data set, ``evaluate_many`` several by name, and on the
images that ``robustness`` degrades. Training, output and images of unknown origin (prediction) do not belong here.
"""
