"""At which radius does SAM fail, judged by a true horizon; what foretells it; and which rule needs no radius.

Belongs here: settings on embedded and shipped data, their trials, predictors, rules for the radius. Does not belong
here: the first study, which judged runs after a fixed number of steps (``collapse/``).
"""
