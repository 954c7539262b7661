"""Does anything measured on a plain run foretell where SAM training collapses? The laboratory's runs and three scripts.

The runs, their second recordings and the candidate predictors live here; the paper's figures and the studies of CoRIT
may use them but do not live here, and nothing here may import them.
"""
