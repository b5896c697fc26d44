"""Curves between solutions, slices and distances against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measure_nets import dense_loss, digits, lane, trained

from sbt.errors import UserError
from sbt.measure.landscape import (
    distance,
    filter_normalised,
    interpolate,
    loss_slice,
    random_direction,
)


def cubic(p):
    return jnp.sum(p["a"] ** 3) + 2 * p["b"]


START = {"a": np.array([1.0, -2.0], np.float32), "b": np.float32(0.5)}
END = {"a": np.array([0.5, 3.0], np.float32), "b": np.float32(-1)}


@pytest.mark.parametrize("curve", ["linear", "curvilinear"])
@pytest.mark.parametrize("where", [None, "^a$"])
def test_curve_through_two_points(curve, where):
    path = interpolate(cubic, START, END, curve=curve, where=where, chunk=4)
    alphas = np.linspace(-1, 2, 25)
    np.testing.assert_allclose(path.alphas, alphas, atol=1e-6)
    one = alphas if curve == "linear" else np.sin(alphas * np.pi / 2)
    other = 1 - alphas if curve == "linear" else np.cos(alphas * np.pi / 2)
    a = one[:, None] * END["a"] + other[:, None] * START["a"]
    b = one * END["b"] + other * START["b"] if where is None else 0.5
    np.testing.assert_allclose(path.values, np.sum(a**3, axis=1) + 2 * b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(path.values[8], cubic(START), rtol=1e-5)


def test_curve_of_several_values_and_of_lanes_at_once(x64):
    x, y = digits(40)
    lanes = trained(x, y, lanes=3, hidden=3)
    reverse = jax.tree.map(lambda leaf: leaf[::-1], lanes)

    def measure(start, end):
        def both(p):
            return {"loss": dense_loss(p, x, y), "norm": jnp.sum(p["logits"]["kernel"] ** 2)}

        return interpolate(both, start, end, points=4).values

    together = jax.jit(jax.vmap(measure))(lanes, reverse)
    for i in range(3):
        alone = measure(lane(lanes, i), lane(reverse, i))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), lane(together, i), alone
        )
    np.testing.assert_allclose(together["loss"][0, 1], dense_loss(lane(lanes, 0), x, y))


def test_distances():
    zero = jax.tree.map(np.zeros_like, START)
    np.testing.assert_allclose(distance(START, zero), np.sqrt(1 + 4 + 0.25))
    np.testing.assert_allclose(distance(START, zero, "b"), 0.5)
    np.testing.assert_allclose(distance(zero, END), np.sqrt(0.25 + 9 + 1), rtol=1e-6)
    np.testing.assert_allclose(distance(START, END), np.sqrt(0.25 + 25 + 2.25), rtol=1e-6)


def test_filters_take_the_norms_of_the_weights():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)), "bias": rng.normal(size=4)},
        "dense": {"kernel": rng.normal(size=(5, 6)) * np.arange(6)},
        "step": 3,
    }
    params = jax.tree.map(lambda x: x if isinstance(x, int) else np.float32(x), params)
    direction = random_direction(params, jax.random.key(0))
    for j in range(4):
        norm = np.linalg.norm(direction["conv"]["kernel"][..., j])
        np.testing.assert_allclose(norm, np.linalg.norm(params["conv"]["kernel"][..., j]), 1e-5)
    norms = np.linalg.norm(direction["dense"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, np.linalg.norm(params["dense"]["kernel"], axis=0), rtol=1e-5)
    assert norms[0] == 0 and not np.any(direction["conv"]["bias"]) and direction["step"] == 0
    moved = random_direction(params, jax.random.key(0), vectors=True, where="bias")
    np.testing.assert_allclose(
        np.linalg.norm(moved["conv"]["bias"]), np.linalg.norm(params["conv"]["bias"]), rtol=1e-5
    )
    assert not np.any(moved["dense"]["kernel"])
    other = random_direction(params, jax.random.key(1))
    assert not np.allclose(other["dense"]["kernel"], direction["dense"]["kernel"])


def test_slices_do_not_see_the_scale_of_a_filter(x64):
    """Scaling one unit's input by c and its output by 1/c leaves a ReLU net and its slice."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(20, 3)))
    first, second = (jnp.asarray(rng.normal(size=s)) for s in ((3, 4), (4, 1)))
    c = np.array([10.0, 1.0, 0.1, 2.0])

    def loss(p):
        return jnp.mean((jax.nn.relu(x @ p[0]) @ p[1]) ** 2)

    direction = [jnp.asarray(rng.normal(size=(3, 4))), jnp.zeros((4, 1))]
    values = [
        loss_slice(loss, point, [filter_normalised(direction, point)], [np.linspace(-1, 1, 5)])
        for point in ([first, second], [first * c, second / c[:, None]])
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)


def test_plane_of_a_quadratic():
    a, b = np.linspace(-2, 1, 4), np.linspace(0, 1, 3)
    one, other = np.array([1.0, 2.0], np.float32), np.array([0.0, -1.0], np.float32)

    def both(w):
        return jnp.sum(w**2), w

    values, points = loss_slice(both, np.ones(2, np.float32), [one, other], [a, b], chunk=5)
    expected = 1 + a[:, None, None] * one + b[None, :, None] * other
    np.testing.assert_allclose(points, expected, atol=1e-6)
    np.testing.assert_allclose(values, np.sum(expected**2, axis=-1), rtol=1e-5)
    line = loss_slice(lambda w: jnp.sum(w**2), np.ones(2, np.float32), [one])
    np.testing.assert_allclose(
        line, [np.sum((1 + t * one) ** 2) for t in np.linspace(-1, 1, 51)], rtol=1e-5
    )


def test_mistakes():
    broken = {"a": np.array([np.inf, 0.0]), "b": np.zeros(())}
    with pytest.raises(UserError, match="end"):
        interpolate(cubic, START, broken)
    with pytest.raises(UserError, match="start and end"):
        interpolate(cubic, START, {"a": END["a"]})
    with pytest.raises(UserError, match="curve"):
        interpolate(cubic, START, END, curve="spline")
    with pytest.raises(UserError, match="where"):
        interpolate(cubic, START, END, where="kernel")
    with pytest.raises(UserError, match="first and second"):
        distance(START, {"a": np.zeros(3), "b": np.zeros(())})
    with pytest.raises(UserError, match="params"):
        loss_slice(cubic, broken, [START])
    with pytest.raises(UserError, match="empty"):
        loss_slice(cubic, START, [START], [[]])
    with pytest.raises(UserError, match="direction and params"):
        filter_normalised([1.0], START)
