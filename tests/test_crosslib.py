"""The Hessian's spectrum against independent tools, where installed (`pip install .[crosslib]`).

The same small net in PyTorch: eigenvalues by SciPy's ARPACK on torch's own Hessian-vector products,
trace and eigenvalues by curvlinops. Deselect with ``-m "not crosslib"``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from measure_nets import dense_loss, digits, lane, trained

from sbt.measure import hessian_trace, ravel, top_eigenvalues

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.crosslib

LEAVES = ("hidden.bias", "hidden.kernel", "logits.bias", "logits.kernel")  # the order of ravel


class Dense(torch.nn.Module):
    """The net of ``measure_nets``, with its weights."""

    def __init__(self, params):
        super().__init__()
        for name in LEAVES:
            layer, leaf = name.split(".")
            value = torch.tensor(np.asarray(params[layer][leaf]))
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value))

    def forward(self, x):
        hidden = torch.tanh(x @ self.hidden_kernel + self.hidden_bias)
        return hidden @ self.logits_kernel + self.logits_bias


@pytest.fixture
def problem(x64):
    """A trained net in both libraries, in float64."""
    x, y = digits(100)
    params = lane(trained(x, y, lanes=2, hidden=6), 1)
    module = Dense(params)
    data = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y), dtype=torch.long)
    return params, lambda p: dense_loss(p, x, y), module, data


def torch_product(module, data):
    """v -> H v by differentiating twice in torch."""
    weights = list(module.parameters())
    loss = torch.nn.functional.cross_entropy(module(data[0]), data[1])
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])

    def product(v):
        direction = torch.tensor(np.asarray(v, np.float64).reshape(-1))
        parts = torch.autograd.grad(flat @ direction, weights, retain_graph=True)
        return torch.cat([p.reshape(-1) for p in parts]).numpy()

    return product, flat.numel()


def test_same_loss(problem):
    params, loss, module, data = problem
    theirs = torch.nn.functional.cross_entropy(module(data[0]), data[1]).item()
    np.testing.assert_allclose(loss(params), theirs, rtol=1e-12)


def test_eigenvalues_against_arpack_on_torch(problem):
    params, loss, module, data = problem
    product, size = torch_product(module, data)
    assert size == ravel(params)[0].size
    operator = scipy.sparse.linalg.LinearOperator((size, size), product, dtype=np.float64)
    for which, letters in (("largest", "LA"), ("smallest", "SA")):
        theirs = scipy.sparse.linalg.eigsh(operator, 5, which=letters)[0]
        theirs = np.sort(theirs)[::-1] if which == "largest" else np.sort(theirs)
        ours = top_eigenvalues(loss, params, 5, which=which, order=size)
        np.testing.assert_allclose(ours.values, theirs, rtol=1e-8, atol=1e-10)


def test_trace_against_torch(problem):
    params, loss, module, data = problem
    product, size = torch_product(module, data)
    trace = sum(product(row)[i] for i, row in enumerate(np.eye(size)))
    ours = jax.jit(lambda p: hessian_trace(loss, p, samples=400, chunk=50))(params)
    assert abs(ours.value - trace) < 4 * ours.standard_error
    # Exact once the probes are the unit vectors' signs: a diagonal sum of our own products.
    point, unravel = ravel(params)
    gradient = jax.grad(lambda v: loss(unravel(v)))
    diagonal = jax.lax.map(
        lambda e: jnp.vdot(e, jax.jvp(gradient, (point,), (e,))[1]), jnp.eye(size)
    )
    np.testing.assert_allclose(jnp.sum(diagonal), trace, rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_curvlinops(problem):
    curvlinops = pytest.importorskip("curvlinops")
    params, loss, module, data = problem
    operator = curvlinops.HessianLinearOperator(
        module,
        torch.nn.CrossEntropyLoss(),
        list(module.parameters()),
        [data],
        progressbar=False,
    )
    largest = scipy.sparse.linalg.eigsh(operator.to_scipy(), 3, which="LA")[0]
    ours = top_eigenvalues(loss, params, 3, order=operator.shape[0])
    np.testing.assert_allclose(ours.values, np.sort(largest)[::-1], rtol=1e-7)
    torch.manual_seed(0)
    theirs = float(curvlinops.hutchpp_trace(operator, num_matvecs=150))
    estimate = jax.jit(lambda p: hessian_trace(loss, p, samples=400, chunk=50))(params)
    assert abs(estimate.value - theirs) < 4 * estimate.standard_error
