"""Kills sweeps at random moments and compares them, bit by bit, with sweeps that nobody touched.

    python tests/torture.py [--kills=100] [--seed=0] [--sweeps=search,momentum]

Sweeps with momentum, batch norm, batch schedules, searches, measurements and more runs than lanes
are killed by SIGKILL (a few by SIGTERM, SIGHUP or SIGINT) while they start, compile, train,
evaluate, write results and checkpoints, or while ``sbt report`` writes; then the same command runs
again, until the sweep is finished. Results, measurements and weights must then be those of an
uninterrupted sweep. Prints a line for each sweep that finishes and a summary; exits with 1 if
anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sbt import results
from sbt.checkpoint import load_weights

DATA = {"name": "synthetic", "train_size": 190, "test_size": 40, "num_classes": 4,
        "image_shape": (4, 4, 1), "noise": 0.5, "normalize": "unit"}  # fmt: skip
COMMON = {
    "data": DATA,
    "epochs": 6,
    "rule": {"name": "sgd", "momentum": 0.9},
    "checkpoint": {"minutes": 0.02, "final_weights": True},
    "engine": {"strategy": "vmap", "lanes": 6},
    "measure": {"names": ("strides", "distance")},
}
RATES = (2.0**-9, 2.0**-8, 2.0**-7, 1e30)  # the last one diverges, and gives up its lane
SWEEPS = {
    "momentum": {
        "model": {"name": "mlp", "hidden": (16,)},
        "sweep": {"batch_size": (4, 8), "base_lr": RATES, "seed": (0, 1)},
    },
    "batch norm": {
        "model": {"name": "convnet", "channels": (3, 4), "norm": "batch"},
        "bn_batch": 4,
        "sweep": {"batch_size": (4, 8), "base_lr": RATES, "seed": (0,)},
    },
    "batch schedule": {
        "model": {"name": "mlp", "hidden": (8,)},
        "batch_schedule": {"name": "small_first", "ratio": 0.5},
        "sweep": {"batch_size": (8, 16), "base_lr": RATES, "seed": (0,)},
    },
    "search": {
        "model": {"name": "mlp", "hidden": (16,)},
        "search": {"name": "halving"},
        "sweep": {"batch_size": (4, 8), "base_lr": (*RATES, 2.0**-11, 2.0**-6), "seed": (0, 1)},
    },
}

CHILD = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import sbt
from sbt.sweep import records, loop
loop.WINDOW_SECONDS = 0.02  # many looks, checkpoints and writes in a short life
loop.LEAST_TICKS = 1
records.WRITE_SECONDS = 1.0
try:
    sbt.run(json.loads(sys.argv[1]), sys.argv[2], progress=False)
except KeyboardInterrupt:
    sys.exit(130)
if len(sys.argv) > 4:
    from sbt.report import write_report
    from sbt.workdir import read_meta
    from pathlib import Path
    write_report(sbt.load(sys.argv[2]), Path(sys.argv[2]), read_meta(Path(sys.argv[2])))
"""


def start(config: dict, directory: Path, cache: Path, *report: str) -> subprocess.Popen:
    """A process that trains (or resumes) a sweep, and may write its report."""
    command = [sys.executable, "-c", CHILD, json.dumps(config), str(directory), str(cache)]
    return subprocess.Popen(
        [*command, *report], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(config: dict, directory: Path, cache: Path) -> float:
    """Runs a sweep to its end; seconds that this took."""
    began = time.monotonic()
    process = start(config, directory, cache)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a sweep that nobody touched failed:\n{errors[-3000:]}")
    return time.monotonic() - began


def weights(directory: Path) -> dict[tuple[int, ...], list[np.ndarray]]:
    """Leaves of the kept weights and statistics, by run."""
    import jax

    found = {}
    for path in (directory / "weights").iterdir():
        params, stats, runs = load_weights(path)
        for row, index in enumerate(runs):
            leaves = jax.tree.leaves((params, stats))
            found[tuple(index)] = [np.asarray(leaf)[row] for leaf in leaves]
    return found


def differences(directory: Path, whole: Path) -> list[str]:
    """What of two finished sweeps is not the same, bit for bit."""
    mine, theirs = results.load(directory), results.load(whole)
    names = sorted({*map(str, mine.variables), *map(str, theirs.variables)})
    found = [
        name
        for name in names
        if name not in mine.variables
        or name not in theirs.variables
        or not mine[name].identical(theirs[name])
    ]
    if mine.attrs.get("search") != theirs.attrs.get("search"):
        found.append("decisions of the search")
    kept, wanted = weights(directory), weights(whole)
    if set(kept) != set(wanted):
        return [*found, f"weights of {len(kept)} runs for {len(wanted)}"]
    for index, leaves in wanted.items():
        if not all(map(np.array_equal, kept[index], leaves)):
            found.append(f"weights of run {index}")
    return found


def torture(kills: int, seed: int, names: tuple[str, ...] = tuple(SWEEPS)) -> list[str]:
    """Kills sweeps so many times in all; returns what went wrong, which should be nothing."""
    random_ = random.Random(seed)
    faults: list[str] = []
    done = sweeps = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        root = Path(place)
        cache = root / "cache"
        seconds = {}
        for name in names:
            config = COMMON | SWEEPS[name] | {"name": name}
            finish(config, root / name, cache)  # fills the cache of compiled programs, too
            seconds[name] = finish(config, root / f"{name} again", cache)
            faults += [
                f"{name}: {what}" for what in differences(root / f"{name} again", root / name)
            ]
        while done < kills:
            name = names[sweeps % len(names)]
            config = COMMON | SWEEPS[name] | {"name": name}
            directory = root / f"{name} {sweeps}"
            sweeps, own = sweeps + 1, []
            while True:
                process = start(config, directory, cache, "report")
                often = random_.random() < 0.85
                chosen = (
                    signal.SIGKILL
                    if often
                    else random_.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
                )
                moment = random_.uniform(0.0, 1.5 * seconds[name])
                enough = done >= kills or len(own) >= 12
                try:
                    _, errors = process.communicate(timeout=None if enough else moment)
                except subprocess.TimeoutExpired:
                    process.send_signal(chosen)
                    _, errors = process.communicate()
                    own.append(f"{chosen.name} after {moment:.1f} s")
                    done += 1
                    if process.returncode not in (-chosen, 130, 0, 1):
                        faults.append(f"{name}: exit {process.returncode}: {errors[-500:]}")
                    continue
                if process.returncode == 0:
                    break
                faults.append(f"{name}: exit {process.returncode}: {errors[-500:]}")
                break
            found = differences(directory, root / name) if process.returncode == 0 else ["no end"]
            faults += [f"{name} ({', '.join(own)}): {what}" for what in found]
            state = "differs: " + ", ".join(found) if found else "bit for bit the same"
            print(
                f"{done:3d} of {kills} kills: {name}, killed {len(own)} times: {state}", flush=True
            )
    print(
        f"{done} kills, {sweeps} sweeps, {len(faults)} faults"
        + (":\n" + "\n".join(faults) if faults else "")
    )
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweeps", default=",".join(SWEEPS))
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    names = tuple(arguments.sweeps.split(","))
    return 1 if torture(arguments.kills, arguments.seed, names) else 0


if __name__ == "__main__":
    sys.exit(main())
