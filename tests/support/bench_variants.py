"""What the benchmark is tried on: variants, an image, and settings that are soon done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from asdic.device.bench.settings import Settings
from tests.support.models import labelled_discs, make_tiny_variant

IMAGE = labelled_discs(1)[0][0]
SHORT = Settings(seconds=0.2, threads=(1,), cold_starts=1)
NO_COLD = replace(SHORT, cold_starts=0)


def make_bench_variants(folder: Path) -> Path:
    """Return the folder of a good variant, a faulty, a deep one and one of another target."""
    make_tiny_variant(folder / "good")
    make_tiny_variant(folder / "faulty", offset=0.01, golden_offset=0.0)
    make_tiny_variant(folder / "jetson", target="jetson-orin-int8")
    make_tiny_variant(folder / "deep", depth=300)
    return folder
