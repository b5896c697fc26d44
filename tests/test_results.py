"""Results: what is recorded, the reported accuracy, and files that are whole at every moment."""

import errno
import os

import numpy as np
import pytest
import xarray as xr

from sbt import results
from sbt.errors import UserError
from sbt.results import Recorder, best_cell, last_median
from sbt.tasks import Score

NAN, INF = np.nan, np.inf
AXES = {"batch_size": (2, 4, 8), "base_lr": (0.5, 0.25), "case": ("a", "b")}


ACCURACY = Score(diverged=0.1, guess=0.1)
LOSS = Score(
    "loss", higher_is_better=False, diverged=INF, guess=np.log(50), units="nats", percent=False,
    long_name="loss",
)  # fmt: skip


def curves_of(*splits, metrics=("loss", "accuracy")):
    return {
        f"{split}_{name}": {"units": "nats" * (name == "loss"), "long_name": f"{split} {name}"}
        for split in splits
        for name in metrics
    }


def recorder(axes=AXES, epochs=4, last_epochs=2, score=ACCURACY, splits=("train", "test")):
    curves = curves_of(*splits)
    return Recorder(axes, epochs, score, curves, last_epochs, attrs={"name": "n"})


def measured(accuracy, loss=1.5):
    return {"train_loss": loss, "train_accuracy": accuracy / 2, "test_loss": 2 * loss,
            "test_accuracy": accuracy}  # fmt: skip


def filled():
    """One finished run, one under way, one diverged, the others absent."""
    book = recorder()
    for epoch, accuracy in enumerate((0.2, 0.9, 0.4, 0.7)):
        book.record((1, 0, 1), epoch, measured(accuracy), last=epoch == 3)
    book.record((0, 0, 0), 0, measured(0.3))
    book.record((2, 1, 0), 0, measured(0.3))
    for epoch in (1, 2, 3):
        book.record((2, 1, 0), epoch, measured(NAN, NAN), diverged=1.25, last=epoch == 3)
    return book


def test_dimensions_are_the_axes_in_order_and_the_epoch():
    dataset = filled().dataset()
    assert dataset["test_loss"].dims == ("batch_size", "base_lr", "case", "epoch")
    assert dataset["accuracy"].dims == ("batch_size", "base_lr", "case")
    assert dataset["epoch"].values.tolist() == [1, 2, 3, 4]
    assert dataset["batch_size"].values.tolist() == [2, 4, 8]
    assert dataset["base_lr"].values.tolist() == [0.5, 0.25]
    assert dataset["case"].values.tolist() == ["a", "b"]
    assert dataset.attrs == {"name": "n", "last_epochs": 2, **ACCURACY.attrs}
    assert dataset.attrs["chance"] == 0.1


def test_a_run_is_found_by_its_labels():
    run = filled().dataset().sel(batch_size=4, base_lr=0.5, case="b")
    np.testing.assert_array_equal(run["test_accuracy"], [0.2, 0.9, 0.4, 0.7])
    np.testing.assert_array_equal(run["train_accuracy"], [0.1, 0.45, 0.2, 0.35])
    np.testing.assert_array_equal(run["train_loss"], [1.5] * 4)
    np.testing.assert_array_equal(run["test_loss"], [3.0] * 4)
    assert run["accuracy"] == pytest.approx((0.4 + 0.7) / 2)  # median of the last two
    assert bool(run["finished"]) and not bool(run["diverged"])
    assert int(run["epochs_done"]) == 4


def test_unfinished_and_absent_cells_are_nan():
    dataset = filled().dataset()
    run = dataset.sel(batch_size=2, base_lr=0.5, case="a")
    np.testing.assert_array_equal(run["test_accuracy"], [0.3, NAN, NAN, NAN])
    assert np.isnan(run["accuracy"])
    assert (int(run["epochs_done"]), bool(run["finished"])) == (1, False)
    assert int(np.isnan(dataset["accuracy"]).sum()) == 12 - 2


