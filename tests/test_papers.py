"""What the experiment files say of their papers, held against the papers' protocols."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import toy

import sbt
from sbt import results
from sbt.errors import UserError
from sbt.sweep.grid import make_grid
from sbt.tasks import Score


def module(paper, name, monkeypatch):
    monkeypatch.syspath_prepend(str(toy.EXPERIMENTS / paper))
    return importlib.import_module(name)


# --- Masters & Luschi ----------------------------------------------------------------------------


@pytest.mark.parametrize("figure", [f"fig{n:02d}" for n in range(1, 19)])
def test_reported_accuracy_lies_after_the_last_drop(figure):
    """The paper's last five epochs are all trained at the lowest learning rate; so are ours."""
    for variant in toy.module_of(f"masters_luschi_2018/{figure}.py").VARIANTS:
        config = toy.load(f"masters_luschi_2018/{figure}.py", variant)
        first = config.epochs - config.report.last_epochs + 1
        drop = max(config.schedule.drops) * config.epochs
        evaluated = [e for e in range(first, config.epochs + 1)
                     if e % config.evaluate.every == 0 or e == config.epochs]  # fmt: skip
        assert evaluated and min(evaluated) > drop
        if variant in ("", "cifar100"):
            assert config.report.last_epochs == len(evaluated) == 5


@pytest.mark.parametrize(
    "file, drops", [("zhao_2020_sngm/cifar10.py", (0.5, 0.75)), ("gao_zhong_2020/fig16.py", ())]
)
def test_reported_accuracy_of_others_lies_after_their_last_drop(file, drops):
    for variant in toy.module_of(file).VARIANTS:
        config = toy.load(file, variant)
        assert config.evaluate.every == 1
        first = config.epochs - config.report.last_epochs + 1
        assert first > max(drops, default=0) * config.epochs


def test_fig13_keeps_the_best_base_lr_up_to_the_limit_of_its_data():
    """2^-8 up to m = 16 on CIFAR-10 (Fig. 8) and to 8 on CIFAR-100 (Fig. 9), then 1/m."""
    for variant, limit in (("", 16), ("cifar100", 8), ("small", 16), ("small_cifar100", 8)):
        axis, pairs = toy.load("masters_luschi_2018/fig13.py", variant).follow.base_lr
        assert axis == "batch_size"
        for m, rate in pairs:
            assert rate == 2.0**-8 * min(1, limit / m), (variant, m)


def recorded(directory, axes, curves, config, missing=()):
    """Results of finished runs with these accuracies, over the axes and the epochs, in a file."""
    about = {"config": json.dumps(config)}
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    score, told = Score(diverged=0.1, guess=0.1), {name: {} for name in names}
    book = results.Recorder(axes, curves.shape[-1], score, told, 5, about)
    for *index, epoch in np.ndindex(curves.shape):
        if tuple(index) not in missing:
            value = curves[(*index, epoch)]
            values = {"train_loss": 1.0, "test_loss": 1.0} | dict.fromkeys(
                ("train_accuracy", "test_accuracy"), value
            )
            book.record(tuple(index), epoch, values, last=epoch + 1 == curves.shape[-1])
    directory.mkdir(exist_ok=True)
    results.write(book.dataset(), directory)


def swept(directory, data="cifar10", missing=()):
    """A sweep in which batch size m is best at base LR 2^-k, k its place in the grid."""
    sizes, rates = tuple(2**k for k in range(1, 12)), tuple(2.0**-k for k in range(1, 14))
    values = np.full((11, 13, 2, 1), 0.3)
    values[range(11), range(11)] = 0.9
    axes = {"batch_size": sizes, "base_lr": rates, "seed": (0, 1)}
    recorded(directory, axes, values, {"data": {"name": data}}, missing)
    return {m: 2.0 ** -(k + 1) for k, m in enumerate(sizes)}


def test_base_lrs_of_fig13_and_fig14_can_come_from_a_sweep(tmp_path):
    best = swept(tmp_path)
    config = toy.load("masters_luschi_2018/fig13.py", f"from={tmp_path}")
    assert dict(config.follow.base_lr[1]) == best
    small = toy.load("masters_luschi_2018/fig13.py", f"small,from={tmp_path}")
    assert dict(small.follow.base_lr[1]) == {m: best[m] for m in (2, 8, 32, 128)}
    swept(tmp_path / "imagenet", "imagenet2012")
    config = toy.load("masters_luschi_2018/fig14.py", f"from={tmp_path / 'imagenet'}")
    rates = dict(config.follow.base_lr[1])
    assert {m: rates[m] for m in best if m <= 128} == {m: best[m] for m in best if m <= 128}
    assert rates[256] == 2.0**-10 and rates[2048] == 2.0**-9  # as printed


