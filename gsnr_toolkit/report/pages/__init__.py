"""Results as one HTML file that needs nothing else: a probe's report, and a sweep's."""
