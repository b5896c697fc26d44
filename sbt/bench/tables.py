"""The table of a benchmark, on the terminal and as Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from sbt.bench.derived import TORCH, Row, digits, fraction, rows, sentences
from sbt.bench.record import Cell, Record
from sbt.bench.workload import SBT

PEER_HEADINGS = {
    "flax": "flax loop",
    "flax_scan": "flax scan",
    "torch": "torch",
    "torch_compile": "torch.compile",
    "torch_func": "torch.func",
}


def summary(record: Record, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: one line per network, precision and micro-batch; µs per example·lane.

    Args:
      record: of a benchmark.
      brief: spreads in percent, and only what fits a terminal.
    """
    table = rows(record)
    time = spread_in_percent if brief else spread
    peers = [name for name in PEER_HEADINGS if any(name in row.peers for row in table)]
    against = [name for name in ("torch", "flax") if name in peers]
    many = len({row.precision for row in table}) > 1
    options = any(not cell.automatic for cell in record.timed if cell.setting.method == SBT)
    head = ["network", *["precision"] * many, "g = m", "sbt", *["examples·lanes/s"] * (not brief)]
    head += ["lanes", "strategy", *["own choice"] * options, "compile", "MB", "ceiling"]
    head += [PEER_HEADINGS[name] for name in peers]
    head += [f"{name}/sbt" for name in against]
    lines = []
    for row in table:
        line = [row.network, *[row.precision] * many, str(row.micro_batch)]
        if row.ours is None:
            line += ["-"] * (6 + (not brief) + options)
        else:
            line += _ours(record, row.ours, row, time, brief, options)
        line += [time(row.peers[p]) if p in row.peers else "-" for p in peers]
        line += [_ratio(row, name) for name in against]
        lines.append(line)
    return head, lines


def _ours(
    record: Record, cell: Cell, row: Row, time: Callable[[Cell], str], brief: bool, options: bool
) -> list[str]:
    line = [time(cell), *[f"{cell.rate:,.0f}"] * (not brief)]
    line += [str(cell.setting.lanes), cell.setting.strategy]
    line += [digits(row.automatic.median) if row.automatic else "-"] * options
    line += ["-" if cell.compile_seconds is None else f"{cell.compile_seconds:.1f} s"]
    line += ["-" if cell.memory_bytes is None else f"{cell.memory_bytes / 2**20:.0f}"]
    return [*line, f"{fraction(record, cell):.0%}"]


def spread(cell: Cell) -> str:
    """Median of the repeats, and the smallest and largest of them."""
    low, high = min(cell.microseconds), max(cell.microseconds)
    return f"{digits(cell.median)} ({digits(low)}-{digits(high)})"


def spread_in_percent(cell: Cell) -> str:
    """Median of the repeats, and how far the farthest lies from it."""
    farthest = max(abs(value - cell.median) for value in cell.microseconds)
    return f"{digits(cell.median)} ±{farthest / cell.median:.0%}"


def _ratio(row: Row, name: str) -> str:
    ratio = row.ratio(TORCH if name == "torch" else ("flax",))
    return "-" if ratio is None else f"{ratio:.2f}"


def skipped(record: Record) -> list[str]:
    """What has no times, and why."""
    return [f"{cell.setting}: {cell.skipped}" for cell in record.cells if cell.skipped]


def rich_table(record: Record) -> Table:
    """The summary for a terminal."""
    head, lines = summary(record, brief=True)
    title = "Training time, µs per example·lane: median of the repeats ± the farthest"
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name, justify="left" if name in ("network", "strategy") else "right")
    before = None
    for line in lines:
        if before not in (None, line[0]):
            table.add_section()
        before = line[0]
        table.add_row(*line)
    return table


def markdown(record: Record) -> str:
    """The whole record for people: machine, summary, derived lines, every setting."""
    environment, ceilings = record.environment, record.ceilings
    versions = environment.get("versions", {})
    named = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    head, lines = summary(record)
    parts = [
        "# sbt bench",
        f"    {record.command}",
        f"{environment.get('cpu_model')}, {environment.get('usable_cores')} cores, "
        f"{environment.get('devices')} {environment.get('device_kind')} device(s); {named}; "
        f"load average at the start {environment.get('load_average', 0):.1f}. "
        f"Peak memory of the process {record.peak_bytes / 2**30:.2f} GB."
        + ("" if record.complete else " **Interrupted: not all repeats were done.**"),
        ceiling_line(record),
        "Training time in µs per example·lane, median (min-max) of interleaved repeats: batches "
        "of m = g examples, plain SGD with weight decay. sbt: fastest strategy and number of "
        "lanes; own choice: the strategy that the engine takes by itself. Peers train one run "
        "after another (torch.func: all lanes at once). MB: of the compiled program, data "
        "included. Ceiling: part of what the measured matrix-product and copy rates allow. Memory "
        "binds where the weights in use at a time exceed the last cache "
        f"({ceilings.cache_bytes / 2**20:.0f} MB) and arithmetic takes less than reading and "
        "writing them at every update.",
        _markdown_table(head, lines),
        "\n".join(f"* {line}" for line in sentences(record)),
        "## Networks",
        _markdown_table(
            ["network", "parameters", "FLOP per example", "bytes per example"],
            [
                [name, f"{f.parameters:,}", f"{f.flops:,.0f}", f"{f.example_bytes:,}"]
                for name, f in record.networks.items()
            ],
        ),
        "FLOP: XLA's cost analysis of the gradient of one run with the stock convolution, before "
        "optimisation. Bytes: of a stored image. MB accessed, below: XLA's count for one run's "
        "step with the stock convolution, after fusion, caches left out.",
        "## All settings",
        _markdown_table(*_every(record)),
    ]
    without = skipped(record)
    if without:
        parts += ["## Skipped", "\n".join(f"* {line}" for line in without)]
    return "\n\n".join(part for part in parts if part) + "\n"


def ceiling_line(record: Record) -> str:
    """What the machine reached in the probes."""
    c = record.ceilings
    products = ", ".join(
        f"{p} {c.matmul[p] / 1e9:,.0f} GFLOP/s (convolution {c.convolution[p] / 1e9:,.0f})"
        for p in c.matmul
    )
    return f"Measured ceilings: matrix product {products}; copy {c.copy / 1e9:.1f} GB/s."


def _every(record: Record) -> tuple[list[str], list[list[str]]]:
    head = ["network", "precision", "method", "g", "lanes", "strategy or variant", "µs"]
    head += ["compile s", "MB", "MB accessed/example"]
    lines: list[list[str]] = []
    for cell in record.cells:
        s = cell.setting
        chosen = " (own choice)" if cell.automatic else ""
        line: list[Any] = [s.network, s.precision, s.method, s.micro_batch, s.lanes]
        line.append((s.strategy + chosen) or cell.detail or "-")
        line.append(spread(cell) if cell.microseconds else f"skipped: {cell.skipped}")
        line.append("-" if cell.compile_seconds is None else f"{cell.compile_seconds:.1f}")
        line.append("-" if cell.memory_bytes is None else f"{cell.memory_bytes / 2**20:.0f}")
        accessed = cell.bytes_accessed
        line.append("-" if accessed is None else f"{accessed / s.micro_batch / 2**20:.2f}")
        lines.append([str(part) for part in line])
    return head, lines


def _markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    escaped = [[part.replace("|", "\\|") for part in line] for line in (head, rule, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
