"""What a person would write without asdic: OpenCV, numpy and a runtime, as short as can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.target import Runtime

Infer: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def litert(path: Path, threads: int) -> Infer:
    """Return LiteRT's own call on a float32 tensor."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    start, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    if start["dtype"] == np.float32:

        def infer(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
            interpreter.set_tensor(start["index"], tensor)
            interpreter.invoke()
            answer: NDArray[np.float32] = interpreter.get_tensor(end["index"])
            return answer

        return infer

    (scale, zero), (scale_out, zero_out) = start["quantization"], end["quantization"]

    def infer_int8(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        stored = (np.round(tensor / np.float32(scale)) + np.float32(zero)).astype(start["dtype"])
        interpreter.set_tensor(start["index"], stored)
        interpreter.invoke()
        answer = interpreter.get_tensor(end["index"]).astype(np.float32)
        return (answer - np.float32(zero_out)) * np.float32(scale_out)

    return infer_int8


def openvino(path: Path, threads: int) -> Infer:
    """Return OpenVINO's own call, with the settings that the runner has."""
    import openvino as ov

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def infer(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = request.infer([tensor], share_inputs=True)[0]
        return answer

    return infer


def onnxruntime(path: Path, threads: int) -> Infer:
    """Return ONNX Runtime's own call, with the settings that the runner has."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def infer(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = session.run(None, {name: tensor})[0]
        return answer

    return infer


OPEN: Final = MappingProxyType(
    {
        Runtime.LITERT: litert,
        Runtime.OPENVINO: openvino,
        Runtime.TENSORRT: onnxruntime,
    }
)


def predicting(infer: Infer, shape: tuple[int, ...]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what makes a mask of a grey image, for a tensor of one channel and ``shape``."""
    height, width = (side for side in shape if side > 1)

    def predict(image: NDArray[Any]) -> NDArray[Any]:
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        tensor = small.reshape(shape).astype(np.float32) / np.float32(255)
        mask = (infer(tensor).reshape(height, width) > 0).astype(np.uint8)
        return cv2.resize(mask, image.shape[::-1], interpolation=cv2.INTER_NEAREST)

    return predict
