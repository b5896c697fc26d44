"""What the model families share: their common fields, their layers, their initialisers."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.errors import UserError
from sbt.nn import pool
from sbt.nn.norm import MOMENTUM, accumulation_dtype, make_norm
from sbt.ranges import BELOW_ONE, Range

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He et al. 2015b: N(0, 2 / fan_in), the gain being that of ReLU; the plain normal distribution of
the paper, where ``nn.initializers.he_normal`` cuts it at two standard deviations."""

PAD_1 = ((1, 1), (1, 1))
"""One pixel on every side. Equals SAME for a 3x3 kernel at stride 1; at stride 2, XLA's SAME pads
an even size on the right only, which shifts the grid by a pixel."""

# Fields of models, by the numbers that they take.
SIZE = Range(1, 2**16)
Size = Annotated[int, SIZE]
Sizes = Annotated[Sequence[int], SIZE]
Rate = Annotated[float, BELOW_ONE]  # dropout and the like


class Layers(NamedTuple):
    """Layers of one model as functions of arrays; each call makes a new layer where it is called.

    Attributes:
      conv: ``conv(x, features, kernel=3, strides=1, padding="SAME", **nn.Conv fields)``.
      dense: ``dense(x, features, **nn.Dense fields)``.
      norm: ``norm(x, scale_init=ones)``.
      bias: whether convolutions and dense layers have a bias by default: if no norm brings one.
    """

    conv: Callable[..., jax.Array]
    dense: Callable[..., jax.Array]
    norm: Callable[..., jax.Array]
    bias: bool


class Classifier(nn.Module):
    """Base of the built-in models: images (or vectors) to logits.

    ``module(x, train)`` takes ``x`` of shape ``(batch, height, width, channels)``, already
    normalised, and gives ``(batch, num_classes)`` logits in at least float32. ``train=True`` draws
    dropout masks (rng ``dropout``) and normalises with batch statistics, which move the running
    ones where the collection ``batch_stats`` is mutable.

    Attributes:
      num_classes: number of logits.
      norm: ``"none"``, ``"batch"``, ``"group"`` or ``"layer"``; see :func:`sbt.nn.norm.make_norm`.
      bn_batch: b, examples that share batch statistics; None means all of the (micro-)batch.
      bn_momentum: weight of the old running statistics in their update.
      bn_epsilon: added to the variance.
      bn_eval: with ``"batch"``, evaluation normalises with the statistics of the evaluation batch
        instead of the running ones.
      bn_axis_name: mesh axis over which batch statistics are averaged ("synchronous"), or None.
      dtype: dtype of the computation. Parameters are float32, or float64 where this is.
    """

    num_classes: int = 10
    norm: str = "none"
    bn_batch: int | None = None
    bn_momentum: Rate = MOMENTUM
    bn_epsilon: Rate = 1e-5
    bn_eval: str = "running"
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    def layers(
        self,
        train: bool,
        *,
        norm: str | None = None,
        bias: bool | None = None,
        kernel_init: Callable[..., Any] = he_normal,
    ) -> Layers:
        """The model's layers, for one call.

        Args:
          train: as in ``__call__``.
          norm: a kind that replaces the model's own.
          bias: whether convolutions and dense layers have a bias; None: if there is no norm.
          kernel_init: initialiser of all weights.
        """
        kind = self.norm if norm is None else norm
        use_bias = kind == "none" if bias is None else bias
        param_dtype = accumulation_dtype(self.dtype)
        common = {"use_bias": use_bias, "kernel_init": kernel_init, "dtype": self.dtype}
        common["param_dtype"] = param_dtype

        def conv(
            x: jax.Array, features: int, kernel: int = 3, strides: int = 1, **fields: Any
        ) -> jax.Array:
            window, steps = (kernel, kernel), (strides, strides)
            return nn.Conv(features, window, steps, **{**common, **fields})(x)

        def dense(x: jax.Array, features: int, **fields: Any) -> jax.Array:
            return nn.Dense(features, **{**common, **fields})(x)

        normalise = make_norm(
            kind,  # type: ignore[arg-type]
            train,
            batch=self.bn_batch,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            eval_statistics=self.bn_eval,  # type: ignore[arg-type]
            axis_name=self.bn_axis_name,
            dtype=self.dtype,
            param_dtype=param_dtype,
        )
        return Layers(conv, dense, normalise, use_bias)

    def logits(self, layers: Layers, x: jax.Array, **fields: Any) -> jax.Array:
        """The last layer: ``(batch, features)`` to logits; always with a bias."""
        y = layers.dense(x, self.num_classes, **{"use_bias": True, **fields})
        return y.astype(accumulation_dtype(self.dtype))


def images(x: jax.Array) -> jax.Array:
    """The input of a convolutional network, if it is images.

    Raises:
      UserError: it has another shape than ``(batch, height, width, channels)``, or channels first.
    """
    shape = x.shape[1:]
    if len(shape) == 3:
        height, width, channels = shape
        if not (height in (1, 3) and width == channels and width > 4):
            return x
        problem, remedy = "seem to have their channels first", "np.moveaxis(images, 1, -1)"
    else:
        problem, remedy = "are not images", "images[..., None] if they are grey"
    raise UserError(
        "config.model.name",
        f"examples of shape {shape} {problem}: the network takes (height, width, channels)",
        f"give {remedy}, or use model mlp, which takes any shape, gpt for tokens, or a module of "
        "your own: def module() in the experiment's file",
    )


def max_pool(
    x: jax.Array,
    window: tuple[int, int] = (2, 2),
    strides: tuple[int, int] | None = None,
    padding: Any = "VALID",
) -> jax.Array:
    """:func:`sbt.nn.pool.max_pool`, which has to leave something of the image.

    Raises:
      UserError: the image is smaller than the window.
    """
    if padding == "VALID" and (x.shape[1] < window[0] or x.shape[2] < window[1]):
        raise UserError(
            "config.model.name",
            f"the images are too small for this network: a pool of {window[0]}x{window[1]} finds "
            f"{x.shape[1]}x{x.shape[2]} pixels left",
            "choose a network with fewer pools (convnet: config.model.channels), or larger images",
        )
    return pool.max_pool(x, window, strides, padding)


def flatten(x: jax.Array) -> jax.Array:
    """``(batch, height, width, channels)`` to ``(batch, height * width * channels)``."""
    return x.reshape(x.shape[0], -1)
