"""What was measured: one cell a network, format and tool, each in a file of its own.

A benchmark that is stopped goes on from these files. A cell that failed is measured again, since
what failed may have been mended since.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError
from asdic.contract.files import parse_json, read_bounded, write_file

CELL_LIMIT_BYTES: Final = 1 << 20


class Kernels(msgspec.Struct, frozen=True, kw_only=True):
    """The same file with this processor's INT8 kernels: drop in points, SQNR in dB."""

    drop: float
    sqnr_db: float | None


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool made of a network: points of the metric, SQNR in dB, seconds; or why nothing.

    Attributes:
        points: The INT8 file's, one a sample that judges, in their order: files pair by them.
        may_flip: A sample is right or wrong as a whole, as by top-1.
        sqnr_db: Of all outputs together; None where they equal FP32's.
        int8_share: Of the multiply-accumulates, 0 to 1; None where the file could not be read.
        seconds: The tool's own call, imports not counted; of asdic the first rung of its climb,
            with the start of its process and judging.
        process_seconds: The tool's whole process; of asdic the whole command.
        judging_seconds: What it took to ask the INT8 file for all samples.
        kernels: For files that are judged in simulation.
        refused: Why TensorRT-RTX, which stands in for a Jetson's TensorRT, does not take the file:
            it does not count among the best.
        placement: What asdic's own rules for a Jetson's graph have against the file.
        gate: What asdic's gate had against it, so that no file would have been written.
        failed: Why there is nothing else.
    """

    network: str
    model_format: str
    tool: str
    is_default: bool = False
    labelled: bool = False
    metric: str = ""
    fp32: float = 0.0
    int8: float = 0.0
    drop: float = 0.0
    ci95: tuple[float, float] = (0.0, 0.0)
    samples: int = 0
    points: tuple[float, ...] = ()
    may_flip: bool = False
    sqnr_db: float | None = None
    int8_share: float | None = None
    seconds: float = 0.0
    process_seconds: float = 0.0
    judging_seconds: float = 0.0
    kernels: Kernels | None = None
    note: str = ""
    refused: str = ""
    placement: str = ""
    gate: str = ""
    failed: str = ""


def kept(path: Path, measure: Callable[[], Cell]) -> Cell:
    """Return the cell in ``path``, or measure it and keep it there.

    A cell that failed, or whose file is damaged, is measured again.
    """
    try:
        cell = parse_json(read_bounded(path, CELL_LIMIT_BYTES), Cell, what=str(path))
    except AsdicError:
        cell = None
    if cell is None or cell.failed:
        cell = measure()
        write_file(path, msgspec.json.encode(cell))
    return cell
