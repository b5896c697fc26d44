"""What a benchmark says: ratios to peers, small-batch tax, part of the ceilings; its tables."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.table import Table

from sbt.bench.record import Record
from sbt.bench.workload import MEASURED, SBT, SHARED, SYNCHRONOUS, Cell, Measuring, Setting

PEER_HEADINGS = {
    "flax": "flax loop",
    "flax_scan": "flax scan",
    "torch": "torch",
    "torch_compile": "torch.compile",
    "torch_func": "torch.func",
    "curvlinops": "curvlinops",
    SHARED: "data-parallel",
    SYNCHRONOUS: "data-parallel, sync",
}
# Sharing a batch, in words.
SHARING = {SHARED: "", SYNCHRONOUS: " (synchronous batch norm)"}
# A small batch at full speed needs many lanes.
MANY_LANES = 16
TAX = (2, 128)
SMALL_FOR_TORCH, SMALL_FOR_FLAX = 4, 8
TORCH = ("torch", "torch_compile")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the summary: a network at one batch size and precision.

    Attributes:
      network: its name.
      precision: of the arithmetic.
      batch_size: m.
      ours: the fastest sbt cell, of all lanes and strategies; None if there is none.
      automatic: the fastest one that the engine would choose by itself.
      peers: the cell of every peer that was timed; for ``torch_func`` the fastest.
    """

    network: str
    precision: str
    batch_size: int
    ours: Cell[Setting] | None
    automatic: Cell[Setting] | None
    peers: dict[str, Cell[Setting]]

    def ratio(self, peers: Sequence[str]) -> float | None:
        """Time of the fastest of some peers over ours: above 1 where lanes are faster."""
        return _ratio(self.ours, fastest(self.peers[name] for name in peers if name in self.peers))


@dataclasses.dataclass(frozen=True)
class MeasuredRow:
    """One line of what ``--measure`` found: a measurement of so many nets.

    Attributes:
      network: its name.
      measurement: key of :data:`sbt.bench.workload.MEASURED`.
      lanes: nets.
      ours: the fastest sbt cell, of all strategies; None if there is none.
      automatic: that of the strategy which ``sbt measure`` takes by itself.
      peers: the cell of every peer that was timed.
    """

    network: str
    measurement: str
    lanes: int
    ours: Cell[Measuring] | None
    automatic: Cell[Measuring] | None
    peers: dict[str, Cell[Measuring]]

    def ratio(self, peer: str) -> float | None:
        """Time of a peer over ours: above 1 where sbt is faster."""
        return _ratio(self.ours, self.peers.get(peer))


def _ratio(ours: Cell | None, theirs: Cell | None) -> float | None:
    return theirs.median / ours.median if ours and theirs else None


def fastest(cells: Iterable[Cell]) -> Cell | None:
    """The cell of the smallest median, of those that were timed."""
    return min((c for c in cells if c.microseconds), key=lambda c: c.median, default=None)


