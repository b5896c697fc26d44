"""Problems whose theory is known: least squares of a condition number, cosines of a smoothness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

import sbt
from sbt.data import load
from sbt.data.least_squares import least_squares_arrays
from sbt.errors import UserError


@pytest.mark.parametrize("kappa", [64, 256, 1000])
def test_least_squares_has_its_condition_number(kappa):
    """Eigenvalues of the Hessian X'X/n are 1/κ to 1, a little more by the uniform rows (Weyl)."""
    x, y = least_squares_arrays(2000, 20, kappa, 0.0)
    values = np.linalg.eigvalsh(x.T @ x / 2000)
    assert 1 <= values[-1] < 1.02
    assert 1 <= kappa * values[0] < 1.1
    assert np.linalg.lstsq(x, y, rcond=None)[1] == pytest.approx(0, abs=1e-12)  # all targets met


def test_least_squares_want_as_many_examples_as_dimensions():
    config = sbt.default_config()
    config.data.name, config.data.train_size, config.data.test_size = "least_squares", 40, 8
    with pytest.raises(UserError, match=r"config\.data\.test_size: 8 examples of 20 dimensions"):
        load(config.data)


def test_noise_of_least_squares_is_what_no_weights_remove():
    x, y = least_squares_arrays(2000, 20, 100, 0.3)
    left = np.linalg.lstsq(x, y, rcond=None)[1].item() / (2000 - 20)
    assert left * 10 * 100 == pytest.approx(0.3**2, rel=0.1)


def test_cosines_are_examples_of_a_mean():
    """Their mean is the noiseless sum, and its gradient the one whose norm the module tells."""
    config = toy.load("zhao_2020_sngm/theory.py", "small")
    config.data.train_size, config.data.smoothness, config.data.noise = 500, 4.0, 10.0
    data = load(config.data).train["x"]
    np.testing.assert_allclose(data[:, :-1].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data[:, :-1].std(), 10, rtol=0.05)
    theory = toy.module_of("zhao_2020_sngm/theory.py")
    module = theory.module()
    params = {"params": {"w": jnp.linspace(-0.3, 0.4, 10)}}

    def mean(params):
        return jnp.mean(theory.loss(module.apply(params, data), {}))

    angle = 2 * np.linspace(-0.3, 0.4, 10) + np.pi * np.linspace(0.25, 0.75, 10)
    assert mean(params) == pytest.approx(np.sum(1 - np.cos(angle)), rel=1e-4)
    gradient = jax.grad(mean)(params)["params"]["w"]
    np.testing.assert_allclose(gradient, 2 * np.sin(angle), rtol=1e-3, atol=1e-4)
    told = theory.metrics()["gradient_norm"](module.apply(params, data), {})
    np.testing.assert_allclose(told, np.linalg.norm(2 * np.sin(angle)), rtol=1e-5)
