"""First use of a TFDS data set: download it and write it in array_record format, once.

Reading needs no TensorFlow, preparing does (the CIFAR and MNIST builders of tensorflow_datasets
call ``tf.io.gfile`` while they generate), and so it runs in a process of its own::

    python -m sbt.data.prepare cifar10 [--data_dir=DIR]
"""

import argparse
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from sbt.data.cache import data_directory
from sbt.errors import UserError

# Module and package. tensorflow_datasets needs importlib_resources as well, without requiring it;
# tensorflow-cpu is built for x86-64 only.
_TENSORFLOW = "tensorflow-cpu" if platform.machine() in {"x86_64", "AMD64"} else "tensorflow"
_NEEDED = {"tensorflow": _TENSORFLOW, "importlib_resources": "importlib_resources"}


def prepare(name: str, data_dir: Path) -> None:
    """Downloads and prepares a set in this process. Does nothing if it is there already.

    Args:
      name: TFDS name, optionally ``name/config:version``.
      data_dir: TFDS directory, created if absent.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    # Copies on Google's storage are in another format, which cannot be read without TensorFlow.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)


def prepare_in_subprocess(name: str, data_dir: Path) -> None:
    """Prepares a set in another process, so that TensorFlow never enters this one.

    Args:
      name: TFDS name.
      data_dir: TFDS directory.

    Raises:
      UserError: a package that preparing needs is missing, or preparing failed.
    """
    command = f"python -m sbt.data.prepare {name} --data_dir={shlex.quote(str(data_dir))}"
    missing = [p for module, p in _NEEDED.items() if importlib.util.find_spec(module) is None]
    elsewhere = "Or point config.data.data_dir (or TFDS_DATA_DIR) to a directory that holds it."
    if missing:
        raise UserError(
            "config.data.name",
            f"{name!r} is not prepared under {data_dir}, and preparing it needs "
            f"{' and '.join(missing)}",
            "Prepare it once, with a network (training itself uses no TensorFlow):\n"
            f"    pip install {' '.join(_NEEDED.values())}    # the extra 'data'\n"
            f"    {command}\n  {elsewhere}",
        )
    print(f"Preparing {name} under {data_dir} (once).", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "sbt.data.prepare", name, f"--data_dir={data_dir}"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        # TensorFlow only writes files here: no accelerator memory, no start-up messages.
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        raise UserError(
            "config.data.name",
            f"preparing {name!r} under {data_dir} failed: {lines[-1] if lines else 'no message'}",
            f"Check the network and the directory, then run\n    {command}\n  {elsewhere}",
        )


def main(argv: list[str] | None = None) -> int:
    """Command line of the module; the last line printed is the cause of a failure."""
    parser = argparse.ArgumentParser(prog="python -m sbt.data.prepare", description=__doc__)
    parser.add_argument("name", help="TFDS name, such as cifar10")
    parser.add_argument("--data_dir", help="TFDS directory (TFDS_DATA_DIR, ~/tensorflow_datasets)")
    args = parser.parse_args(argv)
    try:
        prepare(args.name, data_directory(args.data_dir))
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
