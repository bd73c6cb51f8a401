"""What lies behind a verdict: how good each layer of the INT8 file is, and the calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from asdic.contract.target import ModelFormat
from asdic.device.runner.preprocess import prepare
from asdic.quantization.audit import CalibrationAudit, audit
from asdic.quantization.calibration import Inputs
from asdic.quantization.graphs.graph import open_graph
from asdic.quantization.ladder import Climb
from asdic.quantization.layers import LayerQuality, layer_qualities
from asdic.quantization.sensitivity import SAMPLES, Sensitivities


def insight(
    climb: Climb, inputs: Inputs, model_format: ModelFormat
) -> tuple[tuple[LayerQuality, ...], CalibrationAudit]:
    """Return the quality of each layer of a climb's best rung, and what the calibration is worth.

    Every layer answers every sample, which takes longer than judging. So ``SAMPLES`` of those
    that judge are asked; all that calibrate are.

    Args:
        climb: Its best rung is looked into, beside the float twin.
        inputs: The samples.
        model_format: How both files are stored.

    Raises:
        QuantizationError: A file cannot be looked into, or a layer answers NaN or infinity.
    """
    files = climb.best.model
    judging = [prepare(case.inputs, files.preprocessing) for case in inputs.cases[:SAMPLES]]
    with open_graph(model_format, climb.float_paths) as exact:
        found = audit(exact, files.laid_out(inputs.calibration), judging)
        with open_graph(model_format, climb.best.paths) as rounded:
            layers = layer_qualities(exact, rounded, judging)
    return tuple(_with_sensitivity(layers, climb.sensitivities)), found


def _with_sensitivity(
    layers: Iterable[LayerQuality], found: Sensitivities | None
) -> Iterator[LayerQuality]:
    known = {one.layer: one.sqnr_db for one in found.measured} if found else {}
    for layer in layers:
        yield msgspec.structs.replace(layer, sensitivity_db=known.get(layer.name))
