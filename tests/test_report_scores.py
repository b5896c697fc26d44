"""Reports of sweeps ranked by a loss: lower is better, runs that diverge are infinitely bad."""

import dataclasses
import io
import json
import math

import flax.linen as nn
import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from test_report import alone, curves_of, read_csv, read_page

import sbt
from sbt import report
from sbt.cli import main
from sbt.errors import UserError
from sbt.report import FAILS, HOLDS, OPEN, View, claims, tables, wording
from sbt.report.scales import Ordinate
from sbt.report.view import checked, spread
from sbt.sweep import progress
from sbt.tasks import Score, of_attrs

NAN, INF = np.nan, np.inf
VOCABULARY = 64
LOSS = Score("loss", False, INF, math.log(VOCABULARY), "nats per token", False, "loss")


def losses(values, axes, validation=None, score=LOSS, epochs=4, **attrs):
    """A dataset as ``sbt.run`` returns it; runs of infinite loss have diverged.

    Args:
      values: over the axes and the seed.
      axes: with their values, without the seed.
      validation: as ``values``, of the validation split.
    """
    values = np.asarray(values, float)
    dims = (*axes, "seed")
    rise = 1 + np.exp(-np.arange(1.0, epochs + 1))
    told = {"test": values} | ({} if validation is None else {"validation": validation})
    units = {"units": score.units} if score.units else {}
    data = {
        f"{split}_{name}": ((*dims, "epoch"), np.asarray(of)[..., None] * rise,
                            {**units, "long_name": f"{split} {score.long_name}"})
        for split, of in {"train": values - 0.1, **told}.items()
        for name in dict.fromkeys(("loss", score.name))
    }  # fmt: skip
    if validation is not None:
        data["validation_score"] = (dims, np.asarray(validation, float))
    diverged = np.isinf(values)
    data[score.name] = (dims, values, units)
    data["diverged"] = (dims, diverged)
    data["diverged_epoch"] = (dims, np.where(diverged, 1.5, NAN))
    coords = {**axes, "seed": np.arange(values.shape[-1]), "epoch": np.arange(1, epochs + 1)}
    config = json.dumps({"name": "losses", "report": {"margin": 0.1}})
    return xr.Dataset(data, coords, {"name": "losses", "config": config, **score.attrs, **attrs})


def valley(sizes=5, rates=7, seeds=3, key=0):
    """Losses with a valley of base LRs that is narrower, the larger the batch; beyond, infinity."""
    m = np.arange(sizes)[:, None, None]
    rate = np.arange(rates)[None, :, None]
    noise = np.random.default_rng(key).normal(0, 0.01, (sizes, rates, seeds))
    found = 1.5 + 0.15 * np.abs(rate - 2) * (1 + 0.3 * m) + 0.05 * m + noise
    found = np.where(rate - 2 > 3 - 0.5 * m, INF, found)
    axes = {"batch_size": 2 ** np.arange(sizes), "base_lr": 2.0 ** (np.arange(rates) - 9)}
    return found, axes


# --- what is best --------------------------------------------------------------------------------


def test_cells_rows_and_ranges_by_hand():
    """Margin 0.1; of each row the base LRs 1, 2, 4, 8."""
    rows = [[2.0, 1.0, 1.1, INF], [3.0, 1.5, 1.05, 1.09], [INF, INF, INF, INF]]
    values = np.asarray(rows)[..., None]
    axes = {"batch_size": [1, 2, 4], "base_lr": [1.0, 2.0, 4.0, 8.0]}
    view = View(losses(values, axes))
    assert view.best.value == 1.0 and view.best.where == {"batch_size": 1, "base_lr": 2.0}
    np.testing.assert_array_equal(view.cells["gain"], -np.asarray(rows))
    np.testing.assert_array_equal(view.rows["score"], [1.0, 1.05, INF])
    np.testing.assert_array_equal(view.rows["best_base_lr"], [2.0, 4.0, 1.0])
    # A cell that diverged has finished: the best beside it is not at the end of the grid.
    assert view.rows["edge"].values.tolist() == [False, False, False]
    good = [[False, True, True, False], [False, False, True, True], [False] * 4]
    np.testing.assert_array_equal(view.reliable(0.1), good)
    found = view.stable_range(0.1)
    assert found["count"].values.tolist() == [2, 2, 0]
    assert found["high_open"].values.tolist() == [False, True, False]
    # Means over the rows, infinity counting as a guess (ln 64 = 4.16): 3.05, 2.22, 2.10 and 3.14.
    assert view.shared_base_lr == 4.0


