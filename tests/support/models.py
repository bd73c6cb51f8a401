"""Complete, valid variants with trivial models, made in well under a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.files import sha256_of, write_file
from asdic.contract.target import ModelFormat, target_named
from asdic.contract.variant import (
    VARIANT_FILE,
    ArrayInput,
    ClassOutput,
    FileRef,
    GoldenSet,
    ImageInput,
    InputRule,
    Limits,
    MaskOutput,
    OutputRule,
    Variant,
    encode_variant,
)
from asdic.device.runner.engine import open_engine
from asdic.device.runner.golden import record_golden
from asdic.device.runner.runner import Runner

SIDE: Final = 32
KEYWORDS: Final = (
    *("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"),
    *("silence", "unknown"),
)
_GAIN: Final = 8.0
_IMAGE: Final = ImageInput(tensor="image", height=SIDE, width=SIDE)
_MASK: Final = MaskOutput(tensor="logits")


def make_tiny_variant(
    folder: Path,
    *,
    target: str = "x86-openvino-int8",
    offset: float = 0.0,
    golden_offset: float | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    depth: int = 1,
) -> Path:
    """Make a variant that finds bright discs and return its folder.

    The model is a 3 x 3 mean, a gain and a bias: a pixel is foreground where its surroundings are
    brighter than half of white.

    Args:
        folder: Made if it does not exist.
        target: A target of OpenVINO, or one that ONNX Runtime simulates.
        offset: Is added to the bias, so that versions have different bytes; up to 0.5 hardly
            changes a mask.
        golden_offset: The golden set is recorded from a model with this offset; where it differs
            from ``offset``, the golden check must fail.
        limits: Of the variant.
        depth: How many layers an OpenVINO model has; more take longer and change no answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if depth > 1:
        files = _write_openvino(folder, offset, depth)
        golden = _record(folder, files, target, labelled_discs())
        return _write_variant(folder, files, target, golden, (_IMAGE,), (_MASK,), limits)
    if golden_offset is None or golden_offset == offset:
        files = _write_model(folder, target, offset)
        golden = _record(folder, files, target, labelled_discs())
    else:
        recorded = _write_model(folder, target, golden_offset)
        golden = _record(folder, recorded, target, labelled_discs())
        files = _write_model(folder, target, offset)
    return _write_variant(folder, files, target, golden, (_IMAGE,), (_MASK,), limits)


def make_keyword_variant(
    folder: Path, shared_data: Path, *, target: str = "x86-litert-int8"
) -> Path:
    """Make a LiteRT variant of the real keyword-spotting network and return its folder."""
    model = write_copy(shared_data / "models" / "kws_int8.tflite", folder / "model.tflite")
    rules = (ArrayInput(tensor="input_1"),), (ClassOutput(tensor="Identity", labels=KEYWORDS),)
    samples = [*zip(*keyword_inputs(shared_data, count=64), strict=True)]
    golden = _record(folder, [model], target, samples, rules=rules, metric="top1")
    return _write_variant(folder, [model], target, golden, *rules, Limits())


