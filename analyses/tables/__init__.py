"""Tables as Markdown, CSV and LaTeX, formatted from what the studies stored.

Nothing is trained or computed here beyond formatting, and no figure is drawn; published numbers of other methods may
not be mixed with numbers measured on embedded data.
"""
