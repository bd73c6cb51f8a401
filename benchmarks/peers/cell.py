"""One tool on one float file: ``python -m benchmarks.peers.cell TOOL SOURCE CALIBRATION TARGET``.

Prints the seconds of the tool's own call, imports not counted, as its last line.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.tools import TOOLS, be_private

IMPORTS: Final = MappingProxyType(
    {
        "ai-edge-quantizer": "ai_edge_quantizer",
        "NNCF": "nncf",
        "ONNX Runtime": "onnxruntime.quantization",
        "modelopt": "modelopt.onnx.quantization",
    }
)


def main(name: str, source: Path, calibration: Path, target: Path) -> None:
    """Run the tool called ``name``."""
    be_private()
    tool = next(one for one in TOOLS if one.name == name)
    samples: dict[int, dict[str, NDArray[np.float32]]] = {}
    with np.load(calibration, allow_pickle=False) as archive:
        for member in archive.files:
            number, _, tensor = member.partition(":")
            samples.setdefault(int(number), {})[tensor] = archive[member]
    importlib.import_module(IMPORTS[tool.peer])
    if "onnxruntime" in sys.modules:
        sys.modules["onnxruntime"].disable_telemetry_events()
    started = time.perf_counter()
    tool.quantize(source, [samples[number] for number in sorted(samples)], target)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1], *(Path(word) for word in sys.argv[2:5]))
