"""Evidence and what is made of it, on folders of a few numbers each."""

import json

import numpy as np
import pytest
import xarray as xr

from sbt import evidence, results, workdir
from sbt.cli import main
from sbt.config import to_json
from sbt.report.statements import rises

COMMAND = "sbt run experiments/someone_2020/fig01.py:small"
CLAIMS = (rises("Accuracy rises with the batch size", "accuracy", along="batch_size"),)


def sweep(claims=CLAIMS, seeds=3, slope=0.1, step=0.01, **attrs):
    """Finished results of three batch sizes; the accuracy rises by ``slope`` each time."""
    at = 0.4 + slope * np.arange(3)[:, None] + step * np.arange(seeds)
    dims, epochs = ("batch_size", "seed"), 2
    report = {"figure": "Someone 2020, Fig. 1", "caption": "it rises", "claims": claims}
    curves = {name: ((*dims, "epoch"), np.repeat(at[..., None], epochs, -1)) for name in (
        "train_loss", "test_loss", "train_accuracy", "test_accuracy")}  # fmt: skip
    return xr.Dataset(
        {
            **curves,
            "accuracy": (dims, at),
            "diverged": (dims, at < 0),
            "diverged_epoch": (dims, at * np.nan),
            "epochs_done": (dims, np.full(at.shape, epochs)),
            "finished": (dims, at > 0),
        },
        {"batch_size": [2, 8, 32], "seed": range(seeds), "epoch": [1, 2]},
        {"name": "tiny", "config": to_json({"name": "tiny", "report": report}), **attrs},
    )


def finished(directory, dataset=None, **meta):
    """A work directory."""
    directory.mkdir(parents=True)
    results.write(sweep() if dataset is None else dataset, directory)
    meta = {"status": "done", "platform": "cpu", "cpu_count": 2, "cpu_model": "abacus"} | meta
    workdir.write_meta(directory, meta)
    return directory


def test_a_sweep_is_kept_with_its_figure_and_verdicts(tmp_path, capsys):
    work, folder = finished(tmp_path / "work", command=COMMAND), tmp_path / "kept"
    assert main(["keep", str(work), str(folder)]) == 0, capsys.readouterr().err
    found = evidence.Evidence(folder)
    assert found.commands == (COMMAND,)
    assert found.meta["hardware"] == "2 cores, abacus"
    assert found.seeds == 3
    assert [path.name for path in found.files("png")] == ["accuracy_vs_batch_size.png"]
    assert found.noted.startswith("Accuracy rises with the batch size: holds (3 seeds). ")
    assert set(capsys.readouterr().out.split()) == {str(path) for path in folder.iterdir()}


def test_what_is_kept_is_compressed_without_loss(tmp_path):
    dataset = sweep(seeds=1000, step=1e-4)
    work, folder = finished(tmp_path / "work", dataset, command=COMMAND), tmp_path / "kept"
    evidence.keep(work, folder)
    xr.testing.assert_identical(results.load(folder), dataset)
    sizes = [(at / results.FILE).stat().st_size for at in (folder, work)]
    assert sizes[0] < 0.7 * sizes[1], sizes


def test_what_the_figures_own_file_drew_and_found_is_kept_instead(tmp_path):
    ran = {"earlier_environments": [{"command": "sbt run a.py"}], "command": "sbt run a.py -x"}
    work = finished(tmp_path / "work", **ran)
    (work / "fig01.png").write_bytes(b"a picture")
    (work / "table.txt").write_text("1 2 3")
    (work / "verdicts.txt").write_text("It bends: holds. 3\n")
    path = xr.Dataset({"bend": (("seed", "alpha"), np.ones((3, 2)))}, {"alpha": [0.0, 1.0]})
    (work / "paths.nc").write_bytes(results.to_bytes(path))
    evidence.keep(work, tmp_path / "kept", ["python a.py"], hardware="a loom")
    found = evidence.Evidence(tmp_path / "kept")
    assert found.commands == ("sbt run a.py", "sbt run a.py -x", "python a.py")
    assert found.meta["hardware"] == "a loom"
    assert [path.name for path in found.files("png")] == ["fig01.png"]
    assert [path.name for path in found.files("txt")] == ["table.txt"]
    assert found.dataset["bend"].sizes == {"seed": 3, "alpha": 2}
    assert found.noted.splitlines()[0] == "It bends: holds. 3"
    assert "Accuracy rises" in found.noted.splitlines()[1]


@pytest.mark.parametrize(
    "meta, arguments, words",
    [
        ({"status": "interrupted", "command": COMMAND}, (), "not finished (status interrupted)"),
        ({}, (), "does not say how it was made"),
        ({"command": COMMAND}, ("--figures=acuracy_vs_batch_size",), "did you mean accuracy_vs"),
    ],
)  # fmt: skip
def test_what_is_no_evidence_is_refused(tmp_path, capsys, meta, arguments, words):
    work = finished(tmp_path / "work", **meta)
    assert main(["keep", str(work), str(tmp_path / "kept"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_broken_evidence_is_named(tmp_path):
    folder = tmp_path / "kept"
    with pytest.raises(evidence.UserError, match="kept: holds no meta"):
        evidence.Evidence(folder).commands  # noqa: B018
    evidence.keep(finished(tmp_path / "work"), folder, [COMMAND])
    (folder / "more.nc").write_bytes(b"nothing")
    with pytest.raises(evidence.UserError, match=r"more\.nc: cannot be read beside results\.nc"):
        evidence.Evidence(folder).dataset  # noqa: B018
    (folder / "meta.json").write_text("{")
    with pytest.raises(evidence.UserError, match=r"meta\.json: is damaged"):
        evidence.Evidence(folder).commands  # noqa: B018


def test_a_process_says_how_it_was_started(monkeypatch):
    for argv, expected in (
        (["/bin/sbt", "run", "a b.py"], "sbt run 'a b.py'"),
        (["experiments/x.py", "--small"], "python experiments/x.py --small"),
        (["/lib/site-packages/ipykernel_launcher.py"], None),
        ([""], None),
    ):
        monkeypatch.setattr("sys.argv", argv)
        assert workdir.describe_environment()["command"] == expected
    json.dumps(workdir.describe_environment())
