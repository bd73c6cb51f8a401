"""The page: a table a network, and what asdic aims at, each met or missed.

No figure is written here by hand, and no row is left out. ``losses.py`` says in words what would
be tried next where an aim is missed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Final

import numpy as np

from asdic.quantization.drop import Drop, PairedPoints
from asdic.quantization.gate import INT8_SHARE_AT_LEAST
from benchmarks.peers.cells import Cell

OURS: Final = "asdic"
NOISE_DB: Final = 0.5
"""What is taken for noise."""
POINTS: Final = 0.5
SLOWER: Final = 1.3
_FUSED_NAMES: Final = re.compile(r"(\S+;)+(?=\S)")
"""What TensorFlow puts before a layer's name: those of all that were fused into it."""
_HEAD: Final = (
    "| format | tool | SQNR, dB | drop, points | MACs in INT8 | call, s | process, s | |",
    "|---|---|---:|---:|---:|---:|---:|---|",
)


@dataclass(frozen=True)
class Aim:
    """Something that asdic aims at in a row, whether it was met, and the figures."""

    what: str
    met: bool
    figures: str


@dataclass(frozen=True)
class Row:
    """One network in one format: what asdic made of it, and what its peers did."""

    ours: Cell
    peers: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The network and the format."""
        return f"{self.ours.network}, {self.ours.model_format}"

    @property
    def rivals(self) -> tuple[Cell, ...]:
        """The peers' files that would fly: not refused by TensorRT, and INT8 for the most.

        A publisher's file was made of other samples, in no known time: it is shown, no more.
        """
        return tuple(
            cell
            for cell in self.peers
            if cell.seconds
            and not cell.refused
            and (cell.int8_share is None or cell.int8_share >= INT8_SHARE_AT_LEAST)
        )

    def aims(self) -> Iterator[Aim]:
        """Yield each aim that can be judged in this row."""
        if not self.rivals:
            return
        best = max(self.rivals, key=_sqnr)
        yield _sqnr_aim(self.ours, best)
        yield _metric_aim(self.ours, min(self.rivals, key=lambda cell: (cell.drop, -_sqnr(cell))))
        for default in (cell for cell in self.rivals if cell.is_default):
            ahead = _sqnr(self.ours) - _sqnr(default)
            yield Aim(DEFAULT, not ahead <= 0, f"{_signed(ahead)} dB against {default.tool}")
        if self.ours.labelled:
            bound = self.ours.ci95[1]
            yield Aim(INFERIOR, bound <= POINTS, f"a drop of at most {bound:.2f} points")
        yield _time_aim(self.ours, best)


SQNR: Final = "SQNR"
METRIC: Final = "metric"
DEFAULT: Final = "default"
INFERIOR: Final = "non-inferior"
TIME: Final = "time"
AIMS: Final = MappingProxyType(
    {
        SQNR: f"no worse than the best peer's, {NOISE_DB:g} dB taken for noise",
        METRIC: "no worse than the best peer's, sample by sample (95 %)",
        DEFAULT: "more SQNR than a peer's default",
        INFERIOR: f"to FP32 by {POINTS:g} points, where there are labels (95 %)",
        TIME: f"of the first rung, judged, within {SLOWER:g} times the best peer's own call",
    }
)


def rows(cells: Iterable[Cell]) -> tuple[Row, ...]:
    """Return the rows that have both sides; cells that failed are on neither."""
    found = []
    for _, group in groupby(cells, key=lambda cell: (cell.network, cell.model_format)):
        good = [cell for cell in group if not cell.failed]
        ours = next((cell for cell in good if cell.tool == OURS), None)
        if ours is not None:
            found.append(Row(ours, tuple(cell for cell in good if cell.tool != OURS)))
    return tuple(found)


def worse_than(ours: Cell, peer: Cell) -> Drop:
    """Return how many points asdic is worse than a peer, sample by sample, with its interval.

    Where a metric has no points of single samples that add up to it (``auc``), those that stand
    in for them are compared.
    """
    before, after = np.array(peer.points), np.array(ours.points)
    return PairedPoints(before, after, may_flip=ours.may_flip).drop()


def tables(cells: Sequence[Cell], losses: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Yield the lines of the page below its head.

    Args:
        cells: By network and format, in the order in which they are shown.
        losses: By aim and row, what would be tried next; an empty row stands for all others.
    """
    yield from _summary(rows(cells), losses)
    for network, group in groupby(cells, key=lambda cell: cell.network):
        yield from _table(network, list(group))


