"""Results as one HTML file that needs no other file and no network: the page of a probe, and the parts of a page.

A page reads a report through `ReportLike` and draws with `report.plots`. Nothing is measured or estimated here, and
`report.report` is not imported: it is what imports these modules.
"""
