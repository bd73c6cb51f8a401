"""Reports of quantizations that never were, for tests of what is made of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np

from asdic.contract.files import canonical_json, write_file
from asdic.quantization.audit import CalibrationAudit, Outside, RangeChange
from asdic.quantization.calibration import DataAudit
from asdic.quantization.examples import Example
from asdic.quantization.gate import Verdict
from asdic.quantization.judge import EmptyCases
from asdic.quantization.ladder import Tried
from asdic.quantization.layers import LayerQuality
from asdic.quantization.provenance import Environment
from asdic.quantization.report import REPORT_FILE, QuantizationReport
from asdic.quantization.slices import Slice
from asdic.quantization.speed import Speed

FASTER: Final = Speed(
    threads=1, int8_ms_p50=2.0, fp32_ms_p50=4.0, ratio=0.5, ratio_ci95=(0.48, 0.53)
)
SLOWER: Final = Speed(threads=2, int8_ms_p50=4.2, fp32_ms_p50=3.0, ratio=1.4, ratio_ci95=(1.3, 1.5))
PICTURE: Final = "examples/0-worst-a.png"
PICTURE_BGR: Final = (255, 0, 255)
WARD: Final = Slice(
    column="ward", value="7", samples=12, fp32=90.0, int8=88.5, drop=1.5, ci95=(0.4, 2.6)
)
ENVIRONMENT: Final = Environment(
    runtime="openvino",
    version="2026.4",
    delegate="cpu",
    machine="x86_64",
    cpu_features=("avx2",),
    tools={"nncf": "3.4.0", "torch": "2.13.0"},
)
_REPORT: Final = QuantizationReport(
    model="discs",
    target="x86-openvino-int8",
    recipe="static-wi8-ai8-minmax",
    verdict=Verdict.PASS,
    summary="pass: the drop is at most 0.40 points, 0.5 are allowed",
    metric="dice",
    labelled=True,
    limit=0.5,
    fp32=91.0,
    int8=90.8,
    drop=0.2,
    ci95=(0.1, 0.4),
    samples=34,
    worst_sample="a.png",
    worst_drop=3.0,
    slices=(WARD,),
    worst_slice=WARD,
    empty=EmptyCases(images=6, fp32_false_alarms=0.0, int8_false_alarms=0.5),
    sqnr_db=38.0,
    int8_share=0.97,
    bytes_fp32=400_000,
    bytes_int8=110_000,
    latency_ratio=0.5,
    latency_ratio_ci95=(0.48, 0.53),
    speed=(FASTER,),
    judged_by="OpenVINO 2026.4, CPU, x86_64: avx2",
    simulated=False,
    environment=ENVIRONMENT,
    remarks=("a remark",),
    assumptions=("values are in [0, 1]",),
    calibration_samples=64,
    layers=(
        LayerQuality(
            name="first",
            kind="conv",
            macs=900,
            int8=True,
            sqnr_db=40.0,
            cosine=0.999,
            saturation=0.01,
            range_use=0.8,
        ),
        LayerQuality(
            name="last",
            kind="linear",
            macs=100,
            int8=False,
            sqnr_db=30.0,
            cosine=0.99,
            saturation=None,
            range_use=None,
        ),
    ),
    audit=CalibrationAudit(
        samples=64,
        curve=(
            RangeChange(samples=1, worst=0.6, most=0.5, median=0.3),
            RangeChange(samples=64, worst=0.0, most=0.0, median=0.0),
        ),
        stable_after=40,
        outside=Outside(share=0.001, worst_share=0.01, worst_layer="first"),
    ),
    data=DataAudit(seen=110, calibrating=64, judging=40, constant=2),
    tried=(
        Tried(recipe="static-wi8-ai8-average", verdict=None, reason="no memory", seconds=3.0),
        Tried(
            recipe="static-wi8-ai8-minmax",
            verdict=Verdict.PASS,
            drop=0.2,
            ci95=(0.1, 0.4),
            sqnr_db=38.0,
            int8_share=0.97,
            seconds=75.0,
        ),
    ),
    examples=(
        Example(name="a.png", kind="worst", fp32=90.0, int8=87.0, sqnr_db=31.0, picture=PICTURE),
        Example(name="b", kind="usual", fp32=90.0, int8=90.0, sqnr_db=None),
    ),
    model_digest="sha256:1",
    data_digest="sha256:2",
    fingerprint="sha256:3",
)


def report_with(**changes: Any) -> QuantizationReport:
    """Return a report that passed, with ``changes``."""
    return msgspec.structs.replace(_REPORT, **changes)


def write_report(folder: Path, report: QuantizationReport | None = None) -> Path:
    """Write a report and its picture into ``folder``, as a variant holds them; return it."""
    write_file(folder / REPORT_FILE, canonical_json(report or _REPORT))
    done, png = cv2.imencode(".png", np.full((24, 40, 3), PICTURE_BGR, np.uint8))
    assert done
    write_file(folder / PICTURE, bytes(png))
    return folder