def grouped(cells: Iterable[Cell], *fields: str) -> dict[tuple, list[Cell]]:
    """Cells by the values of some fields of their settings, in order."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell.setting, f) for f in fields), []).append(cell)
    return groups


def rows(record: Record) -> list[Row]:
    """The summary, in the order of the record."""
    found = []
    groups = grouped(record.cells, "network", "precision", "batch_size")
    for (network, precision, g), cells in groups.items():
        methods = {method: same for (method,), same in grouped(cells, "method").items()}
        ours = methods.pop(SBT, [])
        best = {name: fastest(same) for name, same in methods.items()}
        peers = {name: cell for name, cell in best.items() if cell}
        automatic = fastest(c for c in ours if c.automatic)
        found.append(Row(network, precision, g, fastest(ours), automatic, peers))
    return found


def measured_rows(record: Record) -> list[MeasuredRow]:
    """What was measured, in the order of the record."""
    found = []
    groups = grouped(record.measured, "network", "measurement", "lanes")
    for (network, measurement, lanes), cells in groups.items():
        methods = {method: fastest(same) for (method,), same in grouped(cells, "method").items()}
        ours, automatic = methods.pop(SBT, None), fastest(c for c in cells if c.automatic)
        peers = {name: cell for name, cell in methods.items() if cell}
        found.append(MeasuredRow(network, measurement, lanes, ours, automatic, peers))
    return found


def _ours(record: Record, network: str, precision: str, batch_size: int) -> list[Cell]:
    groups = grouped(record.timed, "network", "precision", "batch_size", "method")
    return groups.get((network, precision, batch_size, SBT), [])


def small_batch_tax(record: Record, network: str, precision: str) -> float | None:
    """Time per example at m = 2 over that at m = 128, each with its best number of many lanes."""
    small, large = (
        fastest(c for c in _ours(record, network, precision, g) if c.setting.lanes >= MANY_LANES)
        for g in TAX
    )
    return small.median / large.median if small and large else None


def by_lanes(record: Record, network: str, precision: str, batch_size: int) -> dict[int, float]:
    """µs of the fastest sbt cell for every number of lanes."""
    groups = grouped(_ours(record, network, precision, batch_size), "lanes")
    return {lanes: min(c.median for c in cells) for (lanes,), cells in sorted(groups.items())}


def cost_of_choosing(record: Record) -> list[float]:
    """Time of the engine's own choice over the best strategy's, wherever several were timed."""
    ours = (cell for cell in record.timed if cell.setting.method == SBT)
    found = []
    for cells in grouped(ours, "network", "precision", "batch_size", "lanes").values():
        chosen, best = fastest(c for c in cells if c.automatic), fastest(cells)
        if len(cells) > 1 and chosen and best:
            found.append(chosen.median / best.median)
    return found


def ratios(table: Sequence[Row], peers: Sequence[str], most: int | None = None) -> dict[int, float]:
    """Ratio to the fastest of some peers, by micro-batch, up to some size."""
    found = {}
    for row in table:
        ratio = row.ratio(peers)
        if ratio is not None and (most is None or row.batch_size <= most):
            found[row.batch_size] = ratio
    return found


def bound(record: Record, cell: Cell) -> tuple[float, str]:
    """Least time that the measured ceilings allow, µs per example and lane, and which binds.

    Arithmetic: FLOPs over the matrix-product ceiling. Memory: every example is read, and where the
    weights in use at a time fill more than the last cache, every update reads and writes each of
    them, at the copy ceiling.
    """
    facts, s = record.networks[cell.setting.network], cell.setting
    arithmetic = facts.flops / record.ceilings.matmul[s.precision]
    moved: float = facts.example_bytes
    if cell.at_once * 4 * facts.parameters > record.ceilings.cache_bytes:
        moved += 2 * 4 * facts.parameters / s.batch_size
    memory = moved / record.ceilings.copy
    kind = "arithmetic" if arithmetic >= memory else "memory"
    return 1e6 * max(arithmetic, memory), kind


def fraction(record: Record, cell: Cell) -> float:
    """Part of the binding ceiling that a cell reaches."""
    return bound(record, cell)[0] / cell.median


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def sentences(record: Record) -> list[str]:
    """The lines under the table."""
    lines: list[str] = []
    networks: dict[tuple[str, str], list[Row]] = {}
    for row in rows(record):
        networks.setdefault((row.network, row.precision), []).append(row)
    for (network, precision), table in networks.items():
        who = network if precision == "float32" else f"{network} ({precision})"
        lines += [f"{who}{line}" for line in _of_network(record, table)]
    lines += _of_measurements(record)
    costs = cost_of_choosing(record)
    if costs:
        lines.append(
            f"the engine's own strategy takes at most {max(costs):.2f}x of the best one's time "
            f"({len(costs)} settings with several strategies)"
        )
    for grown in record.scaling:
        extents = ", ".join(
            f"{n}: {digits(1e3 * s / n)}" for n, s in zip(grown.extents, grown.seconds, strict=True)
        )
        lines.append(
            f"{grown.setting.network}: time grows as {grown.axis}^{grown.slope:.2f} from "
            f"{grown.extents[0]} to {grown.extents[-1]} (ms per unit: {extents})"
        )
    return lines


def _of_network(record: Record, table: Sequence[Row]) -> Iterator[str]:
    network, precision = table[0].network, table[0].precision
    if (tax := small_batch_tax(record, network, precision)) is not None:
        yield (
            f": small-batch tax {tax:.2f} (µs at m={TAX[0]} over µs at m={TAX[1]}, "
            f"{MANY_LANES} lanes or more)"
        )
    for name, peers, most in (
        ("torch", TORCH, SMALL_FOR_TORCH),
        ("torch.func", ("torch_func",), None),
        ("flax loop", ("flax",), SMALL_FOR_FLAX),
    ):
        every, small = ratios(table, peers), ratios(table, peers, most)
        at_least = f"; at m<={most} at least {min(small.values()):.2f}x" if most and small else ""
        if every:
            times = ", ".join(f"{value:.2f}x (m={m})" for m, value in every.items())
            yield f": {name} takes {times}{at_least} of sbt's time"
    reached = [
        f"{fraction(record, row.ours):.0%} of {bound(record, row.ours)[1]} (m={row.batch_size})"
        for row in table
        if row.ours
    ]
    if reached:
        yield f": reaches {', '.join(reached)}"
    for name, how in SHARING.items():
        alone, lanes = _sharing(record, table, name)
        if alone:
            gains = ", ".join(f"{value:.2f}x (m={m})" for m, value in alone.items())
            others = ", ".join(f"{value:.2f}x (m={m})" for m, value in lanes.items())
            yield (
                f": sharing each batch{how}, {record.environment.get('devices')} devices train one "
                f"run {gains} as fast as one of them; lanes on the same devices train {others} as "
                "many examples a second as that run"
            )
    for row in table:
        lanes = by_lanes(record, network, precision, row.batch_size)
        if len(lanes) > 1:
            costs = ", ".join(f"{n}: {digits(time)}" for n, time in lanes.items())
            yield f", m={row.batch_size}: µs per example·lane by lanes: {costs}"


def _of_measurements(record: Record) -> Iterator[str]:
    """By network, measurement and peer, its time over ours for every number of nets."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in measured_rows(record):
        for peer in row.peers:
            if (ratio := row.ratio(peer)) is not None:
                key = row.network, row.measurement, PEER_HEADINGS[peer]
                found.setdefault(key, []).append(f"{ratio:.2f}x ({row.lanes})")
    for (network, measurement, peer), ratios in found.items():
        yield f"{network}, {measurement}: {peer} takes {', '.join(ratios)} of sbt's time (nets)"


