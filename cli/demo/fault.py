"""The fault that only the demo can make: weights that change after the gate, before signing.

It stands for a corrupted build server. Every digest and signature of the result is in order, so
only a device that checks what the model *does* can refuse it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.files import sha256_of, write_file
from asdic.contract.target import ModelFormat, target_named
from asdic.contract.variant import VARIANT_FILE, FileRef, Variant, encode_variant, read_variant

SHARE: Final = 0.2
SMALLEST_WEIGHT_BYTES: Final = 256


def perturb_variant(source: Path, folder: Path, *, seed: int) -> None:
    """Copy the variant in ``source`` to ``folder`` with a fifth of its INT8 weights redrawn.

    The golden set and everything else stay as the gate saw them; the digests are written anew.
    """
    shutil.copytree(source, folder)
    variant = read_variant(folder)
    model_format = target_named(variant.target).model_format
    _PERTURB[model_format](
        folder, [file.name for file in variant.files], np.random.default_rng(seed)
    )
    write_file(folder / VARIANT_FILE, encode_variant(_with_new_digests(variant, folder)))


def _with_new_digests(variant: Variant, folder: Path) -> Variant:
    files = tuple(
        FileRef(
            name=file.name,
            digest=sha256_of(folder / file.name),
            size_bytes=(folder / file.name).stat().st_size,
        )
        for file in variant.files
    )
    return msgspec.structs.replace(variant, files=files)


def _redrawn(weights: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int8]:
    hit = rng.random(weights.shape) < SHARE
    drawn = rng.integers(-127, 128, weights.shape, dtype=np.int8)
    return np.where(hit, drawn, weights)


def _perturb_tflite(folder: Path, names: list[str], rng: np.random.Generator) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    path = folder / names[0]
    model: Any = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    weights = {
        tensor.buffer
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.INT8 and model.buffers[tensor.buffer].data is not None
    }
    for number in sorted(weights):
        data = np.frombuffer(bytes(model.buffers[number].data), dtype=np.int8)
        if data.size >= SMALLEST_WEIGHT_BYTES:
            model.buffers[number].data = _redrawn(data, rng).view(np.uint8)
    builder = flatbuffers.Builder(path.stat().st_size)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def _perturb_openvino(folder: Path, names: list[str], rng: np.random.Generator) -> None:
    graph = ElementTree.parse(folder / names[0])  # noqa: S314 - written by our own quantizer
    weights = np.fromfile(folder / names[1], dtype=np.int8)
    for constant in graph.iter("data"):
        if constant.get("element_type") != "i8":
            continue
        start, size = int(constant.get("offset", 0)), int(constant.get("size", 0))
        if size >= SMALLEST_WEIGHT_BYTES:
            weights[start : start + size] = _redrawn(weights[start : start + size], rng)
    weights.tofile(folder / names[1])


def _perturb_onnx(folder: Path, names: list[str], rng: np.random.Generator) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / names[0])
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.INT8:
            continue
        data = numpy_helper.to_array(tensor)
        if data.size >= SMALLEST_WEIGHT_BYTES:
            tensor.CopyFrom(numpy_helper.from_array(_redrawn(data, rng), tensor.name))
    onnx.save(model, folder / names[0])


_PERTURB: Final[
    MappingProxyType[ModelFormat, Callable[[Path, list[str], np.random.Generator], None]]
] = MappingProxyType(
    {
        ModelFormat.TFLITE: _perturb_tflite,
        ModelFormat.OPENVINO_IR: _perturb_openvino,
        ModelFormat.ONNX_QDQ: _perturb_onnx,
    }
)