def test_a_base_lr_where_everything_diverged_is_shared_by_none():
    values = [[[INF], [5.0]], [[INF], [6.0]]]  # worse than a guess, and yet finite
    assert View(losses(values, {"batch_size": [1, 2], "base_lr": [1.0, 2.0]})).shared_base_lr == 2.0


def test_validation_chooses_and_test_is_told():
    test = [[[1.0], [1.2], [2.0]], [[1.4], [1.3], [2.0]]]
    validation = [[[1.5], [1.6], [2.5]], [[1.3], [1.7], [2.5]]]
    axes = {"batch_size": [1, 2], "base_lr": [1.0, 2.0, 4.0]}
    view = View(losses(test, axes, validation))
    assert view.best.value == 1.4 and view.best.where == {"batch_size": 2, "base_lr": 1.0}
    np.testing.assert_array_equal(view.rows["score"], [1.0, 1.4])  # 1.3 would be the test's choice
    np.testing.assert_array_equal(view.rows["best_base_lr"], [1.0, 1.0])
    assert view.reliable(0.1).values.tolist() == [[False, False, False], [True, False, False]]
    table = tables.grid_html(view, "base_lr", "batch_size")
    assert table.count('class="top"') == 1 and 'class="top"><b>1.400</b>' in table


def test_quantiles_of_many_seeds_between_numbers_and_infinity():
    values = np.arange(11.0)
    plain = spread(xr.DataArray(values, dims="seed"))
    one = spread(xr.DataArray([*values[:10], INF], dims="seed"))
    assert float(one["low"]) == float(plain["low"]) == 1.0
    assert float(one["median"]) == 5.0 and float(one["high"]) == 9.0  # the tenth of eleven
    two = spread(xr.DataArray([*values[:9], INF, INF], dims="seed"))
    assert float(two["high"]) == INF
    # With twelve seeds 90 % lies between the tenth and the last but one.
    between = spread(xr.DataArray([*values, INF], dims="seed"))
    assert float(between["high"]) == pytest.approx(np.quantile([*values, 99.0], 0.9))
    all_of_them = spread(xr.DataArray([INF] * 12, dims="seed"))
    assert float(all_of_them["low"]) == float(all_of_them["high"]) == INF


# --- verdicts ------------------------------------------------------------------------------------


def test_verdicts_read_in_the_direction_and_the_units_of_the_score():
    found = report.verdicts(View(losses(*valley())))
    assert [v.verdict for v in found] == [HOLDS, HOLDS, HOLDS]
    assert "(margin 0.1 nats per token)" in found[0].claim
    assert found[2].claim == "The best loss rises at large m"
    assert "nats per token higher" in found[2].numbers
    assert not any("accuracy" in str(v) or "point" in v.claim for v in found)


def test_a_rising_loss_is_judged_as_a_falling_accuracy_is():
    """The negative of a grid of losses, ranked upwards, has the same outcomes."""
    values, axes = valley()
    mirrored = losses(-values, axes, score=Score("gain", True, -INF, percent=False))
    kinds = (claims.range_shrinks(0.1), claims.best_falls(), claims.good_at(4),
             claims.best_batch(1, 2), claims.best_lr_usable_to(4))  # fmt: skip
    for stated in kinds:
        down, up = alone(losses(values, axes), stated), alone(mirrored, stated)
        assert down.verdict == up.verdict, stated


def test_claims_against_a_guess():
    axes = {"batch_size": [1, 2, 4], "base_lr": [1.0, 2.0, 4.0]}
    values = [[[1.0]] * 3, [[2.0]] * 3, [[4.15]] * 3]
    name, given = claims.learns_only_below(4)
    above, below = claims.CLAIMS[name].judged(View(losses(values, axes)), given)
    assert (above.verdict, below.verdict) == (HOLDS, HOLDS)
    assert "guess 4.159 nats per token" in above.numbers
    unknown = Score("loss", False, INF, percent=False, long_name="loss")
    for verdict in claims.CLAIMS[name].judged(View(losses(values, axes, score=unknown)), given):
        assert verdict.verdict == OPEN and "what a guess would have" in verdict.numbers


def test_curves_that_end_in_infinity():
    values, axes = valley(rates=3)
    values = np.where(np.arange(5)[:, None, None] > 3, INF, values)
    stated = claims.curves_coincide(1, 4, 2.0**-7)
    found = alone(losses(values, axes), stated)
    assert found.verdict in (HOLDS, FAILS) and "above m = 4 1.6" in found.numbers
    assert "to diverged" in found.numbers


def test_the_largest_batch_diverged_everywhere():
    values, axes = valley()
    values[-1] = INF
    found = alone(losses(values, axes), claims.best_falls())
    assert found.verdict == HOLDS and "largest batch size diverged at m = 16" in found.numbers
    assert "inf" not in found.numbers


