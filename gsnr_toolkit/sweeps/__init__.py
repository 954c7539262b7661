"""Sweeps: grids of training runs in one folder, run in processes or on Ray, as one table, figure and report page.

What a single run does is not decided here (see ``training``); parsing of the command line is in ``commands``.
"""
