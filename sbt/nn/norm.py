"""Normalisation with batch statistics of a stated size, and the other kinds behind one factory.

How many examples share a mean and a variance (b, the BN batch) is a hyperparameter here, separate
from how many share a weight update (m): Masters & Luschi 2018, section 3.6; "ghost" batches of
Hoffer et al. 2017, arXiv:1705.08741; per-device statistics of data-parallel training.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from sbt.errors import UserError

NormKind = Literal["none", "batch", "group", "layer"]
EvalStatistics = Literal["running", "batch"]

MOMENTUM = 0.97
"""Default weight of the old running statistics.

The papers state none. 0.97 is what Graphcore's later public training code uses; it remembers about
33 updates, so that the statistics follow the weights even where an epoch is 24 updates (m = 2048 on
CIFAR-10), at which 0.99 would lag by four epochs.
"""


def accumulation_dtype(*dtypes: Any) -> Any:
    """float64 if that is among ``dtypes``, else float32: where sums and parameters are kept."""
    return jnp.float64 if any(jnp.dtype(d) == jnp.float64 for d in dtypes) else jnp.float32


class BatchNorm(nn.Module):
    """Batch normalisation over consecutive groups of ``batch`` examples.

    ``y = scale (x - mean) / sqrt(var + epsilon) + bias``, with mean and biased variance over the
    examples of one group and over all axes but the first and the last (Ioffe & Szegedy 2015).

    A training call also moves the running statistics, once, whatever the number of groups::

        ra_mean <- momentum ra_mean + (1 - momentum) average over groups of mean
        ra_var  <- momentum ra_var  + (1 - momentum) average over groups of var

    This is linear in the group statistics: averaging the new values over the micro-batches of one
    weight update gives what a single call on the whole batch would have given. The running
    variance is the biased one, as in Flax (PyTorch stores n/(n-1) of it): it is the quantity that
    training normalised with, also where a group holds two examples.

    Parameters ``scale``, ``bias`` and the collection ``batch_stats`` with ``mean``, ``var`` have
    the names and shapes of ``flax.linen.BatchNorm``, whose momentum convention (weight of the
    *old* value) is kept as well.

    Attributes:
      batch: b, examples per group; None means all the examples given. The number of examples must
        be a multiple of it.
      momentum: weight of the old running statistics, in [0, 1).
      epsilon: added to the variance.
      dtype: dtype of the result; None means that of the input. Statistics are computed in at
        least float32.
      param_dtype: dtype of parameters and running statistics.
      use_scale: whether to multiply by a learned ``scale``.
      use_bias: whether to add a learned ``bias``.
      scale_init: initialiser of ``scale``.
      axis_name: mesh axis (or axes) to average the statistics over: under ``shard_map`` the
        statistics then belong to the examples of all devices ("synchronous"); without it, to those
        of one device. Under plain ``jit`` they are global wherever the examples lie, and ``batch``
        is what limits them. Excludes ``batch``.
    """

    batch: int | None = None
    momentum: float = MOMENTUM
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable[..., Any] = nn.initializers.ones
    axis_name: str | Sequence[str] | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool, update_running_average: bool = True
    ) -> jax.Array:
        """Normalises ``x`` of shape ``(n, ..., features)``.

        Args:
          x: the input; its last axis is the feature axis.
          use_running_average: normalise with the stored statistics instead of those of ``x``.
          update_running_average: whether statistics of ``x``, when used, also move the stored
            ones. They stay as they are, too, where ``batch_stats`` is not mutable.

        Raises:
          UserError: ``n`` is not a multiple of ``batch``, or ``batch`` came with ``axis_name``.
        """
        features = x.shape[-1:]
        dtype = x.dtype if self.dtype is None else self.dtype
        stats_dtype = accumulation_dtype(x.dtype, dtype)
        # A module is initialised outside the mesh, where the axis has no meaning.
        axis_name = None if self.is_initializing() else self.axis_name
        stored_mean = self.variable("batch_stats", "mean", jnp.zeros, features, self.param_dtype)
        stored_var = self.variable("batch_stats", "var", jnp.ones, features, self.param_dtype)
        scale, bias = (
            self.param(name, init, features, self.param_dtype).astype(stats_dtype) if used else None
            for name, used, init in (
                ("scale", self.use_scale, self.scale_init),
                ("bias", self.use_bias, nn.initializers.zeros),
            )
        )

        def affine(x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
            # x - mean = (x - s) + (s - mean) for any constant s, as in _moments: so the gradient of
            # the mean comes from the sum that the bias needs anyway, not from one of its own.
            shift = lax.stop_gradient(mean)
            factor = lax.rsqrt(var + self.epsilon)
            factor = factor if scale is None else factor * scale
            offset = factor * (shift - mean)
            return (x - shift) * factor + (offset if bias is None else offset + bias)

        def normalise(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            mean, var = _moments(x, axis_name)
            return affine(x, mean, var), mean, var

        x = x.astype(stats_dtype)
        if use_running_average:
            mean, var = (s.value.astype(stats_dtype) for s in (stored_mean, stored_var))
            return affine(x, mean, var).astype(dtype)
        groups = self._groups(x.shape[0])
        if groups == 1:
            y, mean, var = normalise(x)
        else:
            y, means, variances = jax.vmap(normalise)(x.reshape(groups, -1, *x.shape[1:]))
            y, mean, var = y.reshape(x.shape), means.mean(axis=0), variances.mean(axis=0)
        frozen = self.is_initializing() or not self.is_mutable_collection("batch_stats")
        if update_running_average and not frozen:
            for stored, now in ((stored_mean, mean), (stored_var, var)):
                new = now.astype(stored.value.dtype)
                stored.value = self.momentum * stored.value + (1.0 - self.momentum) * new
        return y.astype(dtype)

    def _groups(self, n: int) -> int:
        if self.batch is None:
            return 1
        if self.axis_name is not None:
            raise UserError(
                "bn_batch",
                f"groups of {self.batch} and statistics over the mesh axis {self.axis_name!r}",
                "Choose one: groups lie within a device, synchronous statistics span devices.",
            )
        if self.batch < 1 or n % self.batch:
            raise UserError(
                "bn_batch",
                f"{n} examples cannot be cut into groups of {self.batch}",
                f"Make the (micro-)batch a multiple of bn_batch, or bn_batch a divisor of {n}.",
            )
        return n // self.batch


def _moments(x: jax.Array, axis_name: str | Sequence[str] | None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of ``x`` over all axes but the last (and over ``axis_name``).

    For *any* constant s, ``var = E[(x - s)^2] - (E[x] - s)^2``. With s the mean itself this is the
    numerically sound two-pass formula, the second term being zero; and because s may be held
    constant, so may the mean inside the square. That spares the gradient one sum over ``x``, which
    makes it as fast as ``E[x^2] - E[x]^2`` without its cancellation, and it is exact to every order
    of differentiation, which merely dropping the second term would not be.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
    shift = lax.stop_gradient(mean)
    square = jnp.square(x - shift).mean(axes)
    if axis_name is not None:
        square = lax.pmean(square, axis_name)
    return mean, square - jnp.square(mean - shift)


def make_norm(
    kind: NormKind,
    train: bool,
    *,
    batch: int | None = None,
    momentum: float = MOMENTUM,
    epsilon: float = 1e-5,
    eval_statistics: EvalStatistics = "running",
    axis_name: str | Sequence[str] | None = None,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> Callable[..., jax.Array]:
    """The normalisation a model applies throughout, as a function to call in ``nn.compact``.

    Args:
      kind: ``"none"`` (identity); ``"batch"``; ``"group"`` (Wu & He 2018; 32 groups, or the largest
        smaller number that divides the channels); ``"layer"`` (over all but the first axis, that
        is one group: Ba et al. 2016 as Wu & He use it for images).
      train: whether this is a training call, which uses and moves batch statistics.
      batch: b of :class:`BatchNorm`, in training.
      momentum: of :class:`BatchNorm`.
      epsilon: added to the variance, in every kind.
      eval_statistics: what :class:`BatchNorm` normalises with when not training: ``"running"``, or
        ``"batch"``, the statistics of all the examples of the evaluation batch (Keskar et al.
        2017), which leaves the running ones alone.
      axis_name: of :class:`BatchNorm`, in training.
      dtype: dtype of the result.
      param_dtype: dtype of parameters and running statistics.

    Returns:
      ``norm(x, scale_init=ones) -> y``. Each call makes a layer of its own.

    Raises:
      UserError: unknown ``kind`` or ``eval_statistics``, or ``momentum`` outside [0, 1).
    """
    for field, value, known in (
        ("config.model.norm", kind, get_args(NormKind)),
        ("config.model.bn_eval", eval_statistics, get_args(EvalStatistics)),
    ):
        if value not in known:
            raise UserError(field, f"unknown value {value!r}", f"Use one of {', '.join(known)}.")
    if not 0 <= momentum < 1:
        problem = f"{momentum!r} is not in [0, 1)"
        raise UserError(
            "config.model.bn_momentum", problem, "It is the weight of the old statistics."
        )
    common = {"epsilon": epsilon, "dtype": dtype, "param_dtype": param_dtype}

    def norm(x: jax.Array, scale_init: Callable[..., Any] = nn.initializers.ones) -> jax.Array:
        if kind == "none":
            return x
        if kind == "batch":
            # Groups belong to training: an evaluation batch has a size of its own.
            layer = BatchNorm(
                batch=batch if train else None,
                momentum=momentum,
                scale_init=scale_init,
                axis_name=axis_name if train else None,
                **common,
            )
            running = not train and eval_statistics == "running"
            return layer(x, use_running_average=running, update_running_average=train)
        groups = _groups(x.shape[-1]) if kind == "group" else 1
        return nn.GroupNorm(
            num_groups=groups, scale_init=scale_init, use_fast_variance=False, **common
        )(x)

    return norm


def _groups(channels: int, most: int = 32) -> int:
    return next(g for g in range(min(most, channels), 0, -1) if channels % g == 0)
