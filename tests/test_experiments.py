"""Every shipped experiment, in every variant: it plans at full size, and runs at toy scale.

At toy scale the real path is taken: prepared data sets are read, the grid is trained and measured
as the file says, and ``sbt report`` draws and judges it. A part runs with the quick tests, all of
it with ``make test-all``.
"""

import jax
import numpy as np
import pytest
import toy

import sbt
from sbt.cli import main
from sbt.config import complete
from sbt.data import load as load_data
from sbt.errors import UserError
from sbt.sweep import problem
from sbt.sweep.grid import make_grid
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts

# What the quick tests take of each paper: batch norm over less than the batch, products with the
# Hessian through convolutions, several rules and schedules; of Keskar et al., the scripts.
QUICK = {
    ("quickstart.py", "tiny"),
    ("masters_luschi_2018/fig13.py", "small"),
    ("gao_zhong_2020/fig02.py", "small"),
    ("zhao_2020_sngm/cifar10.py", "small"),
    ("marek_2025/fig05.py", ""),
}
QUICK_PLANS = {
    ("gao_zhong_2020/fig09.py", ""),
    ("keskar_2017/table2_4.py", "c1"),
    ("marek_2025/fig05.py", ""),
}
SCRIPTS = ("fig03_fig07", "fig04", "fig05_warm_start", "fig06", "table2_4")
QUICK_SCRIPTS = {("fig05_warm_start", "digits"), ("table2_4", "digits")}


def cases(every, quick):
    """(file, variant) as parameters; those that are not quick wait for ``make test-all``."""
    assert quick <= set(every)
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(*one, marks=marks[one in quick], id=":".join(one)) for one in every]


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    toy.write_sets(directory)
    return directory