# --- axes and figures ----------------------------------------------------------------------------


def test_where_values_stand_along_the_axis():
    finite = Ordinate.of(LOSS, [np.array([1.0, 2.0, NAN])])
    assert finite.edge is None and not finite.log
    some = Ordinate.of(LOSS, [np.array([1.0, 2.0]), np.array([INF, NAN])])
    np.testing.assert_allclose(some.height(np.array([1.5, INF, NAN])), [1.5, 2.08, NAN])
    assert some.beyond == "diverged"
    # Much worse than a guess, ln 64 = 4.16, is as good as diverged.
    far = Ordinate.of(LOSS, [np.array([1.0, 4.2, 300.0])])
    np.testing.assert_allclose(far.height(np.array([4.2, 300.0])), [4.2, 4.2 + 0.08 * 3.2])
    assert far.beyond == "off the scale" and not far.log
    # Without a guess everything finite is in view, over magnitudes on a logarithmic axis.
    error = Score("loss", False, INF, percent=False, long_name="mean squared error")
    wide = Ordinate.of(error, [np.array([0.01, 100.0, INF])])
    assert wide.log and wide.height(np.array([INF]))[0] == pytest.approx(100 * 10 ** (4 * 0.08))
    np.testing.assert_allclose(wide.depth(np.array([0.01, 1.0, 100.0, INF])), [1, 0.5, 0, 0])
    up = Ordinate.of(Score("r2", True, -INF, 0.0, percent=False), [np.array([0.5, 0.9, -INF])])
    np.testing.assert_allclose(up.height(np.array([0.9, -INF])), [0.9, 0.5 - 0.08 * 0.4])
    nothing = Ordinate.of(LOSS, [np.array([INF, NAN])])
    np.testing.assert_allclose(nothing.height(np.array([INF])), [LOSS.guess])
    accuracy = Ordinate.of(Score(diverged=0.1, guess=0.1), [np.array([0.1, 0.9])])
    assert accuracy.edge is None and not accuracy.log
    np.testing.assert_allclose(accuracy.depth(np.array([0.1, 0.5, 0.9])), [0, 0.5, 1])


def words_in(panel):
    return {text.get_text() for text in panel.texts}


def test_diverged_cells_are_marked_at_the_edge_of_a_finite_axis():
    values, axes = valley()
    drawing = report.sweep_figure(View(losses(values, axes)))
    left, right = drawing.figure.axes
    assert left.get_ylabel() == "test loss [nats per token]"
    assert words_in(left) == words_in(right) == {"diverged"}  # a guess is far away
    median = np.median(values, axis=-1)
    worst = median[np.isfinite(median)].max()
    low, high = left.get_ylim()
    assert 1 < low < median.min() and worst < high < 1.3 * worst
    _, heights = curves_of(right)["1"]
    np.testing.assert_allclose(heights[:6], median[0, :6])
    assert worst < heights[6] < high
    hollow = [line for line in right.lines if line.get_markerfacecolor() == "white"]
    assert sum(len(line.get_xdata()) for line in hollow) == np.isinf(median).sum()
    assert "Hollow marker: at least one seed diverged (counted as infinitely bad)" in (
        drawing.caption
    )
    assert f"Ring: best cell, {LOSS.text(median.min())} at" in drawing.caption
    near = View(losses(np.where(np.isinf(values), 4.0, values), axes))
    assert words_in(report.sweep_figure(near).figure.axes[0]) == {"guess"}


def test_learning_curves_show_the_loss_once():
    many = report.learning_curves(View(losses(*valley())))
    assert [panel.get_ylabel() for panel in many.figure.axes] == [
        "test loss [nats per token]",
        "training loss [nats per token]",
    ]
    assert many.caption.startswith("Test and training loss against the epoch, one curve per batch")
    few = report.learning_curves(View(losses(*valley(sizes=2))))
    assert [panel.get_ylabel() for panel in few.figure.axes] == ["loss [nats per token]"]
    assert few.caption.startswith("Training and test loss against the epoch")
    explained = Score("r2", True, -INF, 0.0, percent=False, long_name="R²")
    both = report.learning_curves(View(losses(np.full((5, 1), 0.5), {"batch_size": range(5)},
                                              score=explained)))  # fmt: skip
    assert both.figure.axes[0].get_ylabel() == "test R²"
    assert "chance" not in both.caption


