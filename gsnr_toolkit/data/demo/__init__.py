"""The embedded data: procedural faces with exact landmarks, a camera model, and eight families of forgeries.

Everything is a pure function of seed and identity number. No file on disk, no model and no torch code belongs here
except in ``dataset``; a change that moves a single pixel does not belong anywhere, since results would change.
"""
