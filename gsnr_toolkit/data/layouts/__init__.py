"""Readers of data sets on disk: one module per published layout, and one for folders named real and fake.

A reader lists files, labels and sources, and says what it skipped. Decoding, resizing and drawing batches do not
belong here: the layouts share ``image_files`` and the rest of :mod:`gsnr_toolkit.data`.
"""
