"""Time and memory, measured as ratios within one run. Code that the package needs does not belong here."""
