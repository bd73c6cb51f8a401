"""What would be tried next where asdic misses an aim: by aim, and by network and format.

An empty row stands for all that have no words of their own. No figures here: the table has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_FIRST_LAYER: Final = (
    "modelopt leaves the first convolution and the classifier float. asdic's climb ended at its "
    "first rung, since no recipe could pass with so few samples; with its one or two most "
    "sensitive layers float (-float1, -float2) it comes level. Next: where only samples are "
    "missing, climb on as long as SQNR is gained."
)

LOSSES: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("SQNR", "keyword spotting, onnx-qdq"): _FIRST_LAYER,
        ("default", "keyword spotting, onnx-qdq"): _FIRST_LAYER,
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
