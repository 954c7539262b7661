"""What every script shares: options, the runner, tables with their provenance, family names, captions, processes.

Nothing here knows a particular script: what trains runs, computes a result or draws a figure does not belong here.
"""
