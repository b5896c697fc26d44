"""Fig. 10: momentum helps a large batch and not a small one, on a toy problem of two dimensions.

    python experiments/marek_2025/fig10.py fig10.png

Marek et al. (2025), appendix B: x^2 + 10 y^2 from (-1, 1); every coordinate of the gradient g is
replaced by g (1 + xi/SNR), xi normal. (The paper prints the loss as x + 10 y^2; its code, and the
gradients, are those of x^2.) Large batch: SNR 5, 10 steps; small batch: SNR 0.3, 100 steps. Medians
over runs, since at the small batch E y^2 grows by 1.2176 a step while the median of y goes to 0.
Expected: median final losses 0.032 and 0.002 (momentum 0.4 helps), 0.0040 and 0.0037 (no matter).
"""

import sys
from typing import NamedTuple

import numpy as np

CURVATURE = np.array([2.0, 20.0])  # of x^2 + 10 y^2
START = np.array([-1.0, 1.0])


class Arm(NamedTuple):
    """One way to train: learning rate, momentum, signal-to-noise ratio, number of steps."""

    rate: float
    momentum: float
    snr: float
    steps: int


ARMS = {
    "large batch": Arm(0.09, 0.0, 5.0, 10),
    "large batch, momentum": Arm(0.12, 0.4, 5.0, 10),
    "small batch": Arm(0.012, 0.0, 0.3, 100),
    "small batch, momentum": Arm(0.012, 0.4, 0.3, 100),
}


def paths(arm: Arm, runs: int, seed: int = 0) -> np.ndarray:
    """Points ``(steps + 1, runs, 2)`` of gradient descent with averaged noisy gradients."""
    random = np.random.default_rng(seed)
    points, average = np.tile(START, (runs, 1)), np.zeros((runs, 2))
    found = [points]
    for _ in range(arm.steps):
        noisy = CURVATURE * points * (1 + random.normal(size=points.shape) / arm.snr)
        average = arm.momentum * average + (1 - arm.momentum) * noisy
        points = points - arm.rate * average
        found.append(points)
    return np.stack(found)


def losses(points: np.ndarray) -> np.ndarray:
    """x^2 + 10 y^2."""
    return points**2 @ CURVATURE / 2


def moments(arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """Factors per step of E(x, y) and of E(x^2, y^2), without momentum."""
    mean = 1 - arm.rate * CURVATURE
    return mean, mean**2 + (arm.rate * CURVATURE / arm.snr) ** 2


def draw(path: str, runs: int = 1000) -> None:
    """Median losses over the fraction of examples seen, with quartiles."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for i, (name, arm) in enumerate(ARMS.items()):
        low, middle, high = np.quantile(losses(paths(arm, runs)), (0.25, 0.5, 0.75), axis=1)
        seen = np.linspace(0, 1, arm.steps + 1)
        line = "--" if arm.momentum else "-"
        axes.semilogy(seen, middle, line, color=f"C{i // 2}", label=f"{name}: {middle[-1]:.4f}")
        axes.fill_between(seen, low, high, color=f"C{i // 2}", alpha=0.12, lw=0)
    axes.set(xlabel="fraction of the examples seen", ylabel="loss, median and quartiles")
    axes.legend(title="at the end", frameon=False, loc="lower left", fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else "fig10.png")
