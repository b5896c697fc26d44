"""Decoder-only transformers for tokens, as in Marek et al. 2025 (arXiv:2507.07101), appendix A.

Every product is an einsum of activations with a matrix of weights, or of two activations: under
``vmap`` and ``lax.map`` these stay plain batched matrix products, and any order of derivatives goes
through them.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.errors import UserError
from sbt.models.classifier import Size
from sbt.models.registry import MODELS
from sbt.nn.norm import accumulation_dtype
from sbt.ranges import POSITIVE

EPSILON = 1e-6  # of every norm; the paper gives none, this is flax's
SOURCE = "Marek et al. 2025, arXiv:2507.07101, table 1"

xavier = nn.initializers.xavier_uniform()
"""Of the raw shape of a kernel: leading axes count as receptive field, as in the authors' code."""


def rotary(x: jax.Array, base: float = 10_000.0) -> jax.Array:
    r"""Rotates queries or keys by their place (Su et al. 2021, arXiv:2104.09864, half-split).

    At place t, the pair (x_i, x_{i+H/2}) is turned by the angle :math:`t\,b^{-2i/H}`, so that
    products of queries and keys depend on the difference of their places alone.

    Args:
      x: ``(n, T, heads, H)``, H even.
      base: b.
    """
    places, half = x.shape[1], x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=accumulation_dtype(x.dtype)) / half)
    angles = jnp.arange(places, dtype=frequencies.dtype)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class _Block(nn.Module):
    """What the model and its layers share: their dtypes and their norm."""

    scaled: bool
    dtype: Any

    def weights(self, name: str, init: Any, shape: tuple[int, ...]) -> jax.Array:
        return self.param(name, init, shape, accumulation_dtype(self.dtype)).astype(self.dtype)

    def norm(self, x: jax.Array, name: str) -> jax.Array:
        """:math:`x / \\sqrt{\\mathrm{mean}(x^2) + \\epsilon}` over the last axis."""
        wide = x.astype(accumulation_dtype(self.dtype))
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + EPSILON)
        if self.scaled:
            wide = wide * self.param(name, nn.initializers.ones, x.shape[-1:], wide.dtype)
        return wide.astype(self.dtype)


class Attention(_Block):
    """Causal attention of several heads, whose queries and keys are normalised, then rotated."""

    heads: int
    head: int
    qk_norm: bool
    rope_base: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, places, width = x.shape
        kernel = self.weights("qkv", xavier, (3, self.heads, width, self.head))
        q, k, v = jnp.einsum("ntd,cadh->cntah", x, kernel)
        if self.qk_norm:
            q, k = self.norm(q, "q_scale"), self.norm(k, "k_scale")
        q, k = rotary(q, self.rope_base), rotary(k, self.rope_base)
        scores = jnp.einsum("ntah,nsah->nats", q, k) / self.head**0.5
        scores = scores.astype(accumulation_dtype(self.dtype))
        causal = jnp.tril(jnp.ones((places, places), bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)).astype(self.dtype)
        mixed = jnp.einsum("nats,nsah->ntah", weights, v)
        out = self.weights("out", xavier, (self.heads, self.head, width))
        return jnp.einsum("ntah,ahd->ntd", mixed, out)


class GPT(_Block):
    """Tokens ``(n, T)`` to logits ``(n, T, V)`` of the token that follows each.

    Embedding; ``depth`` times x + attention(norm(x)), x + mlp(norm(x)); norm; a product with a
    second, untied embedding. Norms are RMS norms; GELU in its tanh form; no bias, no dropout.
    12 D² weights per layer (at ``heads * head`` = D and ``expansion`` 4), and 2 V D. Embeddings
    start from N(0, 1/D), the rest Xavier-uniform on raw kernel shapes: queries, keys and values are
    one (3, heads, D, H) kernel of variance 2 / (3 heads (D + H)). Logits are at least float32.

    Attributes:
      num_classes: V, size of the vocabulary.
      width: D.
      depth: number of layers.
      heads: of attention.
      head: H, width of each, even; None: D / heads.
      expansion: width of the hidden layer of each mlp, in D.
      qk_norm: whether queries and keys are normalised, over H.
      scaled: whether norms have a trained scale per feature; the paper's have none.
      rope_base: b of :func:`rotary`.
      dtype: of the computation. Parameters are float32, or float64 where this is.
    """

    num_classes: int = 256
    width: Size = 64
    depth: Size = 2
    heads: Size = 2
    head: Size | None = None
    expansion: Size = 4
    qk_norm: bool = True
    scaled: bool = False
    rope_base: Annotated[float, POSITIVE] = 10_000.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            problem = f"takes tokens, integers of shape (T,), not {x.dtype} of shape {x.shape[1:]}"
            raise UserError(
                "config.model.name", problem, "choose a data set of text, or a model of images"
            )
        head = self.head or self.width // self.heads
        if head % 2 or (self.head is None and self.width % self.heads):
            problem = f"{self.heads} heads do not share a width of {self.width} in even parts"
            raise UserError("config.model.heads", problem, "change one, or set config.model.head")
        embed = nn.initializers.normal(self.width**-0.5)
        y = self.weights("embedding", embed, (self.num_classes, self.width))[x]
        for i in range(self.depth):
            attention = Attention(
                self.scaled, self.dtype, self.heads, head, self.qk_norm, self.rope_base
            )
            y = y + attention(self.norm(y, f"scale_{i}_attention"))
            hidden = self.expansion * self.width
            up = self.weights(f"up_{i}", xavier, (self.width, hidden))
            down = self.weights(f"down_{i}", xavier, (hidden, self.width))
            y = y + nn.gelu(self.norm(y, f"scale_{i}_mlp") @ up) @ down
        logits = self.weights("logits", embed, (self.num_classes, self.width))
        y = jnp.einsum("ntd,vd->ntv", self.norm(y, "scale"), logits)
        return y.astype(accumulation_dtype(self.dtype))


_30M, _19M = {"width": 384, "depth": 6, "heads": 3}, {"width": 512, "depth": 6, "heads": 4}
_124M = {"width": 768, "depth": 12, "heads": 6}
for _name, _about, _fields, _places, _vocabulary in (
    ("gpt", "for bytes, on two cores", {}, 64, 256),
    ("gpt_30m", "30M active", _30M, 512, 50257),
    ("gpt_19m", "that of Xiao 2024", _19M, 512, 32101),
    ("gpt_124m", "GPT-2", _124M, 1024, 50257),
):
    _data = {"input_shape": (_places,), "input_dtype": jnp.int32, "num_classes": _vocabulary}
    MODELS.register(_name, source=SOURCE, about=_about, defaults=_fields, **_data)(GPT)
