"""Decompositions of small matrices in lanes."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import trainer

from sbt.lapack import decomposes_batches, one_by_one
from sbt.sweep.observe import make_observer


@pytest.mark.parametrize("decompose", [jnp.linalg.inv, jnp.linalg.eigh])
def test_a_batch_is_decomposed_one_by_one_on_a_cpu(decompose):
    matrices = jax.random.normal(jax.random.key(0), (2, 3, 20, 20))
    matrices = matrices + matrices.mT
    in_lanes = jax.jit(jax.vmap(jax.vmap(one_by_one(decompose))))

    found = in_lanes(matrices)
    for i in np.ndindex(2, 3):
        alone = jax.jit(decompose)(matrices[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), found, alone)

    # A batched call of LAPACK may wait for threads that wait themselves; its operands have axes
    # beyond the matrix's two.
    calls = [line for line in in_lanes.lower(matrices).as_text().splitlines() if "lapack_" in line]
    assert calls and not [line for line in calls if re.search(r"tensor<(\d+x){3,}f32>", line)]
    assert not decomposes_batches(in_lanes.lower(matrices))
    assert decomposes_batches(jax.jit(jax.vmap(decompose)).lower(matrices[0]))
    assert not decomposes_batches(jax.jit(jax.vmap(decompose)).lower(matrices[0, :1]))


def test_a_rule_that_decomposes_matrices_trains_one_lane_after_another_on_a_cpu():
    runs = [{"batch_size": 4, "base_lr": 2.0**-k} for k in range(6, 10)]
    config = {
        "model": {"name": "mlp", "hidden": (8,)},
        "rule": {"name": "optax.contrib.galore", "rank": 2},
        "epochs": 1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        galore = trainer(runs, config, 4, strategy="vmap/im2col", devices=2)
    adam = trainer(runs, config | {"rule": {"name": "optax.adam"}}, 4, strategy="vmap/im2col")
    assert str(galore.engine.strategy) == "map/im2col"
    assert str(adam.engine.strategy) == "vmap/im2col"
    state = galore.train(galore.engine.init(galore.lanes), 0, 3)
    assert np.all(np.asarray(state.diverged_at) < 0)

    config["engine"] = {"strategy": "vmap"}
    with pytest.warns(UserWarning, match="map/im2col in place of vmap/im2col: .* decomposes"):
        trainer(runs, config, 4, strategy="vmap/im2col")


def test_measurements_of_several_lanes_hand_lapack_no_batches():
    names = ["sharpness", "hessian_eigenvalues", "hessian_density"]
    config = {
        "model": {"name": "mlp", "hidden": (8,)},
        "measure": {
            "names": names,
            "examples": 8,
            "at_once": 2,
            "sharpness": {"directions": 10},
        },
        "epochs": 1,
    }
    runs = [{"batch_size": 4, "base_lr": 2.0**-k} for k in range(6, 9)]
    made = trainer(runs, config, 4)
    lowered = []

    def keep(program):
        lowered.append(program)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", keep)
        make_observer(made.engine.placed, 3)
    assert len(lowered) == len(names)
    for program in lowered:
        assert "lapack_" in program.as_text()
        assert not decomposes_batches(program)
