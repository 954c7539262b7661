r"""Largest curvature of the loss, by Lanczos on gradient differences.

On a quadratic, :math:`|\mu| / \lambda_{\max}(|H|)` is the smallest of the three nested radii. Gradient differences
stand in for second derivatives, because fused attention has no double backward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from gsnr_toolkit.types import Floats

GradientAt = Callable[[Floats], Floats]
"""Function from a displacement of the parameters, shape ``(P,)``, to the mean gradient there, shape ``(P,)``."""


def hessian_vector_product(gradient_at: GradientAt, vector: Floats, step: float) -> Floats:
    r"""Multiply the Hessian by a vector, by central differences of the gradient.

    .. math:: Hv \approx |v| \frac{\nabla L(\theta + h \hat v) - \nabla L(\theta - h \hat v)}{2h}

    Args:
        gradient_at: Gradient as a function of the displacement.
        vector: Shape ``(P,)``.
        step: Displacement h in units of the parameters; the truncation error is O(h^2).

    Returns:
        Shape ``(P,)``.
    """
    length = float(np.linalg.norm(vector))
    if length == 0:
        return np.zeros_like(vector)
    unit = vector / length
    return (gradient_at(step * unit) - gradient_at(-step * unit)) * (length / (2 * step))


def largest_curvature(
    gradient_at: GradientAt,
    size: int,
    *,
    step: float = 1e-3,
    tolerance: float = 1e-2,
    max_products: int = 60,
    seed: int = 0,
) -> float:
    r"""Compute the largest absolute eigenvalue of the Hessian by implicitly restarted Lanczos.

    Args:
        gradient_at: Mean gradient as a function of the displacement.
        size: Number P of parameters.
        step: Displacement of the gradient differences.
        tolerance: Relative accuracy of the eigenvalue.
        max_products: Largest number of Lanczos restarts.
        seed: Seed of the starting vector.

    Returns:
        :math:`\lambda_{\max}(|H|)`, or NaN if Lanczos did not converge.

    >>> matrix = np.diag([1.0, -5.0, 2.0, 0.5, 0.1])
    >>> round(largest_curvature(lambda x: matrix @ x, 5), 4)
    5.0
    """
    start = np.random.default_rng(seed).normal(size=size)
    if size < 3:  # ARPACK needs more dimensions than eigenvalues: build the whole matrix
        basis = np.eye(size)
        columns = [hessian_vector_product(gradient_at, basis[i], step) for i in range(size)]
        return float(np.abs(np.linalg.eigvalsh((np.array(columns) + np.array(columns).T) / 2)).max())

    def matvec(vector: np.ndarray) -> Floats:
        return hessian_vector_product(gradient_at, vector.ravel().astype(np.float64), step)

    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    try:
        values = eigsh(
            operator,
            k=1,
            which="LM",
            ncv=min(size, 20),
            tol=tolerance,
            maxiter=max_products,
            v0=start,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence:
        return float("nan")
    return float(abs(values[0]))


def lipschitz_radius(mean_sqnorm: Floats, eigenvalue: float | None) -> Floats | None:
    r"""Compute the Lanczos radius :math:`|\mu| / \lambda_{\max}(|H|)` of the whole model.

    On a quadratic, SAM's step is certified to descend up to this radius.

    Args:
        mean_sqnorm: Debiased ``|mu|^2`` of each group and of the whole model, shape ``(G + 1,)``.
        eigenvalue: Largest absolute eigenvalue of the Hessian; None if it was not measured.

    Returns:
        Shape ``(G + 1,)``; NaN for groups, and where ``|mu|^2`` or the eigenvalue is not positive. None without an
        eigenvalue.

    >>> lipschitz_radius(np.array([1.0, 4.0]), 8.0)
    array([ nan, 0.25])
    """
    if eigenvalue is None:
        return None
    radius = np.full(len(mean_sqnorm), np.nan)
    if eigenvalue > 0 and mean_sqnorm[-1] > 0:
        radius[-1] = np.sqrt(mean_sqnorm[-1]) / eigenvalue
    return radius
