"""Fig. 6: what a stride of the loss is, a sketch; it holds no data.

    python experiments/gao_zhong_2020/fig06.py fig06.png

Gao & Zhong (2020), section 2: the tangent at w, the step Δw = -lr g along it, and the decrease that
it predicts, lr g² (equation 7), beside the one that comes. Drawn for a parabola.
"""

import sys

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from sbt.measure import strides


def draw(path: str, w: float = 2.0, learning_rate: float = 0.35) -> None:
    """Draws the loss w²/2, one step on it, and both strides."""

    def loss(x: jax.Array) -> jax.Array:
        return x**2 / 2

    here = jnp.asarray(w)
    gradient = jax.grad(loss)(here)
    step = -learning_rate * gradient
    predicted = float(strides(gradient, step, learning_rate).loss[0])
    realised = float(loss(here) - loss(here + step))
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    panel = figure.subplots()
    x = jnp.linspace(-0.2, 2.6, 200)
    panel.plot(x, loss(x), "k-", label="L(w)")
    panel.plot(x, loss(here) + gradient * (x - here), "k:", label="tangent")
    there, top = float(here + step), float(loss(here))
    panel.plot([there, w], [top, top], "C0-", label="Δw")
    panel.plot([there] * 2, [top, top - predicted], "C1-", label=f"predicted ΔL = {predicted:.2f}")
    panel.plot(
        [there + 0.03] * 2, [top, top - realised], "C2-", label=f"realised ΔL = {realised:.2f}"
    )
    panel.set(xlabel="w", ylabel="L", ylim=(-0.4, 3.2))
    panel.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else "fig06.png")