def test_a_diverged_run_has_the_accuracy_of_a_guess_and_keeps_its_history():
    run = filled().dataset().sel(batch_size=8, base_lr=0.25, case="a")
    np.testing.assert_array_equal(run["test_accuracy"], [0.3, 0.1, 0.1, 0.1])
    np.testing.assert_array_equal(run["train_accuracy"], [0.15, 0.1, 0.1, 0.1])
    np.testing.assert_array_equal(run["train_loss"], [1.5, INF, INF, INF])
    np.testing.assert_array_equal(run["test_loss"], [3.0, INF, INF, INF])
    assert float(run["accuracy"]) == 0.1
    assert bool(run["diverged"])
    assert float(run["diverged_epoch"]) == 1.25


def test_chance_may_differ_between_runs():
    book = recorder({"dataset": ("a", "b")}, epochs=1)
    book.record((0,), 0, measured(NAN), diverged=0.5, last=True)
    book.record((1,), 0, measured(NAN), diverged=0.5, last=True, diverged_score=0.01)
    assert book.dataset()["accuracy"].values.tolist() == [0.1, 0.01]


def test_epochs_without_an_evaluation():
    """The reported accuracy is over the evaluations in the last epochs, and says which."""
    book = recorder({"seed": (0,)}, epochs=6, last_epochs=4)
    for epoch in range(6):
        values = measured(epoch / 10)
        if epoch % 3 != 2:
            del values["test_loss"], values["test_accuracy"]
        book.record((0,), epoch, values, last=epoch == 5)
    dataset = book.dataset()
    np.testing.assert_array_equal(dataset["test_accuracy"][0], [NAN, NAN, 0.2, NAN, NAN, 0.5])
    assert not np.isnan(dataset["train_accuracy"]).any()
    assert float(dataset["accuracy"][0]) == pytest.approx(0.35)
    assert dataset["accuracy"].attrs["long_name"] == (
        "test accuracy, median over the evaluations in the last 4 epochs of a run: "
        "after epochs 3 and 6"
    )


def test_the_reported_accuracy_does_not_reach_back_before_the_last_epochs():
    """Eight epochs of which every second is evaluated: the last two hold one evaluation."""
    book = recorder({"seed": (0, 1)}, epochs=8, last_epochs=2)
    for epoch in range(8):
        values = measured(0.2 if epoch < 6 else 0.9)  # the learning rate drops after six
        if epoch % 2 == 0:
            del values["test_loss"], values["test_accuracy"]
        book.record((0,), epoch, values, last=epoch == 7)
        if epoch < 6:  # under way
            book.record((1,), epoch, values)
    accuracy = book.dataset()["accuracy"]
    np.testing.assert_array_equal(accuracy, [0.9, NAN])
    assert accuracy.attrs["long_name"].endswith("in the last 2 epochs of a run: after epoch 8")


def test_median_over_the_last_epochs():
    curves = np.array([[1.0, 5, 2, 4, 3], [NAN, 1, NAN, 3, NAN], [NAN] * 5])
    ends = np.array([5, 4, 5])
    np.testing.assert_array_equal(last_median(curves, ends, 3), [3, 2, NAN])
    np.testing.assert_array_equal(last_median(curves, ends, 1), [3, 3, NAN])
    np.testing.assert_array_equal(last_median(curves, ends, 99), [3, 2, NAN])
    np.testing.assert_array_equal(last_median(curves, np.array([3, 3, 0]), 2), [3.5, 1, NAN])
    assert last_median(curves.reshape(3, 1, 5), ends[:, None], 2).shape == (3, 1)


def test_runs_of_different_lengths_each_end_where_they_end():
    """A case of two epochs beside one of four: no epoch is named, each has its own last ones."""
    book = recorder({"case": ("short", "long")}, epochs=4, last_epochs=1)
    for case, epochs in ((0, 2), (1, 4)):
        for epoch in range(epochs):
            book.record((case,), epoch, measured((epoch + 1) / 10), last=epoch == epochs - 1)
    accuracy = book.dataset()["accuracy"]
    np.testing.assert_array_equal(accuracy, [0.2, 0.4])
    words = "test accuracy, median over the evaluations in the last epoch of a run"
    assert accuracy.attrs["long_name"] == words


def test_a_single_run_has_no_axes():
    book = recorder({}, epochs=1)
    book.record((), 0, measured(0.5), last=True)
    dataset = book.dataset()
    assert dataset["accuracy"].dims == ()
    assert float(dataset["accuracy"]) == 0.5


