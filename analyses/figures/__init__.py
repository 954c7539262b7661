"""Figures of the paper, one script per figure: compute tables, store them, draw from the stored tables.

Training runs and recordings come from `analyses.collapse`. Studies of CoRIT and result tables may not live here.
"""
