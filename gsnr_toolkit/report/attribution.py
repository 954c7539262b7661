"""Explain why a layer is fragile: split its COR into signal, curvature and gradient size.

``log COR = log r/(1+r) - log m - log|mu|``, exactly. Each term is relative to the layer of median COR, so that the
terms of a layer add up to its log COR relative to that layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SIGNS = {"signal_fraction": 1.0, "misspecification": -1.0, "grad_norm": -1.0}
"""Sign of each factor in log COR."""


def attribution_terms(rows: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """Split log10 COR into three terms, relative to the layer of median COR.

    Args:
        rows: Rows of one step, with COR, its status and the three factors.

    Returns:
        A table with a row per group and the columns ``signal_fraction``, ``misspecification``, ``grad_norm`` (the terms
        of log10 COR) and ``cor`` (their sum, up to rounding); NaN where a row has no COR. And the name of the reference
        group; None if no row has a COR.

    Example:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"group": ["a", "b", "c"], "cor": [0.1, 1.0, 2.0], "status": "ok",
        ...     "signal_fraction": [0.1, 0.5, 0.5], "misspecification": [1.0, 0.5, 0.25], "grad_norm": 1.0})
        >>> terms, reference = attribution_terms(rows)
        >>> reference, terms.loc[0].round(3).to_dict()
        ('b', {'signal_fraction': -0.699, 'misspecification': -0.301, 'grad_norm': 0.0, 'cor': -1.0})
    """
    values = rows[[*SIGNS, "cor"]].astype(float)
    usable = (rows["status"] == "ok") & ((values > 0) & (values < np.inf)).all(axis=1)
    logs = values.where(usable).map(math.log10)
    for name, sign in SIGNS.items():
        logs[name] *= sign
    if not usable.any():
        return logs, None
    ranked = logs["cor"][usable].sort_values(kind="stable")
    reference = ranked.index[(len(ranked) - 1) // 2]
    return logs - logs.loc[reference], str(rows.loc[reference, "group"])