def test_values_of_any_kind_become_coordinates(tmp_path):
    axes = {"mixed": (1, 0.5), "flag": (True, False), "option": (None, 4), "shape": ((3,), (4, 5))}
    results.write(recorder(axes).dataset(), tmp_path)
    dataset = results.load(tmp_path)
    assert dataset["mixed"].values.tolist() == [1.0, 0.5]
    assert dataset["flag"].values.tolist() == ["True", "False"]
    assert dataset["option"].values.tolist() == ["None", "4"]
    assert dataset["shape"].values.tolist() == ["(3,)", "(4, 5)"]


# --- a loss as the score, and a validation split --------------------------------------------------


def told(book, index, values, **extra):
    """A run in which after epoch i every loss is ``values[i]``, on the validation split less 1."""
    for epoch, value in enumerate(values):
        found = {"train_loss": 2 * value, "test_loss": value, "validation_loss": value - 1}
        accuracies = dict.fromkeys(("train_accuracy", "test_accuracy", "validation_accuracy"), 0.5)
        last = epoch == len(values) - 1
        given = {name: v for name, v in (found | accuracies).items() if name in book.curves}
        book.record(index, epoch, given, last=last, **extra)


def test_the_reported_variable_bears_the_name_and_the_units_of_the_score():
    book = recorder({"seed": (0, 1)}, score=LOSS)
    told(book, (0,), (5.0, 4.0, 3.0, 2.0))
    told(book, (1,), (5.0, 4.0, NAN, NAN), diverged=2.5)
    dataset = book.dataset()
    assert "accuracy" not in dataset and "validation_score" not in dataset
    np.testing.assert_array_equal(dataset["loss"], [2.5, INF])
    words = "test loss, median over the evaluations in the last 2 epochs of a run: after epochs 3"
    assert dataset["loss"].attrs == {"units": "nats", "long_name": f"{words} and 4"}
    assert "chance" not in dataset.attrs
    assert results.of_attrs(dataset.attrs) == LOSS


def test_a_diverged_run_has_an_infinite_loss_and_no_other_metric():
    """An accuracy that ranks nothing has no value of its own for a guess."""
    book = recorder({}, score=LOSS, splits=("train", "test", "validation"))
    told(book, (), (5.0, 4.0))
    told(book, (), (5.0, 4.0, 0.1, 0.1), diverged=2.5)  # whatever the frozen weights give
    dataset = book.dataset()
    for split in ("train", "test", "validation"):
        np.testing.assert_array_equal(dataset[f"{split}_loss"], [INF] * 4)
        assert dataset[f"{split}_accuracy"].isnull().all()
    assert float(dataset["loss"]) == float(dataset["validation_score"]) == INF


def test_validation_chooses_and_test_is_told():
    book = recorder({"batch_size": (2, 4), "seed": (0,)}, splits=("train", "test", "validation"),
                    score=LOSS, epochs=1, last_epochs=1)  # fmt: skip
    for place, (test, validation) in enumerate(((1.0, 2.0), (1.5, 1.25))):
        values = {"train_loss": 0.5, "test_loss": test, "validation_loss": validation}
        book.record((place, 0), 0, values)
        if not place:
            assert best_cell(book.dataset()) == (1.0, {"batch_size": 2}, True)
    assert best_cell(book.dataset()) == (1.5, {"batch_size": 4}, True)  # none has finished
    for place in range(2):
        book.record((place, 0), 0, {}, last=True)
    dataset = book.dataset()
    np.testing.assert_array_equal(dataset["validation_score"].isel(seed=0), [2.0, 1.25])
    assert dataset["validation_score"].attrs["long_name"].startswith("validation loss, median")
    assert best_cell(dataset) == (1.5, {"batch_size": 4}, False)
    assert best_cell(dataset.drop_vars("validation_score")) == (1.0, {"batch_size": 2}, False)