def _summary(found: Sequence[Row], losses: Mapping[tuple[str, str], str]) -> Iterator[str]:
    aims = [(row.name, aim) for row in found for aim in row.aims()]
    yield from ("", "| asdic's aim | met | of |", "|---|---:|---:|")
    for what, meaning in AIMS.items():
        met = [aim.met for _, aim in aims if aim.what == what]
        yield f"| *{what}*: {meaning} | {sum(met)} | {len(met)} |"
    missed = [(name, aim) for name, aim in aims if not aim.met]
    if missed:
        yield from ("", "Missed, and what would be tried next:", "")
    for name, aim in missed:
        after = losses.get((aim.what, name)) or losses.get((aim.what, ""), "")
        yield f"- {name}, {aim.what}: {aim.figures}." + (f" {after}" if after else "")


def _table(network: str, cells: Sequence[Cell]) -> Iterator[str]:
    yield from ("", f"## {network}", "")
    first = next((cell for cell in cells if not cell.failed), None)
    if first is not None:
        yield f"{first.metric}, {first.samples} samples, FP32 {first.fp32:.2f} points."
        yield ""
    yield from _HEAD
    for cell in cells:
        yield _line(cell)
    found = rows(cells)
    if found:
        yield ""
    for row in found:
        shown = [
            f"{aim.what} {'met' if aim.met else '**missed**'} ({aim.figures})" for aim in row.aims()
        ]
        yield f"- {row.ours.model_format}: " + "; ".join(shown or ["no peer to compare with"])


def _line(cell: Cell) -> str:
    start = f"| {cell.model_format} | {cell.tool} |"
    if cell.failed:
        return f"{start} | | | | | failed: {_cell_text(cell.failed)} |"
    sqnr = "equal" if cell.sqnr_db is None else f"{cell.sqnr_db:.1f}"
    share = "" if cell.int8_share is None else f"{100 * cell.int8_share:.0f} %"
    drop = f"{cell.drop:+.2f} ({cell.ci95[0]:+.2f} to {cell.ci95[1]:+.2f})"
    seconds = [f"{one:.1f}" if one else "" for one in (cell.seconds, cell.process_seconds)]
    return f"{start} {sqnr} | {drop} | {share} | {' | '.join(seconds)} | {_remarks(cell)} |"


def _remarks(cell: Cell) -> str:
    found = [cell.note]
    if cell.gate:
        found.append(f"asdic's gate: {cell.gate}")
    if cell.refused:
        found.append("TensorRT-RTX refuses it")
    if cell.placement:
        found.append(_FUSED_NAMES.sub("", cell.placement))
    if cell.kernels is not None:
        sqnr = "equal" if cell.kernels.sqnr_db is None else f"{cell.kernels.sqnr_db:.1f} dB"
        found.append(f"with this processor's kernels {sqnr}, drop {cell.kernels.drop:+.2f}")
    return "; ".join(_cell_text(one) for one in found if one)


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sqnr(cell: Cell) -> float:
    return math.inf if cell.sqnr_db is None else cell.sqnr_db


def _signed(ahead: float) -> str:
    return "0.0" if math.isnan(ahead) else f"{ahead:+.1f}"


def _sqnr_aim(ours: Cell, best: Cell) -> Aim:
    ahead = _sqnr(ours) - _sqnr(best)
    met = math.isnan(ahead) or ahead >= -NOISE_DB
    return Aim(SQNR, met, f"{_signed(ahead)} dB against {best.tool}")


def _metric_aim(ours: Cell, best: Cell) -> Aim:
    worse = worse_than(ours, best)
    figures = (
        f"{worse.mean:+.2f} points worse than {best.tool}, {worse.low:+.2f} to {worse.high:+.2f}"
    )
    return Aim(METRIC, worse.low <= 0.0, figures)


def _time_aim(ours: Cell, best: Cell) -> Aim:
    """The peer's call says nothing of what it lost; with its process and judging it does."""
    ratio = ours.seconds / best.seconds
    fair = ours.seconds / (best.process_seconds + best.judging_seconds)
    figures = f"{ratio:.1f} times {best.tool}'s, {fair:.1f} times with its process and judging"
    return Aim(TIME, ratio <= SLOWER, figures)