def test_learning_curves_of_a_validation_split():
    values, axes = valley()
    many = report.learning_curves(View(losses(values, axes, validation=values + 0.01)))
    test, held_out, train = many.figure.axes
    assert held_out.get_ylabel() == "validation loss [nats per token]"
    assert many.caption.startswith("Test, validation and training loss against the epoch")
    curves = [curves_of(panel)["16"][1] for panel in (test, held_out, train)]
    np.testing.assert_allclose(curves[1] / curves[2], 1.5 / 1.4, rtol=0.1)
    assert (curves[1] > curves[0]).all()
    values, axes = valley(sizes=2)
    few = report.learning_curves(View(losses(values, axes, validation=values + 0.01)))
    assert {"1 test", "1 train", "1 validation"} <= curves_of(few.figure.axes[0]).keys()
    assert "Dotted and faint: validation." in few.caption


def test_a_known_floor_is_drawn_where_curves_come_near_it():
    values, axes = valley()
    for floor, told in ((1.4, {"guess", "floor"}), (-20.0, {"guess"}), (NAN, {"guess"})):
        score = dataclasses.replace(LOSS, floor=floor)
        ds = losses(np.where(np.isinf(values), 4.0, values), axes, score=score)
        assert of_attrs(ds.attrs).floor == pytest.approx(floor, nan_ok=True)
        panel = report.sweep_figure(View(ds)).figure.axes[0]
        assert words_in(panel) == told
    assert "score_floor" not in LOSS.attrs


def test_claims_about_images_do_not_call_text_a_reduced_run():
    verdicts = claims.verdicts(View(losses(*valley())))
    assert verdicts and not any(verdict.reduced for verdict in verdicts)
    assert {verdict.scope for verdict in verdicts} == {"3 seeds"}
    accuracies = Score(diverged=0.1, guess=0.1)
    values, axes = valley()
    ds = losses(np.where(np.isinf(values), 0.1, 1 / values), axes, score=accuracies)
    assert all(verdict.reduced for verdict in claims.verdicts(View(ds)))


def test_names_of_figures_are_those_of_the_score():
    values, axes = valley()
    names = [drawing.name for drawing in report.default_figures(View(losses(values, axes)))]
    assert names == ["sweep", "best_loss", "stable_range", "learning_curves"]
    one = View(losses(values[0], {"base_lr": axes["base_lr"]}))
    assert report.default_figures(one)[0].name == "loss_vs_base_lr"
    assert "within 0.1 nats per token of" in report.stable_range_summary({"": View(
        losses(values, axes))}).caption  # fmt: skip


# --- pages ---------------------------------------------------------------------------------------


def test_a_page_says_nothing_of_accuracy(tmp_path):
    values, axes = valley()
    ds = losses(values, axes, validation=values + 0.01, tokens_per_example=32)
    written = report.write_report(ds, tmp_path, {"status": "done"})
    names = {path.name for path in written}
    assert {"best_loss.png", "loss.csv", "runs.csv", "batch_sizes.csv"} <= names
    text = read_page(tmp_path / "report.html")
    for words in ("accura", "chance", "percent", " points of", " %", "nan", " inf "):
        assert words not in text.replace("95 % interval", ""), words
    for words in (
        "(32 … 512 tokens)",
        "diverged (counted as infinitely bad)",
        "Best cell by validation: ",
        "Loss per cell",
        "in nats per token. Framed: best by validation",
        "tables/loss.csv",
        "∞ ×3",
        "tokens per batch",
        "best loss [nats per token]",
        "within 0.1 nats per token of the best cell",
        "What is best or reliable is chosen by the validation split",
        "more than a tenth of the margin",
    ):
        assert words in text, words


def test_tables_keep_infinity_apart_from_nothing_and_count_tokens(tmp_path):
    values, axes = valley(sizes=3)
    values[0, 0] = NAN
    ds = losses(values, axes, validation=values, tokens_per_example=32)
    report.write_report(ds, tmp_path, {})
    rows = read_csv(tmp_path / "tables" / "loss.csv")
    assert [*rows[0]][:4] == ["batch_size", "tokens_per_batch", "base_lr", "loss_median"]
    assert rows[0]["loss_median"] == "" and rows[6]["loss_median"] == "inf"
    assert {row["batch_size"]: row["tokens_per_batch"] for row in rows} == {
        "1": "32", "2": "64", "4": "128"}  # fmt: skip
    runs = read_csv(tmp_path / "tables" / "runs.csv")
    assert "validation_score" in runs[0] and len(runs) == values.size
    sizes = read_csv(tmp_path / "tables" / "batch_sizes.csv")
    assert [*sizes[0]][:3] == ["batch_size", "tokens_per_batch", "best_loss"]