@pytest.mark.parametrize(
    "variant, options, words",
    [
        ("cifar100", {}, "was trained on cifar10, not on cifar100"),
        ("", {"missing": {(3, 2, 1)}}, r"has not finished batch sizes \[16\]"),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused(variant, options, words, tmp_path):
    swept(tmp_path, **options)
    get_config = toy.module_of("masters_luschi_2018/fig13.py").get_config
    with pytest.raises(UserError, match=words):
        get_config(f"{variant},from={tmp_path}")


# --- SNGM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant, worker", [("", 128), ("small", 32)])
def test_sngm_baselines(variant, worker):
    """EXTRAP-SGD looks 128/m of its learning rate ahead; MSGD drops at epochs 80 and 120 of 160."""
    config = toy.load("zhao_2020_sngm/cifar10.py", variant)
    grid = make_grid(config)
    seen = set()
    for run in grid.runs:
        one = grid.config_of(run)
        name = one.rule.name
        seen.add((name, one.batch_size))
        if name == "extrap_sgd":
            assert one.rule.extrapolation == worker / one.batch_size
        else:
            assert "extrapolation" not in one.rule
        assert one.schedule.name == ("steps" if name == "sgd" else "poly")
        assert one.schedule.get("power", None) == (None if name == "sgd" else 1.1)
    assert len(seen) == 6 * len(config.sweep.batch_size)
    steps = sbt.schedules.SCHEDULES.configured({"name": "steps"}).values
    assert steps["factor"] == 0.1 and tuple(steps["drops"]) == (80 / 160, 120 / 160)


def test_a_field_follows_an_axis_for_the_rules_that_have_it():
    config = sbt.default_config()
    config.sweep.rule = ("sgd", "lars")
    config.sweep.batch_size = (4, 8)
    config.follow.rule__trust_coefficient = ("batch_size", ((4, 0.5), (8, 0.25)))
    found = {
        (run.settings["rule.name"], run.settings["batch_size"]): run.settings.get(
            "rule.trust_coefficient"
        )
        for run in make_grid(config).runs
    }
    assert found == {
        ("sgd", 4): None, ("sgd", 8): None, ("lars", 4): 0.5, ("lars", 8): 0.25
    }  # fmt: skip
    config.sweep.rule = ("sgd", "sngm")
    with pytest.raises(UserError, match="none of sgd, sngm has a field 'trust_coefficient'"):
        make_grid(config)


# --- Keskar et al. -------------------------------------------------------------------------------


def test_sharpness_is_sought_from_four_starts():
    for file in ("table2_4", "fig04", "fig05_warm_start", "fig06"):
        for variant, starts in (("", 4), ("c1", 4), ("small", 1), ("digits", 1)):
            config = toy.load(f"keskar_2017/{file}.py", variant)
            assert config.measure.sharpness.starts == starts
    words = (toy.EXPERIMENTS / "keskar_2017" / "keskar.py").read_text()
    assert "from four starts" in " ".join(words.split())


def test_warm_starts_train_at_the_configs_learning_rate(tmp_path):
    """From ADAM's first step η, nothing moves at η = 0: neither phase has a rate of its own."""
    iterates = toy.shrink(toy.load("keskar_2017/fig05_iterates.py", "digits"))
    warm = toy.shrink(toy.load("keskar_2017/fig05_warm_start.py", "digits"))
    iterates.base_lr = warm.base_lr = 0.0
    warm.start, warm.measure.names = str(tmp_path), ()
    warm.sweep.start_epoch = tuple(range(1, iterates.epochs + 1))
    small = sbt.run(iterates, tmp_path, progress=False)
    large = sbt.run(warm, progress=False)
    np.testing.assert_allclose(small.test_accuracy, small.test_accuracy.values.ravel()[0])
    np.testing.assert_allclose(large.test_accuracy, small.test_accuracy.values.ravel()[0])


def test_the_papers_numbers_are_those_that_it_prints(monkeypatch):
    """Some of each table, typed in from the paper; the curve of Fig. 4 falls past 500."""
    keskar = module("keskar_2017", "keskar", monkeypatch)
    numbers = keskar.published()
    tables = numbers["tables"]
    assert tables["2"]["c1"]["test_large"] == [77.26, 0.42]
    assert tables["3"]["f1"]["large_1e-3"] == [205.14, 69.52]
    assert tables["4"]["c4"]["small_5e-4"] == [1.89, 0.33]
    assert tables["6"]["c2"]["test_large"] == [90.26, 1.15]
    assert tables["7"]["f2"]["large_1e-3"] == [928.4, 51.63]
    assert {len(rows) for name, rows in tables.items() if name in "234"} == {6}
    curve = numbers["fig4"]["c1"]
    at = dict(zip(curve["batch_size"], curve["test_accuracy"], strict=True))
    assert at[200] > 79 and at[5000] < 76
    assert len(numbers["fig2"]["c1"]["sb_test"]) == 99


def test_remedies_differ_from_plain_training_in_one_thing():
    for file, field, values in (
        ("table6", "data.augment", {"plain": "none", "remedy": "affine"}),
        ("table7", "rule.name", {"plain": "adam", "remedy": "conservative"}),
        ("appendix_e", "objective.name",
         {"plain": "standard", "adversarial": "adversarial", "stability": "stability"}),
    ):  # fmt: skip
        grid = make_grid(toy.load(f"keskar_2017/{file}.py", "c1"))
        found = {run.settings["case"]: run.settings[field] for run in grid.runs}
        assert found == values
        assert {run.settings["batch_size"] for run in grid.runs} == {256, 5000}


# --- Gao & Zhong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", ["fig03", "fig04", "fig07", "fig09"])
def test_figures_about_the_first_update_keep_the_papers_network(figure):
    """With He initialisation the mean gradient is large, and sizes do not fall as 1/√n."""
    for variant in toy.module_of(f"gao_zhong_2020/{figure}.py").VARIANTS:
        config = toy.load(f"gao_zhong_2020/{figure}.py", variant)
        assert config.model.name == "alexnet_dropout"


def test_sizes_of_the_first_gradient_fall_with_the_square_root():
    """The evidence for Fig. 3: mean |g| is n^-0.5 until the batch is the whole set."""
    path = toy.EXPERIMENTS / "gao_zhong_2020" / "results" / "fig03_small"
    ds = sbt.load(path).median("seed").sel(measured_epoch=0).squeeze()
    size = ds.mean_abs_gradient.sel(gradient_batch=slice(4, 256))
    slope, _ = np.polyfit(np.log(size.gradient_batch), np.log(size), 1)
    assert slope == pytest.approx(-0.5, abs=0.03)
    assert float(ds.mean_abs_gradient[-1]) == pytest.approx(float(ds.gradient_floor), rel=1e-3)


@pytest.mark.parametrize("figure", ["fig04", "fig05", "fig07", "fig08"])
def test_the_printed_pairs_of_batch_size_and_learning_rate(figure):
    grid = make_grid(toy.load(f"gao_zhong_2020/{figure}.py", "pairs"))
    found = {(grid.config_of(run).batch_size, grid.config_of(run).base_lr) for run in grid.runs}
    assert found == {(512, 0.005), (8192, 0.05)}
    assert grid.config.lr_scaling == "none"


def test_fig10_leaves_out_as_many_by_loss_as_by_chance():
    grid = make_grid(toy.load("gao_zhong_2020/fig10.py", ""))
    found = {run.settings["sample.name"]: run.settings.get("sample.fraction") for run in grid.runs}
    assert found == {"all": None, "loss": 0.3, "random": 0.3}
    until = {run.settings.get("sample.until") for run in grid.runs}
    assert until == {None, 100 / grid.config.epochs}


def test_the_first_epoch_of_figs_11_to_14():
    """512 at 0.005 as printed, 8192 at 0.005 as control, 8192 at 0.05 as all later epochs."""
    grid = make_grid(toy.load("gao_zhong_2020/fig11_14.py", ""))
    schedule = sbt.schedules.BATCH_SCHEDULES
    found = {}
    for run in grid.runs:
        config = grid.config_of(run)
        for epoch in (0, 1, 150):
            growth = schedule.configured(config.batch_schedule)(epoch / config.epochs)
            m, rate = config.batch_size * growth.batch, config.base_lr * growth.learning_rate
            found[config.case, epoch] = round(float(m)), pytest.approx(float(rate))
    assert found["small first", 0] == (512, 0.005) and found["slow first", 0] == (8192, 0.005)
    assert found["large throughout", 0] == (8192, 0.05)
    later = [pair for (_, epoch), pair in found.items() if epoch]
    assert len(later) == 6 and all(pair == (8192, 0.05) for pair in later)


def test_fig16_draws_training_accuracy_over_seeds(monkeypatch, tmp_path):
    draw = module("gao_zhong_2020", "draw", monkeypatch)
    values = np.zeros((2, 2, 3, 3, 4))
    values[:, :, 1, :, -1] = 0.9  # ends highest here, though it begins lower
    values[:, :, 2, :, 0] = 0.95
    axes = {"rule": ("mclr", "lars"), "batch_size": (512, 1024), "base_lr": (0.1, 0.2, 0.4),
            "seed": (0, 1, 2)}  # fmt: skip
    recorded(tmp_path, axes, values, {})
    best = draw.best_training(sbt.load(tmp_path))
    assert best.dims == ("rule", "batch_size", "seed", "epoch")
    np.testing.assert_array_equal(best.isel(epoch=-1), np.full((2, 2, 3), 0.9))
    draw.draw(str(tmp_path), str(tmp_path / "fig16.png"))
    assert (tmp_path / "fig16.png").stat().st_size > 1000
    config = toy.load("gao_zhong_2020/fig16.py", "")
    assert len(config.sweep.seed) >= 3 and config.report.last_epochs == 5
    assert config.evaluate.every == 1


# --- momentum ------------------------------------------------------------------------------------


def test_pairs_with_and_without_momentum_have_the_same_effective_rate():
    """η/(1 - β) outside the buffer, η in the damped form."""
    grid = make_grid(toy.load("wang_2024/svag.py", ""))
    effective = {run.settings["base_lr"] / (1 - run.settings["rule.momentum"]) for run in grid.runs}
    np.testing.assert_allclose(list(effective), 2.0)
    lengths = {run.settings["rule.amplification"]: run.settings["epochs"] for run in grid.runs}
    assert lengths == {a: 2 * a * 164 for a in (1, 2, 4, 8)}
    grid = make_grid(toy.load("wang_2024/batch_sizes.py", ""))
    pairs = {}
    for run in grid.runs:
        where = (run.settings["batch_size"], run.settings["base_lr"], run.settings["seed"])
        pairs.setdefault(where, set()).add(run.settings["rule.momentum"])
    assert set(map(frozenset, pairs.values())) == {frozenset({0.0, 0.9})}
    assert grid.config.rule.name == "normalized_shb"


def test_sngm_breaks_as_its_evidence_says():
    """The breaks that the file names are those of the committed numbers, by a plain loop."""
    folder = toy.EXPERIMENTS / "zhao_2020_sngm" / "results" / "theory_small"
    norm = sbt.load(folder)["train_gradient_norm"].isel(epoch=-1).mean("seed").min("base_lr")
    for rule, expected in (("sgd", [256, 128, 64, 64]), ("sngm", [256, 128, 64, 32])):
        found = []
        for level in norm.data__smoothness.values:
            row = norm.sel(rule=rule, data__smoothness=level)
            values = dict(zip(row.batch_size.values.tolist(), row.values.tolist(), strict=True))
            least = {m: min(v for n, v in values.items() if n <= m) for m in values}
            found.append(max(m for m, value in values.items() if value <= 1.5 * least[m]))
        assert found == expected
    text = (folder / "verdicts.txt").read_text()
    assert "reduced run: 16384 training examples; 5 seeds" in text


def test_quadratics_choose_nine_tenths_anew_at_every_update():
    for name, updates, share in (("interpolation", 2000, {0.0, 0.1, 0.9}), ("noisy", 7000, {0.1})):
        grid = make_grid(toy.load(f"dang_2024/{name}.py", ""))
        assert grid.config.batch_size == 8000 and grid.config.epochs == updates
        assert grid.config.sample.name == "random" and grid.config.sample.average == "kept"
        assert {run.settings["sample.fraction"] for run in grid.runs} == share
        for run in grid.runs:
            kappa = run.settings["data.condition_number"]
            assert run.settings.get("rule.condition_number", kappa) == kappa


# --- what the repository shows of them -----------------------------------------------------------


def test_the_notebook_says_what_the_table_says():
    """F1's large-batch solution is the sharper one in all but the subspace at ε = 5e-4."""
    folder = toy.EXPERIMENTS / "keskar_2017" / "results" / "table2_4_f1"
    ds = sbt.load(folder).isel(measured_epoch=-1).mean("seed").sharpness
    sharper = ds.sel(batch_size=6000) > ds.sel(batch_size=256)
    assert bool(sharper.sel(space="full").all()) and not bool(sharper.all())
    notebook = Path(__file__).resolve().parent.parent / "notebooks" / "keskar_interpolation.ipynb"
    last = json.loads(notebook.read_text())["cells"][-1]["source"]
    text = " ".join("".join(last).split())
    assert "of F1 itself in all but the subspace at ε = 5e-4" in text
