"""Record comparisons by turns, for the tests of the verdict: ``tests/data/pairs-*.json``.

    .venv/bin/python -m benchmarks.record_pairs ../shared/data tests/data

``pairs-same.json`` holds 20 restarts of the keyword network against itself, and
``pairs-int8-fp32.json`` 20 of the visual wake word network in INT8 against FP32, both in LiteRT.
The tests draw comparisons of five restarts from them, with fixed seeds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec

from asdic.contract.bench import Restart
from asdic.contract.files import write_file
from asdic.device.bench.child import PairAnswer, Request, ask
from asdic.device.bench.compare import restart_of
from tests.support.bench import make_bare_variant

PAIRS = (
    ("pairs-same.json", "kws_int8.tflite", "kws_int8.tflite", 20),
    ("pairs-int8-fp32.json", "vww_int8.tflite", "vww_fp32.tflite", 20),
)
SECONDS = 0.5


def main(data: Path, out: Path) -> None:
    """Record every pair of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, model_a, model_b, count in PAIRS:
            a, b = (
                make_bare_variant(Path(temporary) / model, data / "models" / model)
                for model in (model_a, model_b)
            )
            restarts = [record(a, b, number) for number in range(count)]
            write_file(out / name, msgspec.json.format(msgspec.json.encode(restarts), indent=0))
            ratios = [restart.ratio for restart in restarts]
            print(f"{name}: ratio {min(ratios):.3f} to {max(ratios):.3f}, {count} restarts")


def record(a: Path, b: Path, number: int) -> Restart:
    """Return one restart; which one is opened first alternates."""
    answer = ask(Request(folders=(str(a), str(b)), seconds=SECONDS, first=number % 2, threads=1))
    assert isinstance(answer, PairAnswer)
    return restart_of(answer, "ab"[number % 2])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