def keyword_inputs(
    shared_data: Path, *, count: int = 1_000
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return real keyword inputs (n, 1, 49, 10, 1) as real values, and their labels (n,)."""
    with np.load(shared_data / "keywords" / "inputs_int8.npz", allow_pickle=False) as arrays:
        stored, labels = arrays["x"][:count], arrays["y"][:count]
    values = (stored.astype(np.float32) - np.float32(83)) * np.float32(0.5847029089927673)
    return values.reshape(-1, 1, 49, 10, 1), labels.astype(np.int64)


def labelled_discs(count: int = 32, *, seed: int = 7) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return noisy grey images (uint8, 32 x 40) with a bright disc, and the discs' masks."""
    return list(_discs(count, np.random.default_rng(seed)))


def write_copy(source: Path, path: Path) -> Path:
    """Copy a file into a folder that may not exist yet."""
    write_file(path, source.read_bytes())
    return path


def _discs(count: int, random: np.random.Generator) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    rows, columns = np.mgrid[:SIDE, : SIDE + 8]
    for _ in range(count):
        row, column = random.uniform(10, 22, 2)
        inside = np.hypot(rows - row, columns - column) < random.uniform(5, 9)
        noise = random.normal(0, 12, inside.shape)
        image = np.clip(np.where(inside, 200, 50) + noise, 0, 255).astype(np.uint8)
        yield image, inside.astype(np.uint8)


def _write_openvino(folder: Path, offset: float, depth: int = 1) -> list[Path]:
    import openvino as ov
    from openvino import opset13 as ops

    image = ops.parameter([1, 1, SIDE, SIDE], np.float32, name="image")
    image.output(0).set_names({"image"})
    kernel = ops.constant(np.full((1, 1, 3, 3), _GAIN / 9, np.float32))
    same = np.zeros((1, 1, 3, 3), np.float32)
    same[0, 0, 1, 1] = 1.0
    last = image
    for _ in range(depth - 1):
        last = ops.convolution(last, ops.constant(same), [1, 1], [1, 1], [1, 1], [1, 1])
    mean = ops.convolution(last, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    bias = ops.constant(np.full((1, 1, 1, 1), _bias(offset), np.float32))
    logits = ops.add(mean, bias)
    logits.output(0).set_names({"logits"})
    model = ov.Model([ops.result(logits)], [image], "tiny")
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return [folder / "model.xml", folder / "model.bin"]


def _write_onnx(folder: Path, offset: float) -> list[Path]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, 1, SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel", "bias"], ["logits"], pads=[1, 1, 1, 1])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.full((1, 1, 3, 3), _GAIN / 9, np.float32), "kernel"),
            numpy_helper.from_array(np.full(1, _bias(offset), np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return [folder / "model.onnx"]


_WRITERS: Final = MappingProxyType(
    {ModelFormat.OPENVINO_IR: _write_openvino, ModelFormat.ONNX_QDQ: _write_onnx}
)


def _bias(offset: float) -> float:
    return offset - _GAIN / 2


def _write_model(folder: Path, target: str, offset: float) -> list[Path]:
    return _WRITERS[target_named(target).model_format](folder, offset)


def _record(
    folder: Path,
    files: list[Path],
    target: str,
    samples: list[Any],
    *,
    rules: tuple[tuple[InputRule, ...], tuple[OutputRule, ...]] = ((_IMAGE,), (_MASK,)),
    metric: str = "dice",
) -> GoldenSet:
    runtime = target_named(target).simulator or target_named(target).runtime
    engine = open_engine(runtime, files, threads=1)
    with Runner(engine, preprocessing=rules[0], postprocessing=rules[1]) as runner:
        return record_golden(
            runner, folder, samples, metric=metric, allowed_drop=1.0, detectable=5.0
        )


def _write_variant(
    folder: Path,
    files: list[Path],
    target: str,
    golden: GoldenSet,
    preprocessing: tuple[InputRule, ...],
    postprocessing: tuple[OutputRule, ...],
    limits: Limits,
) -> Path:
    wanted = target_named(target)
    engine = open_engine(wanted.simulator or wanted.runtime, files, threads=1)
    variant = Variant(
        model="tiny",
        target=target,
        runtime=wanted.runtime,
        runtime_version=engine.version,
        task="segmentation" if golden.metric == "dice" else "classification",
        files=tuple(_reference(file) for file in files),
        inputs=engine.inputs,
        outputs=engine.outputs,
        preprocessing=preprocessing,
        postprocessing=postprocessing,
        recipe="none",
        golden=golden,
        limits=limits,
    )
    engine.close()
    write_file(folder / VARIANT_FILE, encode_variant(variant))
    return folder


def _reference(path: Path) -> FileRef:
    return FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
