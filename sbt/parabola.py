"""Where a curve that is known at a few points is highest, by a parabola."""

import numpy as np


def best_positions(x: np.ndarray, gain: np.ndarray, most: int = 3) -> np.ndarray:
    """Where parabolas through the best point and its neighbours are highest; NaN at an end.

    Args:
      x: positions, ascending.
      gain: ``(..., positions)``; NaN where there is none.
      most: 3, or 5: of least squares, where two points on either side have a gain.

    Returns:
      ``(...)`` positions.
    """
    rows = np.asarray(gain, float).reshape(-1, len(x))
    i = np.where(np.isnan(rows), -np.inf, rows).argmax(-1)
    at = i[:, None] + np.arange(-2, 3)
    inside = (at >= 0) & (at < len(x))
    at = np.clip(at, 0, len(x) - 1)
    y = np.take_along_axis(rows, at, -1)
    known = inside & np.isfinite(y)
    known[:, [0, 4]] &= (most >= 5) & known.all(-1, keepdims=True)
    bent = known[:, 1:4].all(-1)
    weight = np.where(known & bent[:, None], 1.0, 0.0)
    dx = np.asarray(x, float)[at] - np.asarray(x, float)[i][:, None]
    terms = np.stack([dx**2, dx, np.ones_like(dx)], -1)
    left = np.einsum("rp,rpa,rpb->rab", weight, terms, terms)
    right = np.einsum("rp,rpa,rp->ra", weight, terms, np.where(weight > 0, y, 0.0))
    left = np.where(bent[:, None, None], left, np.eye(3))
    a, b, _ = np.moveaxis(np.linalg.solve(left, right[..., None])[..., 0], -1, 0)
    move = np.where(a < 0, -b / (2 * np.where(a < 0, a, -1.0)), 0.0)
    found = np.where(bent, np.asarray(x, float)[i] + move, np.nan)
    return found.reshape(np.shape(gain)[:-1])
