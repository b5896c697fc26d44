"""What a user adds is one function and no edit anywhere else."""

import sbt
from sbt import report
from sbt.cli import main
from sbt.report.claims import CLAIMS

EXPERIMENT = """
import sbt
from sbt.report import FAILS, HOLDS, Verdict, claim


@claim
def best_exceeds(view, accuracy):
    found = view.best.accuracy
    outcome = HOLDS if found > accuracy else FAILS
    return Verdict(f"The best cell exceeds {accuracy}", outcome, f"it reaches {found:.2f}")


def get_config():
    config = sbt.default_config()
    config.data = {"name": "synthetic", "train_size": 64, "test_size": 32, "image_shape": (2, 2, 1)}
    config.model = {"name": "mlp", "hidden": (4,)}
    config.epochs = 1
    config.sweep.batch_size = (4, 8)
    config.report.figure = "Ours, Fig. 1"
    config.report.claims = (best_exceeds(0.0), best_exceeds(accuracy=1.0))
    return config
"""


def test_a_claim(tmp_path, capsys):
    """It travels with the results by name; a session that does not know it says so in a line."""
    file, directory = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(EXPERIMENT)
    assert main(["run", str(file), "--workdir", str(directory)]) == 0
    try:
        yes, no = report.verdicts(report.View(sbt.load(directory)))
        assert (yes.verdict, yes.source) == (report.HOLDS, "Ours, Fig. 1")
        assert no.verdict == report.FAILS and no.claim == "The best cell exceeds 1.0"
        assert main(["report", str(directory)]) == 0
        assert "The best cell exceeds 0.0" in (directory / "report.html").read_text()
    finally:
        del CLAIMS["best_exceeds"]
    assert main(["report", str(directory)]) == 0
    page = (directory / "report.html").read_text()
    assert "Not judged: &#x27;best_exceeds&#x27;, a claim that is unknown here." in page
    assert main(["run", str(file), "--workdir", str(directory)]) == 0  # registers it again
    del CLAIMS["best_exceeds"]
    capsys.readouterr()
