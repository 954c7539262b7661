"""The result of a probe and its presentation: tables, verdict, terminal, figures (``plots``), HTML (``pages``).

Everything here works on estimates and tables. It does not see a model, a loader or a gradient.
"""
