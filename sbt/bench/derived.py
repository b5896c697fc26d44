"""What follows from the times: ratios to peers, small-batch tax, distance from the ceilings."""

import dataclasses
from collections.abc import Iterable, Sequence

from sbt.bench.record import Cell, Record
from sbt.bench.workload import SBT

# A small batch at full speed needs many lanes.
MANY_LANES = 16
TAX = (2, 128)
SMALL_FOR_TORCH, SMALL_FOR_FLAX = 4, 8
TORCH = ("torch", "torch_compile")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the summary: a network at one micro-batch and precision.

    Attributes:
      network: its name.
      precision: of the arithmetic.
      micro_batch: g.
      ours: the fastest sbt cell, of all lanes and strategies; None if there is none.
      automatic: the fastest one that the engine would choose by itself.
      peers: the cell of every peer that was timed; for ``torch_func`` the fastest.
    """

    network: str
    precision: str
    micro_batch: int
    ours: Cell | None
    automatic: Cell | None
    peers: dict[str, Cell]

    def ratio(self, peers: Sequence[str]) -> float | None:
        """Time of the fastest of some peers over ours: above 1 where lanes are faster."""
        best = fastest(cell for name, cell in self.peers.items() if name in peers)
        return best.median / self.ours.median if best and self.ours else None


def fastest(cells: Iterable[Cell]) -> Cell | None:
    """The cell of the smallest median, of those that were timed."""
    return min((c for c in cells if c.microseconds), key=lambda c: c.median, default=None)


def rows(record: Record) -> list[Row]:
    """The summary, in the order of the record."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in record.cells:
        s = cell.setting
        groups.setdefault((s.network, s.precision, s.micro_batch), []).append(cell)
    found = []
    for (network, precision, g), cells in groups.items():
        ours = [c for c in cells if c.setting.method == SBT]
        names = dict.fromkeys(c.setting.method for c in cells if c.setting.method != SBT)
        best = {name: fastest(c for c in cells if c.setting.method == name) for name in names}
        found.append(
            Row(
                network=network,
                precision=precision,
                micro_batch=g,
                ours=fastest(ours),
                automatic=fastest(c for c in ours if c.automatic),
                peers={name: cell for name, cell in best.items() if cell},
            )
        )
    return found


def small_batch_tax(record: Record, network: str, precision: str) -> float | None:
    """Time per example at g = 2 over that at g = 128, each with its best number of many lanes."""
    times = []
    for g in TAX:
        best = fastest(
            c
            for c in record.timed
            if (c.setting.network, c.setting.precision) == (network, precision)
            and c.setting.method == SBT
            and c.setting.micro_batch == g
            and c.setting.lanes >= MANY_LANES
        )
        if best is None:
            return None
        times.append(best.median)
    return times[0] / times[1]


def ratios(table: Sequence[Row], peers: Sequence[str], most: int | None = None) -> dict[int, float]:
    """Ratio to the fastest of some peers, by micro-batch, up to some size."""
    found = {}
    for row in table:
        ratio = row.ratio(peers)
        if ratio is not None and (most is None or row.micro_batch <= most):
            found[row.micro_batch] = ratio
    return found


def bound(record: Record, cell: Cell) -> tuple[float, str]:
    """Least time that the measured ceilings allow, µs per example and lane, and which binds.

    Arithmetic: FLOPs over the matrix-product ceiling. Memory: every image is read, and where the
    weights in use at a time fill more than the last cache, every update reads and writes each of
    them, at the copy ceiling.
    """
    facts, s = record.networks[cell.setting.network], cell.setting
    arithmetic = facts.flops / record.ceilings.matmul[s.precision]
    moved: float = facts.example_bytes
    if cell.at_once * 4 * facts.parameters > record.ceilings.cache_bytes:
        moved += 2 * 4 * facts.parameters / s.micro_batch
    memory = moved / record.ceilings.copy
    kind = "arithmetic" if arithmetic >= memory else "memory"
    return 1e6 * max(arithmetic, memory), kind


def fraction(record: Record, cell: Cell) -> float:
    """Part of the binding ceiling that a cell reaches."""
    return bound(record, cell)[0] / cell.median


def by_lanes(record: Record, network: str, precision: str, micro_batch: int) -> dict[int, Cell]:
    """The fastest sbt cell for every number of lanes."""
    found: dict[int, Cell] = {}
    for cell in record.timed:
        s = cell.setting
        here = (s.network, s.precision, s.micro_batch) == (network, precision, micro_batch)
        if here and s.method == SBT:
            best = fastest([cell, *filter(None, [found.get(s.lanes)])])
            assert best is not None
            found[s.lanes] = best
    return dict(sorted(found.items()))


def cost_of_choosing(record: Record) -> list[float]:
    """Time of the engine's own choice over the best strategy's, wherever several were timed."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in record.timed:
        s = cell.setting
        if s.method == SBT:
            key = (s.network, s.precision, s.micro_batch, s.lanes)
            groups.setdefault(key, []).append(cell)
    found = []
    for cells in groups.values():
        chosen, best = fastest(c for c in cells if c.automatic), fastest(cells)
        if len(cells) > 1 and chosen and best:
            found.append(chosen.median / best.median)
    return found


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def sentences(record: Record) -> list[str]:
    """The lines under the table."""
    table, lines = rows(record), []
    for network, precision in dict.fromkeys((r.network, r.precision) for r in table):
        mine = [r for r in table if (r.network, r.precision) == (network, precision)]
        who = network if precision == "float32" else f"{network} ({precision})"
        tax = small_batch_tax(record, network, precision)
        if tax is not None:
            lines.append(
                f"{who}: small-batch tax {tax:.2f} (µs at g={TAX[0]} over µs at g={TAX[1]}, "
                f"{MANY_LANES} lanes or more)"
            )
        for name, peers, most in (
            ("torch", TORCH, SMALL_FOR_TORCH),
            ("torch.func", ("torch_func",), None),
            ("flax loop", ("flax",), SMALL_FOR_FLAX),
        ):
            every = ratios(mine, peers)
            if not every:
                continue
            small = ratios(mine, peers, most)
            line = f"{who}: {name} takes " + ", ".join(
                f"{value:.2f}x (m={m})" for m, value in every.items()
            )
            if most is not None and small:
                line += f"; at m<={most} at least {min(small.values()):.2f}x"
            lines.append(line + " of sbt's time")
        reached = []
        for row in mine:
            if row.ours:
                _, kind = bound(record, row.ours)
                part = fraction(record, row.ours)
                reached.append(f"{part:.0%} of {kind} (g={row.micro_batch})")
        if reached:
            lines.append(f"{who}: reaches {', '.join(reached)}")
        for row in mine:
            lanes = by_lanes(record, network, precision, row.micro_batch)
            if len(lanes) > 1:
                costs = ", ".join(f"{n}: {digits(c.median)}" for n, c in lanes.items())
                lines.append(f"{who}, g={row.micro_batch}: µs per example·lane by lanes: {costs}")
    costs_of_auto = cost_of_choosing(record)
    if costs_of_auto:
        lines.append(
            f"the engine's own strategy takes at most {max(costs_of_auto):.2f}x of the best "
            f"one's time ({len(costs_of_auto)} settings with several strategies)"
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