@pytest.fixture(autouse=True)
def promotion():
    """Optimizers of optax mix dtypes, which the tests' own setting forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def data(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(sets))
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("file", toy.experiments())
def test_variants_are_declared_and_others_refused(file):
    module = toy.module_of(file)
    assert module.VARIANTS[0] == "" and len(set(module.VARIANTS)) == len(module.VARIANTS)
    with pytest.raises(UserError, match="there is no such variant"):
        module.get_config("nonesuch")


def with_start(config, variant, directory):
    """The config, and the sweep that its runs start from, if they start from one."""
    if config.start is not None:
        trunks = {"branching": "critical_batch/trunk.py"}
        first = trunks.get(config.name, "keskar_2017/fig05_iterates.py")
        sbt.run(toy.shrink(toy.load(first, variant)), directory)
        config.start = str(directory)
    return config


@pytest.mark.parametrize("file, variant", cases(toy.every_variant(), QUICK))
def test_runs_at_toy_scale(file, variant, data, tmp_path, capsys):
    config = with_start(toy.shrink(toy.load(file, variant)), variant, tmp_path / "start")
    ds = sbt.run(config, tmp_path, **toy.parts(file))
    trained = (
        ds["finished"] | ds[ds.attrs["score"]].isnull()
    )  # points that do not exist are neither
    assert bool(trained.all()) and bool(ds["finished"].any())
    for name in config.measure.names:
        assert any("measurement" in v.attrs for v in ds.data_vars.values()), name
    assert main(["report", str(tmp_path)]) == 0
    assert list((tmp_path / "figures").glob("*.png"))
    page = (tmp_path / "report.html").read_text()
    assert "Configuration" in page and "Partial results" not in page
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("file, variant", cases(toy.every_variant(), QUICK_PLANS))
def test_plans_at_full_size(file, variant, monkeypatch):
    config = toy.load(file, variant)
    pipelines = {}

    def load(fields):
        if fields.name == "tokens":
            return toy.full_size_text(fields)
        if fields.name not in toy.SETS:
            return load_data(fields)
        if fields.stream:
            return toy.streamed(fields.name, fields.image_size)
        return toy.full_size(fields.name)

    def make_pipeline(dataset, fields, dtype):
        key = (fields.name, fields.normalize, fields.augment, str(dtype))
        if key not in pipelines:
            pipelines[key] = original(dataset, fields, dtype)
        return pipelines[key]

    original = problem.make_pipeline
    monkeypatch.setattr(problem, "load", load)
    monkeypatch.setattr(problem, "make_pipeline", make_pipeline)
    sweep = prepare(config, Parts(**toy.parts(file)))
    possible = toy.runs(config)
    assert 0 < sweep.runs <= possible
    assert sweep.runs == possible or config.skip_impossible


@pytest.mark.parametrize(
    "figure, variants, runs",
    [
        ("fig01a", ("", "adafactor", "sgd", "muon"), 3110),
        ("fig01b", ("",), 312),
        ("fig03", ("", "t1", "t2"), 1911),
        ("fig04", ("", "b1", "b2", "t2"), 1820),
        ("fig05", ("",), 1260),
    ],
)
def test_grids_of_marek_et_al_have_as_many_runs_as_theirs(figure, variants, runs):
    configs = [toy.load(f"marek_2025/{figure}.py", variant) for variant in variants]
    assert sum(map(toy.runs, configs)) == runs
    assert toy.runs(toy.load(f"marek_2025/{figure}.py", "small")) >= 200


def test_grids_of_marek_et_al_lie_around_the_optimum_of_each_batch_size():
    grid = make_grid(complete(toy.load("marek_2025/fig03.py", "t1")))
    found = {}
    for run in grid.runs:
        scaling = run.settings
        if scaling["scaling.b1_tokens"] == 40_000:
            m = scaling["batch_size"]
            rate = grid.config.base_lr * m ** scaling["scaling.power"]
            found[m] = rate, 40_000 * m ** scaling["scaling.b1_growth"]
    assert found[1] == (1.7e-3, 40_000)
    assert found[64] == pytest.approx((3e-3, 200_000))
    assert found[4096] == pytest.approx((2.5e-3, 6_000_000))


@pytest.mark.parametrize(
    "name, variant",
    cases([(name, variant) for name in SCRIPTS for variant in ("digits", "small")], QUICK_SCRIPTS),
)
def test_keskar_scripts(name, variant, data, tmp_path, capsys):
    file = f"keskar_2017/{name}.py"
    config = toy.load(file, variant)
    small = with_start(toy.shrink(config), variant, tmp_path / "start")
    arguments = toy.argv_of(small, config)
    toy.run_script(file, f"--{variant}", "--workdir", tmp_path, *arguments)
    printed = capsys.readouterr().out
    made = {path.name for path in tmp_path.iterdir()}
    expected = {"table2_4": "table2_4.txt", "fig05_warm_start": "fig05.png"}.get(
        name, f"{name}.png"
    )
    assert expected in made and printed


def test_sharpness_speed(capsys):
    toy.run_script("keskar_2017/sharpness_speed.py", "--nets=2", "--updates=3", "--rounds=1")
    assert "times as fast" in capsys.readouterr().out


def test_the_sketch_of_gao_and_zhong(tmp_path):
    toy.run_script("gao_zhong_2020/fig06.py", tmp_path / "fig06.png")
    assert (tmp_path / "fig06.png").stat().st_size > 1000


def test_the_toy_of_marek_et_al(tmp_path):
    toy.run_script("marek_2025/fig10.py", tmp_path / "fig10.png")
    assert (tmp_path / "fig10.png").stat().st_size > 1000


def test_moments_and_medians_of_the_toy():
    fig10 = toy.module_of("marek_2025/fig10.py")
    large, small = fig10.ARMS["large batch"], fig10.ARMS["small batch"]
    means, squares = fig10.moments(large)
    np.testing.assert_allclose(squares, (0.6737, 0.7696), atol=1e-4)
    np.testing.assert_allclose(fig10.moments(small)[1], (0.95898, 1.2176), atol=1e-4)
    points = fig10.paths(large, 200_000)
    for steps in (1, 4):  # later moments rest on a few runs
        np.testing.assert_allclose(points[steps].mean(0), fig10.START * means**steps, atol=5e-3)
        np.testing.assert_allclose((points[steps] ** 2).mean(0), squares**steps, rtol=0.02)
    expected = (0.0324, 0.0023, 0.0040, 0.0037)
    for arm, median in zip(fig10.ARMS.values(), expected, strict=True):
        found = np.median(fig10.losses(fig10.paths(arm, 20_000)[-1]))
        assert found == pytest.approx(median, rel=0.1)