def _sharing(
    record: Record, table: Sequence[Row], name: str
) -> tuple[dict[int, float], dict[int, float]]:
    """By batch size: one run's speed on all devices over that on one; the lanes' speed over it."""
    alone, lanes = {}, {}
    for row in table:
        ours = _ours(record, row.network, row.precision, row.batch_size)
        single, shared = fastest(c for c in ours if c.setting.lanes == 1), row.peers.get(name)
        if single and shared and row.ours:
            alone[row.batch_size] = single.median / shared.median
            lanes[row.batch_size] = shared.median / row.ours.median
    return alone, lanes


# --- tables --------------------------------------------------------------------------------------


def summary(record: Record, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: one line per network, precision and batch size; µs per example·lane.

    Args:
      record: of a benchmark.
      brief: spreads in percent, and only what fits a terminal.
    """
    table, time = rows(record), spread_in_percent if brief else spread
    peers = [name for name in PEER_HEADINGS if any(name in row.peers for row in table)]
    several = len({row.precision for row in table}) > 1
    chosen = any(not cell.automatic for cell in record.timed if cell.setting.method == SBT)
    # A column: its heading, what stands in it, and whether it is shown.
    columns: list[tuple[str, Callable[[Row], str | None], bool]] = [
        ("network", lambda row: row.network, True),
        ("precision", lambda row: row.precision, several),
        ("m", lambda row: str(row.batch_size), True),
        ("sbt", _of_ours(time), True),
        ("examples·lanes/s", _of_ours(lambda cell: f"{cell.rate:,.0f}"), not brief),
        ("lanes", _of_ours(lambda cell: str(cell.setting.lanes)), True),
        ("strategy", _of_ours(lambda cell: cell.setting.manner), True),
        ("own choice", lambda row: digits(row.automatic.median) if row.automatic else None, chosen),
        ("compile", _of_ours(lambda cell: _number(cell.compile_seconds, ".1f", unit=" s")), True),
        ("MB", _of_ours(lambda cell: _number(cell.memory_bytes, ".0f", 2**20)), True),
        ("ceiling", _of_ours(lambda cell: f"{fraction(record, cell):.0%}"), True),
    ]
    for name in peers:
        cell = lambda row, name=name: time(row.peers[name]) if name in row.peers else None  # noqa: E731
        columns.append((PEER_HEADINGS[name], cell, True))
    for name, those in (("torch", TORCH), ("flax", ("flax",))):
        ratio = lambda row, those=those: _number(row.ratio(those), ".2f")  # noqa: E731
        columns.append((f"{name}/sbt", ratio, name in peers))
    columns = [column for column in columns if column[2]]
    lines = [[text(row) or "-" for _, text, _ in columns] for row in table]
    return [heading for heading, *_ in columns], lines


def _of_ours(text: Callable[[Cell], str]) -> Callable[[Row], str | None]:
    return lambda row: text(row.ours) if row.ours else None


def _number(value: float | None, form: str, scale: float = 1.0, unit: str = "") -> str:
    return "-" if value is None else f"{value / scale:{form}}{unit}"


def spread(cell: Cell, scale: float = 1.0) -> str:
    """Median of the repeats, and the smallest and largest of them; in µs unless scaled."""
    low, high = min(cell.microseconds), max(cell.microseconds)
    return f"{digits(scale * cell.median)} ({digits(scale * low)}-{digits(scale * high)})"


def spread_in_percent(cell: Cell, scale: float = 1.0) -> str:
    """Median of the repeats, and how far the farthest lies from it; in µs unless scaled."""
    farthest = max(abs(value - cell.median) for value in cell.microseconds)
    return f"{digits(scale * cell.median)} ±{farthest / cell.median:.0%}"


def measured(record: Record, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: one line per network, measurement and number of nets; seconds per net.

    Args:
      record: of a benchmark.
      brief: spreads in percent.
    """
    table, time = measured_rows(record), spread_in_percent if brief else spread
    peers = [name for name in PEER_HEADINGS if any(name in row.peers for row in table)]
    chosen = any(row.automatic != row.ours for row in table)
    head = [
        "network",
        "measurement",
        "nets",
        "sbt",
        "strategy",
        *["own choice"] * chosen,
        "compile",
    ]
    head += [PEER_HEADINGS[name] for name in peers] + [f"{name}/sbt" for name in peers]
    lines = []
    for row in table:
        ours, line = row.ours, [row.network, row.measurement, str(row.lanes)]
        line += [time(ours, 1e-6), ours.setting.strategy] if ours else ["-", "-"]
        if chosen:
            line += [digits(1e-6 * row.automatic.median) if row.automatic else "-"]
        line += [_number(ours.compile_seconds, ".1f", unit=" s") if ours else "-"]
        line += [time(row.peers[name], 1e-6) if name in row.peers else "-" for name in peers]
        line += [_number(row.ratio(name), ".2f") for name in peers]
        lines.append(line)
    return head, lines


def skipped(record: Record) -> list[str]:
    """What has no times, and why."""
    cells: tuple[Cell, ...] = (*record.cells, *record.measured)
    return [f"{cell.setting}: {cell.skipped}" for cell in cells if cell.skipped]


def rich_table(record: Record) -> Table:
    """The summary for a terminal."""
    make, what = summary, "Training time, µs per example·lane"
    if record.measured:
        make, what = measured, "Time to measure a trained net, seconds"
    head, lines = make(record, brief=True)
    table = Table(title=f"{what}: median of the repeats ± the farthest", title_justify="left")
    for name in head:
        words = name in ("network", "strategy", "measurement")
        table.add_column(name, justify="left" if words else "right")
    before = None
    for line in lines:
        if before not in (None, line[0]):
            table.add_section()
        before = line[0]
        table.add_row(*line)
    return table


def markdown(record: Record) -> str:
    """The whole record for people: machine, summary, derived lines, every setting."""
    environment = record.environment
    versions = environment.get("versions", {})
    named = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    parts = [
        "# sbt bench",
        f"    {record.command}",
        f"{environment.get('cpu_model')}, {environment.get('usable_cores')} cores, "
        f"{environment.get('devices')} {environment.get('device_kind')} device(s); {named}; "
        f"load average at the start {environment.get('load_average', 0):.1f}. "
        f"Peak memory of the process {record.peak_bytes / 2**30:.2f} GB."
        + ("" if record.complete else " **Interrupted: not all repeats were done.**"),
        ceiling_line(record),
        *(_measured_page(record) if record.measured else _training_page(record)),
    ]
    without = skipped(record)
    if without:
        parts += ["## Skipped", _list(without)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _measured_page(record: Record) -> list[str]:
    examples = ", ".join(sorted({str(cell.setting.examples) for cell in record.measured}))
    return [
        f"Seconds per net and measurement on {examples} examples, median (min-max) of interleaved "
        "repeats, in evaluation mode, of nets after one epoch of training. sbt: the program that "
        "a sweep and sbt measure run for so many nets at once, from weights on the host to values "
        "on the host; own choice: with as many nets to an operation as sbt takes by itself. "
        "Peers: a PyTorch loop over the same nets, whose modules stand ready; "
        "torch: plain autograd, curvlinops: its HessianLinearOperator; each with the memory "
        "format, threads and examples at a time that a probe found best. A loop takes one net "
        "after the other with threads inside its operations; sbt spreads nets over the devices.",
        _list([f"{name}: {MEASURED[name].about}" for name in _measurements(record)]),
        markdown_table(*measured(record)),
        _list(sentences(record)),
        "## All settings",
        markdown_table(*_every_measured(record)),
    ]


def _measurements(record: Record) -> list[str]:
    return list(dict.fromkeys(cell.setting.measurement for cell in record.measured))


def _every_measured(record: Record) -> tuple[list[str], list[list[str]]]:
    head = ["network", "measurement", "method", "nets", "strategy or variant", "s", "compile s"]
    lines = []
    for cell in record.measured:
        s = cell.setting
        chosen = " (own choice)" if cell.automatic else ""
        line = [s.network, s.measurement, s.method, str(s.lanes)]
        line += [(s.strategy + chosen) or cell.detail or "-"]
        line += [spread(cell, 1e-6) if cell.microseconds else f"skipped: {cell.skipped}"]
        lines.append([*line, _number(cell.compile_seconds, ".1f")])
    return head, lines


def _training_page(record: Record) -> list[str]:
    return [
        "Training time in µs per example·lane, median (min-max) of interleaved repeats: batches "
        "of m examples, plain SGD with weight decay (gpt: AdamW). sbt: fastest strategy and number "
        "of lanes, at most 32 examples at a time where batch norm does not tie them together, as "
        "in a sweep; own choice: the strategy that the engine takes by itself. Peers train one run "
        "after another (torch.func: all lanes at once). Data-parallel: one run on all devices, "
        "which share each batch of m examples and average gradients before every update; batch "
        "statistics are of a device's part, or (sync) of the batch. MB: of the compiled program, "
        "data included. Ceiling: part of what the measured matrix-product and copy rates allow. "
        "Memory binds where the weights in use at a time exceed the last cache "
        f"({record.ceilings.cache_bytes / 2**20:.0f} MB) and arithmetic takes less than reading "
        "and writing them at every update.",
        markdown_table(*summary(record)),
        _list(sentences(record)),
        "## Networks",
        markdown_table(
            ["network", "parameters", "FLOP per example", "bytes per example"],
            [
                [name, f"{f.parameters:,}", f"{f.flops:,.0f}", f"{f.example_bytes:,}"]
                for name, f in record.networks.items()
            ],
        ),
        "FLOP: XLA's cost analysis of the gradient of one run with the stock convolution, before "
        "optimisation. Bytes: of a stored example, which is a sequence of 64 tokens for gpt. MB "
        "accessed, below: XLA's count for one run's step with the stock convolution, after fusion, "
        "caches left out.",
        "## All settings",
        markdown_table(*_every(record)),
    ]


def ceiling_line(record: Record) -> str:
    """What the machine reached in the probes."""
    c = record.ceilings
    products = ", ".join(
        f"{p} {c.matmul[p] / 1e9:,.0f} GFLOP/s (convolution {c.convolution[p] / 1e9:,.0f})"
        for p in c.matmul
    )
    return f"Measured ceilings: matrix product {products}; copy {c.copy / 1e9:.1f} GB/s."


def _every(record: Record) -> tuple[list[str], list[list[str]]]:
    head = ["network", "precision", "method", "m", "lanes", "strategy or variant", "µs"]
    head += ["compile s", "MB", "MB accessed/example"]
    lines = []
    for cell in record.cells:
        s = cell.setting
        chosen = " (own choice)" if cell.automatic else ""
        line = [s.network, s.precision, s.method, str(s.batch_size), str(s.lanes)]
        line += [", ".join(filter(None, (s.manner + chosen, cell.detail))) or "-"]
        line += [spread(cell) if cell.microseconds else f"skipped: {cell.skipped}"]
        line += [_number(cell.compile_seconds, ".1f"), _number(cell.memory_bytes, ".0f", 2**20)]
        line += [_number(cell.bytes_accessed, ".2f", s.batch_size * 2**20)]
        lines.append(line)
    return head, lines


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Headings and lines as a table of a Markdown page."""
    rule = ["---"] * len(head)
    escaped = [[part.replace("|", "\\|") for part in line] for line in (head, rule, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
