"""What would be tried next where asdic misses an aim: by aim, and by network and format.

An empty row stands for all that have no words of their own. No figures here: the table has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_PASSED: Final = "The gate passed, so the climb ended: it seeks what is good enough. "
_FLOAT_JOINS: Final = (
    f"{_PASSED}modelopt leaves a tenth of the work and the joins float. Next: a rung that leaves "
    "joins float, and is tried where they cost more than the layers."
)

LOSSES: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("SQNR", "carotid.pt, onnx-qdq"): _FLOAT_JOINS,
        ("metric", "carotid.pt, onnx-qdq"): _FLOAT_JOINS,
        ("SQNR", "keyword spotting, onnx-qdq"): (
            f"{_PASSED}Both leave about as much float. Next: the layers that stay float chosen "
            "together, and not one by one."
        ),
        ("non-inferior", ""): (
            "Next: more labelled samples, which alone narrow the interval; see the other tools' "
            "intervals in the table."
        ),
        ("time", ""): (
            "Next: a worker that stays from the conversion to the first rung, so that its "
            "imports are paid once, and judging while the next rung is quantized."
        ),
    }
)
