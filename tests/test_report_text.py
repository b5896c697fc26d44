"""Reports of sweeps with any text in them, in any state, and of files that sbt did not write."""

import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import NAN, Page, grid, results, surface

from sbt import report
from sbt.errors import UserError
from sbt.report import View, markup, style, wording
from sbt.report.view import checked

HOSTILE = (
    "$x_1^{",
    "a$b$c \\$",
    "\\frac{1}{2}$$",
    "100%_of & <script>alert(1)</script>",
    "\"quoted' [bold]x[/bold] </style></figure>",
    "two\nlines\r\x00\x1b[31m",
    "שלום \u202e",
    "日本語 👩‍🔬",
    "_hidden",
    "w" * 400,
    "",
    "{{}} %s %(x)s \ufffe",
)


def read(directory):
    """The text of a page whose tags are all closed, whose elements are ours, and its source."""
    source = (directory / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    # The script and its data, and none that a name has brought along.
    assert re.findall(r"<script.*?>", source) == [
        '<script type="application/json" id="data">',
        "<script>",
    ]
    assert not re.search(r"<bold|</style></figure>", source)
    for file in (directory / "figures").glob("*.svg"):
        xml.etree.ElementTree.parse(file)
    return " ".join(" ".join(page.text).replace("\u00a0", " ").split())


def test_names_cases_and_settings_of_any_text(tmp_path):
    config = {
        "name": HOSTILE[3],
        "report": {"last_epochs": 5},
        "model": {"name": HOSTILE[0]},
        "data": {"name": HOSTILE[4]},
    }
    ds = results(np.full((12, 2), 0.5), {"case": list(HOSTILE)}, config=config)
    ds["accuracy"].values[0] = 0.9
    ds.attrs["name"] = " ".join(HOSTILE)
    ds["accuracy"].attrs["long_name"] = HOSTILE[3]
    report.write_report(ds, tmp_path, {"status": HOSTILE[3], HOSTILE[4]: HOSTILE})
    text = read(tmp_path)
    assert "<script>alert(1)</script>" in text  # as text, not as a tag
    assert "Best cell: 90.0 % at case $x_1^{" in text


def test_cases_as_curves_and_slices_of_any_text(tmp_path):
    axes = {"case": list(HOSTILE[:3]), "batch_size": [2, 4], "base_lr": [0.125, 0.25]}
    ds = results(np.linspace(0.2, 0.9, 12).reshape(3, 2, 2), axes)
    first, *_ = drawings = report.default_figures(View(ds))
    assert all(drawing.render("svg") for drawing in drawings)
    panel = first.figure.axes[0]
    shown = [entry.get_text() for entry in panel.get_legend().get_texts()]
    assert shown == [r"\$x_1^{", r"a\$b\$c \\$", r"\frac{1}{2}\$\$"]


def test_names_along_the_abscissa_and_in_the_legend():
    ds = results(np.full((2, 3), 0.5), {"batch_size": [2, 4], "case": ["_a", "b", "$"]})
    (panel,) = report.score_vs(View(ds), "batch_size", "case").figure.axes
    assert [t.get_text() for t in panel.get_legend().get_texts()] == [" _a", "b", r"\$"]


@settings(max_examples=8, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_in_figure_and_page(title, name):
    figure, (panel,) = style.new_figure(style.SINGLE)
    panel.plot([0, 1], label=wording.literal(name))
    panel.set_title(wording.literal(title))
    style.legend(panel, wording.literal(name))
    drawing = style.Drawing("any", figure, f"{title} {name}")
    xml.etree.ElementTree.fromstring(drawing.render("svg"))
    page = markup.page(title, markup.join([title, markup.tag("p", name, id=title)]))
    page.encode()
    inner = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    assert set(re.findall(r"<(\w+)", inner)) <= {"html", "head", "meta", "title", "body", "p"}


def test_html_comes_from_tags_alone():
    assert markup.tag("p", "<b>", markup.tag("b", "&")) == "<p>&lt;b&gt;<b>&amp;</b></p>"
    unsafe = f"{markup.tag('b', 'x')} <i>"  # a formatted string is text again
    assert markup.join([unsafe]) == "&lt;b&gt;x&lt;/b&gt; &lt;i&gt;"
    assert markup.tag("img", alt='"><script>') == '<img alt="&quot;&gt;&lt;script&gt;">'


# --- sweeps in any state -------------------------------------------------------------------------


def test_a_running_sweep_shows_its_curves_and_what_is_missing(tmp_path):
    ds = results(np.full((3, 2, 1), NAN), {"batch_size": [2, 4, 8], "base_lr": [0.1, 0.2]})
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        ds[name].values[0, :, 0, :2] = 0.5
    ds["accuracy"].values[1, 0] = 0.7
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        ds[name].values[1, 0] = 0.7
    report.write_report(ds, tmp_path, {"status": "running"})
    text = read(tmp_path)
    assert "Partial results: running." in text
    assert "1 of 6 runs have results" in text
    assert "Not finished: 2 in training (up to epoch 2 of 4), 3 not begun." in text
    assert "By batch size: 2 of 2 at 2, 1 of 2 at 4, 2 of 2 at 8." in text
    assert (tmp_path / "figures" / "learning_curves.png").exists()


def test_before_any_run_has_finished_the_best_is_one_so_far(tmp_path):
    ds = results(np.full((2,), NAN), {"batch_size": [2, 4]})
    ds["test_accuracy"].values[:, 0, 0] = [0.25, 0.5]
    report.write_report(ds, tmp_path, {"status": "running"})
    assert "Best cell so far, by its latest evaluations: 50.0 % at batch size 4." in read(tmp_path)


STATES = {
    "all diverged": surface(2, 3).assign(diverged=lambda d: d["diverged"] | True),
    "one epoch": results(np.full((2, 2, 3), 0.5), {"batch_size": [2, 4], "base_lr": [0.1, 0.2]},
                         epochs=1),
    "no seeds": grid([[0.5, 0.6], [0.7, 0.8]]).squeeze("seed", drop=True),
    "one run": results(0.5, {}).squeeze("seed", drop=True),
    "six axes": results(
        np.linspace(0.1, 0.9, 64).reshape((2,) * 6),
        {"batch_size": [2, 4], "base_lr": [0.1, 0.2], "momentum": [0.0, 0.9],
         "weight_decay": [0.0, 1e-4], "case": ["a", "b"], "bn_batch": [2, 4]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_a_report_of_every_state(tmp_path, state):
    if state == "six axes":
        drawings = report.default_figures(View(STATES[state]))
        assert drawings and drawings[0].render("png")
        return
    report.write_report(STATES[state], tmp_path, {"status": "done"})
    read(tmp_path)


# --- files that sbt did not write ----------------------------------------------------------------


def changed(**variables):
    return grid([[0.5, 0.6], [0.7, 0.8]]).assign(variables)


def with_attrs(**attrs):
    ds = grid([[0.5, 0.6], [0.7, 0.8]])
    ds.attrs.update(attrs)
    return ds


def setting(section, **fields):
    return with_attrs(config=json.dumps({section: fields}))


FOREIGN = {
    "no accuracy": (changed().drop_vars("accuracy"), "accuracy"),
    "words for accuracy": (changed(accuracy=changed()["accuracy"].astype(str)), "accuracy"),
    "percent": (changed(accuracy=100 * changed()["accuracy"]), "accuracy"),
    "curves of other axes": (changed(test_loss=("epoch", np.zeros(4))), "test_loss"),
    "no values of an axis": (changed().drop_vars("base_lr"), "base_lr"),
    "words for numbers": (changed().assign_coords(base_lr=["a", "b"]), "base_lr"),
    "twice": (changed().assign_coords(batch_size=[2, 2]), "batch_size"),
    "not finite": (changed().assign_coords(batch_size=[2.0, NAN]), "batch_size"),
    "no config": (with_attrs(config="<b>"), "config"),
    "a list": (with_attrs(config="[1]"), "config"),
    "chance": (with_attrs(chance="much"), "chance"),
    "chance of 3": (with_attrs(chance=3.0), "chance"),
    "test examples": (with_attrs(test_examples=np.array([1, 2])), "test_examples"),
    "margin": (setting("report", margin="<script>"), "config.report.margin"),
    "last epochs": (setting("report", last_epochs="<script>"), "config.report.last_epochs"),
    "curves": (setting("report", curves_base_lr=[1]), "config.report.curves_base_lr"),
    "test size": (setting("data", test_size="all"), "config.data.test_size"),
    "protocol": (setting("report", protocol=[["epochs", "all"]]), "config.report.protocol"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_results_are_refused_in_words(tmp_path, kind):
    ds, field = FOREIGN[kind]
    with pytest.raises(UserError) as error:
        report.write_report(ds, tmp_path, {})
    assert field in str(error.value)
    assert error.value.remedy
    assert not list(tmp_path.iterdir())


def test_names_of_measured_variables_stay_in_their_directory(tmp_path):
    ds = grid([[0.5, 0.6], [0.7, 0.8]])
    values = ds["accuracy"].expand_dims(measured_epoch=[1, 2])
    ds["../../$x^<b>"] = values.assign_attrs(measurement="x", long_name="$_{", units="%^")
    ds["odd"] = xr.zeros_like(values).astype(str).assign_attrs(measurement="x")
    ds["bare"] = xr.DataArray(1.0, attrs={"measurement": "x"})
    written = report.write_report(ds, tmp_path, {"seconds": float("inf")})
    assert all(tmp_path in path.resolve().parents for path in written)
    read(tmp_path)


def test_what_runs_write_is_accepted():
    for ds in (surface(), STATES["one run"], STATES["no seeds"]):
        assert checked(ds).results is ds
