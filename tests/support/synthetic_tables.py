"""A made-up report with a known answer: every status, negative GSNR, NaN, any number of steps and blocks."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

RADII = np.geomspace(1e-3, 1.0, 13)


def synthetic_report(*, blocks=7, steps=6, seed=0, all_statuses=True, groups=None, num_samples=512):
    """Tables in the report's form, built from r, m and |mu| by the decomposition, so that COR is known."""
    rng = np.random.default_rng(seed)
    groups = groups or ["stem", *(f"block {i + 1}" for i in range(blocks)), "head"]
    depth = np.arange(len(groups))
    settings = {
        "rho": 0.05,
        "radii": RADII.tolist(),
        "layerwise": "parameters",
        "perturb": "all",
        "confidence": 0.95,
        "batch_size": 32,
        "num_samples": num_samples,
        "model": "clip-demo",
        "data": "demo-nt",
        "caption": "embedded data",
    }
    layers, totals, drift = [], [], []
    for index in range(steps):
        step = 10 * index
        fall = np.exp(-1.2 * np.sin(np.pi * min(1.0, (index + 1) / max(steps - 1, 1))))
        r = 0.2 * np.exp(-2.5 * depth / max(len(groups) - 1, 1)) * fall * rng.lognormal(0, 0.15, len(groups))
        m, mu = rng.lognormal(1.5, 0.3, len(groups)), 0.4 * rng.lognormal(0, 0.3, len(groups))
        frame = _layer_rows(step, groups, depth, r, m, mu, num_samples)
        if all_statuses:
            _spread_statuses(frame, index, RADII[-1])
        layers.append(frame)
        total_r, total_mu = float(np.mean(r)), float(np.sqrt((mu**2).sum()))
        total = _layer_rows(
            step, ["total"], [0], np.array([total_r]), np.array([3.0]), np.array([total_mu]), num_samples
        )
        totals.append(total)
        drift += [_drift_rows(row) for row in pd.concat([frame, total]).itertuples()]
    layers, totals = pd.concat(layers, ignore_index=True), pd.concat(totals, ignore_index=True)
    return SimpleNamespace(
        layers=layers,
        totals=totals,
        drift=pd.concat(drift, ignore_index=True),
        settings=settings,
        groups=groups,
    )


def _layer_rows(step, groups, depth, r, m, mu, n):
    cor = r / (1 + r) / (m * mu)
    return pd.DataFrame(
        {
            "step": step,
            "group": groups,
            "depth": depth,
            "num_params": 1000,
            "num_samples": n,
            "gsnr": r,
            "gsnr_low": r - 1.5 / n,
            "gsnr_high": r + 2 / n,
            "gsnr_plugin": r + 1 / n,
            "noise_floor": 1 / n,
            "cor": cor,
            "cor_low": cor / 1.5,
            "cor_high": cor * 1.6,
            "signal_fraction": r / (1 + r),
            "misspecification": m,
            "grad_norm": mu,
            "status": "ok",
            "in_collapse_zone": cor < 0.05,
        }
    )


def _spread_statuses(frame, index, largest):
    """Give the middle groups the statuses other than ok; which ones, depends on the step."""
    count = len(frame)
    if count < 5:
        return
    places = [(1 + index) % (count - 1), (3 + index) % (count - 1), (count // 2 + 1 + index) % (count - 1)]
    for place, status in zip(places, ("no_signal", "above_max_radius", "undefined"), strict=True):
        if frame.loc[place, "status"] != "ok":
            continue
        frame.loc[place, ["cor", "cor_low", "cor_high", "misspecification"]] = np.nan
        frame.loc[place, "status"] = status
        frame.loc[place, "in_collapse_zone"] = False
        if status == "no_signal":
            frame.loc[place, ["gsnr", "gsnr_low", "gsnr_high"]] = [-0.0008, -0.004, 0.0015]
            frame.loc[place, "grad_norm"] = np.nan
        if status == "undefined":
            frame.loc[place, ["gsnr", "gsnr_low", "gsnr_high"]] = np.nan
            frame.loc[place, "grad_norm"] = np.nan
        if status == "above_max_radius":
            frame.loc[place, "cor_low"] = largest


def _drift_rows(row):
    norm = row.grad_norm if np.isfinite(row.grad_norm) else np.nan
    cor = row.cor if row.status == "ok" else 3 * RADII[-1]
    drift = (norm if np.isfinite(norm) else 0.1) * (RADII / cor) ** 1.1
    return pd.DataFrame(
        {
            "step": row.step,
            "group": row.group,
            "rho": RADII,
            "drift": drift,
            "drift_low": 0.85 * drift,
            "drift_high": 1.2 * drift,
            "grad_norm": norm,
            "alignment": 1 - (RADII / cor) ** 1.1 / 2,
        }
    )