@pytest.mark.parametrize("part", ["all diverged", "nothing finished", "one run", "words"])
def test_a_page_of_every_state(tmp_path, part):
    values, axes = valley(sizes=3)
    if part == "all diverged":
        values[:] = INF
    if part == "nothing finished":
        values[:] = NAN
    if part == "one run":
        values, axes = values[0, 2], {}
    if part == "words":
        values, axes = values[:, 0], {"case": ["a", "b", "c"]}
    report.write_report(losses(values, axes), tmp_path, {"status": "done"})
    assert "accura" not in read_page(tmp_path / "report.html")


def test_grids_of_different_scores_are_not_compared(tmp_path):
    values, axes = valley()
    other = losses(values, axes, score=Score("loss", False, INF, units="bits", percent=False))
    with pytest.raises(UserError, match="ranked by loss in bits, and a by loss in nats per token"):
        report.write_comparison({"a": losses(values, axes), "b": other}, tmp_path, {})
    report.write_comparison({"a": losses(values, axes), "b": losses(*valley(key=1))}, tmp_path, {})
    assert "accura" not in read_page(tmp_path / "report.html")
    assert (tmp_path / "figures" / "best_loss.png").exists()


@pytest.mark.parametrize(
    "attrs, words",
    [
        ({"score": "../loss"}, "cannot be named"),
        ({"score": "bits"}, "has no variable 'bits'"),
        ({"score_diverged": "much"}, "attributes of its score"),
        ({"tokens_per_example": -1}, "tokens_per_example"),
    ],
)
def test_a_score_that_sbt_did_not_write_is_refused(attrs, words):
    ds = losses(*valley(sizes=2))
    ds.attrs |= attrs
    with pytest.raises(UserError, match=words):
        checked(ds)


def test_longer_training_of_a_loss():
    values, axes = valley(rates=3)
    longer = values - 0.1 * np.arange(1, 6)[:, None, None] ** 2
    found = report.longer_training(View(losses(values, axes)), View(losses(longer, axes)))
    assert "gain in nats per token by batch size: 1: +0.1, 2: +0.4" in found.numbers


def test_scores_in_words():
    assert wording.in_units("test loss", LOSS) == "test loss [nats per token]"
    assert wording.in_units("test accuracy", Score()) == "test accuracy [%]"
    assert LOSS.text(1.5) == "1.500 nats per token" and LOSS.text(INF) == "diverged"
    assert LOSS.number(1234.0) == "1234" and LOSS.number(-INF) == "−∞"
    assert LOSS.margin(0.05) == "0.05 nats per token" and Score().margin(0.05) == "5 points"


# --- a sweep of one's own loss -------------------------------------------------------------------


class Line(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)[:, 0]


def test_a_sweep_of_a_regression_through_the_commands(tmp_path, capsys):
    """Runs that diverge among them; a margin that no accuracy could have."""
    x = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
    first, last = ({"x": part, "target": part.sum(1)} for part in (x[:32], x[32:]))
    config = {
        "epochs": 2,
        "task": {"name": "regression"},
        "sweep": {"batch_size": (1, 2, 4), "base_lr": (1e-3, 0.02, 1e3), "seed": (0, 1)},
        "report": {"margin": 2.0},
    }
    shown = Console(file=io.StringIO(), width=160)
    data = sbt.from_examples(first, last)
    ds = sbt.run(config, tmp_path, module=Line(), dataset=data, progress=progress.Lines(shown, 0.0))
    assert (ds["loss"].sel(base_lr=1e3) == INF).all() and (
        ds["test_r2"].sel(base_lr=0.02) > 0
    ).all()
    best = float(ds["loss"].median("seed").min())
    assert f"best {of_attrs(ds.attrs).text(best)} at" in shown.file.getvalue()
    assert main(["report", str(tmp_path)]) == 0
    assert "loss.csv" in capsys.readouterr().out
    text = read_page(tmp_path / "report.html")
    assert f"Best cell: {best:#.4g}" in text and "Mean squared error per cell" in text
    assert "accura" not in text and "chance" not in text


def test_scores_that_nothing_can_tell_apart_are_refused():
    x = np.ones((32, 3), np.float32)
    data = sbt.from_examples({"x": x, "target": x[:, 0]}, {"x": x, "target": x[:, 0]})

    def error(outputs, examples):
        return (outputs - examples["target"]) ** 2

    parts = {"module": Line(), "dataset": data, "loss": error, "metrics": {"finished": error}}
    with pytest.raises(UserError, match="'finished' ranks the runs") as caught:
        sbt.run({"task": {"score": "finished", "direction": "lower"}}, **parts)
    assert caught.value.field == "metrics"
