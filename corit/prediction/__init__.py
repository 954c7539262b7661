"""Scores of a user's own images and videos, without labels: files in, probabilities and heat maps out.

``media`` reads files, ``crop`` finds faces, ``predict`` scores, ``heatmap`` draws what the detector saw. Labelled data
sets, metrics and training do not belong here.
"""
