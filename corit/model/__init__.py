"""CoRIT itself: its configuration, its features on a frozen encoder, and trained detectors as files.

The flow is ``config`` -> ``detector`` (from ``tower``, ``regions``, ``injection``, ``shared``) -> ``features`` (cached
under ``content_hash``) -> training -> ``head_files`` and ``trained`` -> scoring and prediction. Training loops,
metrics, data sets and output do not belong here.
"""
