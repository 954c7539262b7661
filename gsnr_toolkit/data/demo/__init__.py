"""Procedural faces with exact landmarks, and four ways to forge them: the embedded data."""
