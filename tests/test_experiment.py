"""Experiment files: what they return, and whose fault it is if they do not."""

import os

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

import sbt
from sbt import cli
from sbt.cli import main
from sbt.errors import UserCodeError, UserError
from sbt.experiment import PARTS, load_config, load_experiment

HEAD = "import sbt\n"


def write(tmp_path, body, name="mine.py"):
    file = tmp_path / name
    file.write_text(body)
    return str(file)


@pytest.mark.parametrize(
    ("returns", "shows"),
    [
        ("None", "nothing (None)"),
        ("'sgd'", "'sgd'"),
        ("3", "3"),
        ("dict", "dict"),
        ("[1]", "[1]"),
        ("sbt.default_config", "function"),
    ],
)
def test_what_is_returned_is_a_config(tmp_path, returns, shows):
    file = write(tmp_path, f"{HEAD}def get_config():\n    return {returns}\n")
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert caught.value.field == f"get_config() of {file}"
    assert shows in caught.value.problem
    assert "return" in caught.value.remedy


@pytest.mark.parametrize("kind", [dict, ConfigDict, FrozenConfigDict])
def test_mappings_of_any_kind_will_do(tmp_path, kind):
    made = f"{kind.__name__}({{'epochs': 3}})"
    body = f"from ml_collections import *\ndef get_config():\n    return {made}\n"
    assert load_config(write(tmp_path, body)).epochs == 3


def test_variants(tmp_path):
    body = f"{HEAD}def get_config(variant='no'):\n    return {{'case': variant}}\n"
    file = write(tmp_path, body)
    assert load_config(file).case == "no"
    assert load_config(f"{file}:a:b").case == "a:b"
    with pytest.raises(UserError, match="names no variant"):
        load_config(f"{file}:")
    alone = write(tmp_path, f"{HEAD}def get_config():\n    return {{}}\n")
    with pytest.raises(UserError, match="takes no variant, got 'small'"):
        load_config(f"{alone}:small")


@pytest.mark.parametrize(
    ("body", "problem", "line"),
    [
        ("def get_config():\n    return 1 / 0\n", "raised ZeroDivisionError: division by zero", 2),
        ("import no_such_package\n", "raised ModuleNotFoundError: No module named", 1),
        ("x = 1\n\nraise ValueError\n", "raised ValueError", 3),
        ("def get_config(:\n", "raised SyntaxError: invalid syntax", 1),
        ("import sys\nsys.exit(3)\n", "raised SystemExit: 3", 2),
        ("def get_config(): return get_config()\n", "raised RecursionError", 1),
        (
            "import sbt\ndef get_config():\n    sbt.default_config().epoch\n",
            "raised AttributeError",
            3,
        ),
    ],
)
def test_errors_of_the_file_keep_their_traceback(tmp_path, capsys, body, problem, line):
    file = write(tmp_path, body)
    with pytest.raises(UserCodeError) as caught:
        load_config(file)
    assert file in caught.value.field
    assert problem in caught.value.problem
    assert caught.value.remedy == f"see line {line} of {file}"
    assert caught.value.__cause__ is not None
    assert cli.main(["run", file]) == cli.EXIT_ERROR
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and problem in first
    assert any("mine.py" in text for text in rest)
    assert not any("importlib" in text or "sbt/errors.py" in text for text in rest)


def test_misspelt_fields_name_the_nearest(tmp_path):
    body = f"{HEAD}def get_config():\n    c = sbt.default_config()\n    c.FIELD = 3\n    return c\n"
    for field, near in (("batchsize", "batch_size"), ("engine.lane", "lanes")):
        with pytest.raises(UserError) as caught:
            load_config(write(tmp_path, body.replace("FIELD", field)))
        assert caught.value.field == f"config.{field}" and near in caught.value.remedy


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_config(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="is a directory"):
        load_config(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        load_config("")
    with pytest.raises(UserError, match="no function get_config"):
        load_config(write(tmp_path, "x = 1\n"))
    with pytest.raises(UserError, match="no function get_config"):
        load_config(write(tmp_path, "get_config = 3\n"))
    for data in (b"\xff\xfe\x00", b"# \xe9\n", b"\0", b"x = 1\0\n"):
        (tmp_path / "bytes.py").write_bytes(data)
        with pytest.raises(UserError, match=r"bytes\.py"):
            load_config(str(tmp_path / "bytes.py"))
    text = write(tmp_path, f"{HEAD}def get_config():\n    return {{'epochs': 4}}\n", "mine.txt")
    assert load_config(text).epochs == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    file = write(tmp_path, "x = 1\n")
    os.chmod(file, 0)
    with pytest.raises(UserError, match="PermissionError"):
        load_config(file)


OWN = """
import flax.linen as nn
import numpy as np
import optax
import sbt


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def module():
    return Net()


def dataset():
    labels = np.arange(24) % 3
    images = np.eye(3, dtype=np.float32)[labels]
    return sbt.from_arrays(images, labels, images, labels)


def rule(learning_rate, gain=1.0):
    return optax.sgd(gain * learning_rate)


def loss(logits, examples):
    return optax.softmax_cross_entropy_with_integer_labels(logits, examples["label"])


def metrics():
    return {"margin": lambda logits, examples: logits.max(-1) - logits.min(-1)}


def schedule(progress):
    return 1 - progress / 2


def get_config():
    config = sbt.default_config()
    config.data.normalize = "none"
    config.epochs = 2
    config.batch_size = 4
    config.rule = {"gain": 2.0}
    config.checkpoint.final_weights = True
    config.sweep.rule__gain = (0.0, 2.0)
    return config
"""


def test_a_file_brings_its_own_module_data_and_rule(tmp_path, capsys):
    """Through every command; the same file resumes, another one is told apart."""
    file, directory = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(OWN)
    assert load_experiment(str(file)).config.rule.gain == 2.0
    overridden = load_experiment(str(file), ["--config.rule.gain=3."])
    assert overridden.config.rule.gain == 3.0 and set(overridden.parts) == set(PARTS)
    assert main(["plan", str(file)]) == 0
    assert main(["run", str(file), "--workdir", str(directory)]) == 0
    results = sbt.load(directory)
    still, moved = results.test_loss.isel(epoch=-1).values
    assert moved < still
    assert main(["run", str(file), "--workdir", str(directory)]) == 0
    measure = ["measure", str(directory), "--config.measure=distance"]
    capsys.readouterr()
    assert main(measure) == 2
    assert "--experiment FILE" in capsys.readouterr().err
    assert main([*measure, "--experiment", str(file)]) == 0
    assert sbt.load(directory)["distance_from_start"].values.ravel()[0] == 0.0
    file.write_text(OWN.replace("np.eye(3", "2 * np.eye(3"))
    capsys.readouterr()
    assert main(["run", str(file), "--workdir", str(directory)]) == 2
    assert "was made with" in capsys.readouterr().err


def test_what_a_file_imports_is_not_its_own(tmp_path):
    (tmp_path / "shared.py").write_text("def rule(learning_rate): ...\n")
    file = tmp_path / "mine.py"
    file.write_text("import sbt\nfrom shared import rule\nget_config = sbt.default_config\n")
    assert load_experiment(str(file)).parts == {}


def test_an_exception_in_a_part_says_whose_code_it_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import sbt\nget_config = sbt.default_config\ndef dataset(): return {}[0]\n")
    with pytest.raises(UserCodeError, match=r"dataset\(\) of .*mine.py: raised KeyError"):
        load_experiment(str(file))