def scored(losses):
    """Finished runs over batch sizes and seeds with these losses."""
    losses = np.asarray(losses, float)
    axes = {"batch_size": (8, 4, 2)[: len(losses)], "seed": range(losses.shape[1])}
    book = recorder(axes, epochs=1, last_epochs=1, score=LOSS)
    for index in np.ndindex(losses.shape):
        value = losses[index]
        if not np.isnan(value):
            diverged = 0.5 if np.isinf(value) else NAN
            book.record(index, 0, {"test_loss": value}, diverged=diverged, last=True)
    return book.dataset()


def test_the_smallest_median_loss_is_best_and_an_infinite_one_still_a_value():
    assert best_cell(scored([[1.0, 9.0, 9.0], [2.0, 2.0, INF]])) == (2.0, {"batch_size": 4}, False)
    assert best_cell(scored([[INF, INF, 1.0], [5.0, 5.0, 5.0]])).value == 5.0
    assert best_cell(scored([[3.0], [3.0]])).where == {"batch_size": 4}  # of equal ones the first
    # Everything that has finished diverged: those cells alone have a score, which is infinite.
    assert best_cell(scored([[INF, INF], [INF, INF]])) == (INF, {"batch_size": 4}, False)
    assert best_cell(scored([[NAN], [INF], [NAN]])) == (INF, {"batch_size": 4}, True)
    assert best_cell(scored([[NAN], [NAN]])) is None


def test_results_with_a_loss_as_the_score_go_through_a_file(tmp_path):
    splits = ("train", "test", "validation")
    book = recorder({"seed": (0, 1)}, score=LOSS, splits=splits)
    told(book, (0,), (5.0, 4.0, 3.0, 2.0))
    told(book, (1,), (5.0, 4.0, NAN, NAN), diverged=2.5)
    results.write(book.dataset(), tmp_path)
    loaded = results.load(tmp_path)
    xr.testing.assert_identical(loaded, book.dataset())
    again = recorder({"seed": (0, 1)}, score=LOSS, splits=splits)
    again.restore(loaded)
    xr.testing.assert_identical(again.dataset(), book.dataset())


def test_a_file_from_before_there_were_scores_ranks_by_accuracy():
    dataset = filled().dataset()
    dataset.attrs = {"name": "n", "chance": 0.1, "last_epochs": 2}
    assert results.of_attrs(dataset.attrs) == ACCURACY
    assert best_cell(dataset) == best_cell(filled().dataset())
    again = recorder()
    again.restore(dataset)
    xr.testing.assert_identical(again.dataset(), filled().dataset())


# --- files ---------------------------------------------------------------------------------------


def test_a_file_reads_back_as_it_was(tmp_path):
    dataset = filled().dataset()
    path = results.write(dataset, tmp_path)
    for place in (tmp_path, str(tmp_path), path):
        loaded = results.load(place)
        xr.testing.assert_identical(loaded, dataset)
        assert {name: loaded[name].dtype for name in loaded} == {
            name: dataset[name].dtype for name in dataset
        }
    assert os.listdir(tmp_path) == [results.FILE]


def test_a_recorder_goes_on_where_another_stopped(tmp_path):
    results.write(filled().dataset(), tmp_path)
    again = recorder()
    again.restore(results.load(tmp_path))
    xr.testing.assert_identical(again.dataset(), filled().dataset())
    values = measured(0.9)
    again.record((0, 0, 0), 1, values)
    other = filled()
    other.record((0, 0, 0), 1, values)
    xr.testing.assert_identical(again.dataset(), other.dataset())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    results.write(filled().dataset(), tmp_path)
    before = (tmp_path / results.FILE).read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        results.write(recorder().dataset(), tmp_path)
    assert (tmp_path / results.FILE).read_bytes() == before
    assert os.listdir(tmp_path) == [results.FILE]


def test_the_file_is_readable_by_whoever_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        path = results.write(recorder().dataset(), tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no results") as caught:
        results.load(tmp_path)
    assert caught.value.field == str(tmp_path)
    with pytest.raises(UserError, match="holds no results"):
        results.load(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 10, 2000, -100])
def test_a_damaged_file_is_one_clear_message(tmp_path, keep):
    path = results.write(filled().dataset(), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="cannot be read") as caught:
        results.load(tmp_path)
    assert caught.value.field == str(path)
    assert caught.value.remedy
