"""The embedded data: procedural faces with exact landmarks, a camera model, and eight families of forgeries.

Everything is a pure function of seed and identity number. Files on disk and models do not belong here, nor does torch
outside ``dataset``. A change must not alter a single pixel, because published results depend on them.
"""
