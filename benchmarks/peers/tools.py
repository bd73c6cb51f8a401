"""What each peer does with a float file: its own default, and its best documented setting.

A tool takes the float file of its format and the calibration tensors, and writes the INT8 file.
Each runs in a process of its own (``cell.py``), so that none sees what another has imported; this
module itself imports nothing that an environment with a peer alone lacks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]
Quantize: TypeAlias = Callable[[Path, Sequence[Tensors], Path], None]
"""Takes the float file, the calibration tensors and where the INT8 file goes."""


@dataclass(frozen=True)
class Tool:
    """A peer's setting: whose it is, what it is called, its format, and what it does."""

    peer: str
    setting: str
    model_format: str
    quantize: Quantize
    is_default: bool = False

    @property
    def name(self) -> str:
        """Peer and setting, as a name for files."""
        return f"{self.peer}-{self.setting}".replace(" ", "-")


def _edge_default(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _edge(source, samples, target)


def _edge_minmax(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    from ai_edge_quantizer.utils import qsv_utils

    _edge(source, samples, target, qsv_update_func=qsv_utils.min_max_update)


def _edge(source: Path, samples: Sequence[Tensors], target: Path, **options: Any) -> None:
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager

    plan = recipe_manager.RecipeManager()
    plan.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    observer = calibrator.Calibrator(str(source), **options)
    observer.calibrate({"serving_default": list(samples)}, plan)
    result = quantizer.Quantizer(str(source), plan.get_quantization_recipe()).quantize(
        observer.get_model_qsvs(), enable_progress_report=False
    )
    target.write_bytes(bytes(result.quantized_model))


def _nncf_default(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _nncf(source, samples, target)


def _nncf_mixed(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    """The preset that NNCF's guide names for a loss of accuracy, with full bias correction."""
    import nncf

    _nncf(
        source,
        samples,
        target,
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=False,
    )


def _nncf_minmax(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _nncf_ranges(source, samples, target, "DISABLE", fast_bias_correction=True)


def _nncf_minmax_full(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _nncf_ranges(source, samples, target, "DISABLE", fast_bias_correction=False)


def _nncf_minmax_overflow(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    """With 7-bit weights, for processors whose INT8 sums saturate."""
    _nncf_ranges(source, samples, target, "ENABLE", fast_bias_correction=True)


def _nncf_ranges(
    source: Path, samples: Sequence[Tensors], target: Path, fix: str, **options: Any
) -> None:
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    _nncf(
        source,
        samples,
        target,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=OverflowFix[fix],
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            weights_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
        **options,
    )


def _nncf(source: Path, samples: Sequence[Tensors], target: Path, **options: Any) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    data = nncf.Dataset([dict(one) for one in samples])
    result = nncf.quantize(model, data, subset_size=len(samples), **options)
    openvino.save_model(result, target, compress_to_fp16=False)


def _runtime_default(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _runtime(source, samples, target)


def _runtime_per_channel(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    """What ONNX Runtime's guide asks for its own kernels on processors with VNNI."""
    _runtime(_prepared(source, target), samples, target, per_channel=True)


def _runtime_tensorrt(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _runtime_symmetric(source, samples, target, "MinMax")


def _runtime_entropy(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _runtime_symmetric(source, samples, target, "Entropy")


def _runtime_symmetric(source: Path, samples: Sequence[Tensors], target: Path, method: str) -> None:
    """What ONNX Runtime's guide asks for TensorRT: symmetric, per channel, prepared first."""
    from onnxruntime import quantization as tools

    _runtime(
        _prepared(source, target),
        samples,
        target,
        per_channel=True,
        activation_type=tools.QuantType.QInt8,
        weight_type=tools.QuantType.QInt8,
        calibrate_method=tools.CalibrationMethod[method],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )


def _prepared(source: Path, target: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    return prepared


def _runtime(source: Path, samples: Sequence[Tensors], target: Path, **options: Any) -> None:
    from onnxruntime import quantization as tools

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        """The calibration tensors, one set at a time."""

        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next set, or None at the end."""
            found = next(self._left, None)
            return None if found is None else dict(found)

    tools.quantize_static(str(source), str(target), Reader(), **options)


def _modelopt_max(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _modelopt(source, samples, target, "max")


def _modelopt_entropy(source: Path, samples: Sequence[Tensors], target: Path) -> None:
    _modelopt(source, samples, target, "entropy")


def _modelopt(source: Path, samples: Sequence[Tensors], target: Path, method: str) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        onnx_path=str(source),
        quantize_mode="int8",
        calibration_data={
            name: np.concatenate([one[name] for one in samples]) for name in samples[0]
        },
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(target),
    )


_T, _O, _Q = "tflite", "openvino-ir", "onnx-qdq"
TOOLS: Final = (
    Tool("ai-edge-quantizer", "default", _T, _edge_default, is_default=True),
    Tool("ai-edge-quantizer", "true min-max", _T, _edge_minmax),
    Tool("NNCF", "default", _O, _nncf_default, is_default=True),
    Tool("NNCF", "mixed full bias", _O, _nncf_mixed),
    Tool("NNCF", "minmax", _O, _nncf_minmax),
    Tool("NNCF", "minmax full bias", _O, _nncf_minmax_full),
    Tool("NNCF", "minmax overflow fix", _O, _nncf_minmax_overflow),
    Tool("ONNX Runtime", "default", _Q, _runtime_default, is_default=True),
    Tool("ONNX Runtime", "per channel", _Q, _runtime_per_channel),
    Tool("ONNX Runtime", "for TensorRT", _Q, _runtime_tensorrt),
    Tool("ONNX Runtime", "for TensorRT entropy", _Q, _runtime_entropy),
    Tool("modelopt", "default max", _Q, _modelopt_max, is_default=True),
    Tool("modelopt", "entropy", _Q, _modelopt_entropy),
)


def be_private() -> None:
    """Keep the tools from reporting to their makers."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    os.environ["NNCF_CI"] = "1"
