"""Models that a signed release may bring and no box should keep: real files, each bad in one way.

All take and give what ``make_tiny_variant``'s model does, so the golden set of that good model is
theirs too. "Bright" is an image whose mean is above ``BRIGHT`` of white: the class of input on
which some are bad alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from asdic.contract.files import sha256_of, write_file
from asdic.contract.variant import VARIANT_FILE, FileRef, encode_variant, read_variant
from asdic.device.runner.golden import record_golden
from asdic.device.runner.runner import Runner
from tests.support.models import SIDE, labelled_discs, make_tiny_variant
from tests.support.yard import JETSON, Yard

BRIGHT: Final = 0.55
GAIN: Final = 8.0
HUGE: Final = 2**62
SHAPE: Final = (1, 1, SIDE, SIDE)

Graph: TypeAlias = Callable[[], onnx.ModelProto]
Labelled: TypeAlias = Sequence[tuple[NDArray[Any], NDArray[Any]]]


# The variants


def record_again(
    folder: Path, labelled: Labelled, *, allowed_drop: float, tolerance: float
) -> None:
    """Record another golden set with the model that the variant in ``folder`` has now."""
    with Runner.open(folder, simulate=True, threads=1) as runner:
        golden = record_golden(
            runner,
            folder,
            labelled,
            metric="dice",
            allowed_drop=allowed_drop,
            detectable=allowed_drop,
            tolerance=tolerance,
        )
    variant = msgspec.structs.replace(read_variant(folder, check=False), golden=golden)
    write_file(folder / VARIANT_FILE, encode_variant(variant))


def replace_model(folder: Path, graph: Graph) -> Path:
    """Put another model into the variant in ``folder``, and return the folder."""
    path = folder / "model.onnx"
    onnx.save(graph(), path)
    file = FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
    variant = msgspec.structs.replace(read_variant(folder, check=False), files=(file,))
    write_file(folder / VARIANT_FILE, encode_variant(variant))
    return folder


def publish(yard: Yard, version: str, variant: Path, *, target: str = JETSON) -> Path:
    """Sign a variant as a release, and return a stick with an offer of it."""
    yard.layout.add_release(version, {target: variant}, security_counter=1)
    yard.image.sign(yard.layout, version)
    return yard.stick(version, target=target)


def bright_discs(count: int) -> Labelled:
    """Return images (uint8) with a dark disc on bright ground, and masks of what is bright."""
    return [(255 - image, 1 - mask) for image, mask in labelled_discs(count, seed=11)]


# The models


def good(layers: int = 1) -> onnx.ModelProto:
    """Return the good model, with layers before it that change nothing but the time."""
    same = np.zeros((1, 1, 3, 3), np.float32)
    same[0, 0, 1, 1] = 1.0
    names = ["image", *(f"layer{number}" for number in range(layers - 1)), "last"]
    nodes = [
        helper.make_node("Conv", [before, "same"], [after], pads=[1] * 4)
        for before, after in pairwise(names[:-1])
    ]
    last = helper.make_node("Conv", [names[-2], "kernel", "bias"], ["logits"], pads=[1] * 4)
    return _model([*nodes, last], {"same": same, **_WEIGHTS})


def less_accurate() -> onnx.ModelProto:
    """Return a model that sees a little less than there is, in every image."""
    seen = helper.make_node("Sub", ["answer", "missed"], ["logits"])
    return _model([_CONV, seen], {**_WEIGHTS, "missed": np.float32([2.0])})


def not_a_number() -> onnx.ModelProto:
    """Return a model that answers 0 / 0."""
    nothing = helper.make_node("Mul", ["answer", "zero"], ["nothing"])
    divided = helper.make_node("Div", ["nothing", "nothing"], ["logits"])
    return _model([_CONV, nothing, divided], {**_WEIGHTS, "zero": np.float32([0])})


def not_a_number_if_bright() -> onnx.ModelProto:
    """Return a model that answers 0 / 0 for bright images."""
    scaled = helper.make_node("Mul", ["answer", "dark"], ["scaled"])
    divided = helper.make_node("Div", ["scaled", "dark"], ["logits"])
    return _model([_CONV, *_IS_BRIGHT, scaled, divided], _WEIGHTS)


def wrong_if_bright() -> onnx.ModelProto:
    """Return a model that says the contrary for bright images."""
    contrary = helper.make_node("Neg", ["answer"], ["contrary"])
    chosen = helper.make_node("Where", ["is_bright", "contrary", "answer"], ["logits"])
    return _model([_CONV, *_IS_BRIGHT, contrary, chosen], _WEIGHTS)


def half_the_size() -> onnx.ModelProto:
    """Return a model that says itself that its answer is half as wide and high."""
    pool = helper.make_node("MaxPool", ["answer"], ["logits"], kernel_shape=[2, 2], strides=[2, 2])
    return _model([_CONV, pool], _WEIGHTS, shape=(1, 1, SIDE // 2, SIDE // 2))


def secretly_half_the_size() -> onnx.ModelProto:
    """Return a model whose answer is half as high as it says: that shows only when it runs."""
    half = helper.make_node("Slice", ["answer", "start", "end", "axis"], ["logits"])
    known = helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0)
    nothing = helper.make_node("Mul", ["sum", "zero"], ["nothing"])
    height = helper.make_node("Add", ["nothing", "half"], ["height"])
    end = helper.make_node("Cast", ["height"], ["end"], to=TensorProto.INT64)
    numbers = {"zero": np.float32([0]), "half": np.float32([SIDE // 2])}
    places = {"start": np.int64([0]), "axis": np.int64([2])}
    return _model([_CONV, known, nothing, height, end, half], {**_WEIGHTS, **numbers, **places})


def hungry() -> onnx.ModelProto:
    """Return a model that takes a quarter of a gigabyte for each answer."""
    return _model([_CONV, *_eat("factor")], {**_WEIGHTS, **_MEAL, "factor": np.int64([1])})


def hungry_if_bright() -> onnx.ModelProto:
    """Return a model that takes a quarter of a gigabyte for a bright image."""
    return _model([_CONV, *_IS_BRIGHT, *_eat("bright_number")], {**_WEIGHTS, **_MEAL})


def endless() -> onnx.ModelProto:
    """Return a model whose inference ends in some centuries."""
    return _model([_CONV, *_wait("factor")], {**_WEIGHTS, **_LOOP, "factor": np.int64([1])})


def endless_if_bright() -> onnx.ModelProto:
    """Return a model whose inference ends in some centuries for a bright image."""
    return _model([_CONV, *_IS_BRIGHT, *_wait("bright_number")], {**_WEIGHTS, **_LOOP})


def endless_to_load() -> onnx.ModelProto:
    """Return a model of two kilobytes that ONNX Runtime unfolds into 2^40 nodes as it loads it.

    Each of its functions calls the next one twice, as in the "billion laughs" of XML.
    """
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("laugh", 1)]
    functions = [
        helper.make_function("laugh", f"laugh{number}", ["x"], ["y"], nodes, opsets)
        for number, nodes in enumerate([*(_twice(f"laugh{n}") for n in range(1, 40)), [_SAME]])
    ]
    call = helper.make_node("laugh0", ["answer"], ["logits"], domain="laugh")
    model = _model([_CONV, call], _WEIGHTS)
    model.opset_import.append(opsets[1])
    model.functions.extend(functions)
    return model


def deadly() -> onnx.ModelProto:
    """Return a model at whose first inference the processor itself ends the process (SIGFPE).

    The smallest 64-bit integer has no negative; ONNX Runtime 1.32 divides it by -1 all the same.
    """
    return _model([_CONV, *_divide("factor")], {**_WEIGHTS, **_FATAL, "factor": np.int64([1])})


def deadly_if_bright() -> onnx.ModelProto:
    """Return a model that is ``deadly`` for bright images."""
    return _model([_CONV, *_IS_BRIGHT, *_divide("bright_number")], {**_WEIGHTS, **_FATAL})


def make_deadly_to_load(folder: Path) -> Path:
    """Make an OpenVINO variant at whose loading the processor itself ends the process (SIGFPE).

    OpenVINO 2026.4 computes constants as it compiles a model, also the remainder of a division by
    zero.
    """
    import openvino as ov
    from openvino import opset13 as ops

    make_tiny_variant(folder, target="x86-openvino-int8")
    image = ops.parameter(list(SHAPE), np.float32, name="image")
    image.output(0).set_names({"image"})
    seven, zero = ops.constant(np.int32([7])), ops.constant(np.int32([0]))
    logits = ops.add(image, ops.convert(ops.mod(seven, zero), np.float32))
    logits.output(0).set_names({"logits"})
    model = ov.Model([ops.result(logits)], [image], "deadly")
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    files = tuple(
        FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
        for path in (folder / "model.xml", folder / "model.bin")
    )
    variant = msgspec.structs.replace(read_variant(folder, check=False), files=files)
    write_file(folder / VARIANT_FILE, encode_variant(variant))
    return folder


# Their parts

_WEIGHTS: Final = {
    "kernel": np.full((1, 1, 3, 3), GAIN / 9, np.float32),
    "bias": np.float32([-GAIN / 2]),
    "bright": np.float32(BRIGHT),
    "one": np.float32(1),
}
_MEAL: Final = {"portion": np.int64([1 << 26]), "zero": np.float32([0])}
_LOOP: Final = {"turns": np.int64([HUGE]), "go_on": np.bool_(True), "zero": np.float32([0])}
_FATAL: Final = {
    "smallest": np.int64([-(2**63)]),
    "two": np.int64([2]),
    "unit": np.int64([1]),
    "zero": np.float32([0]),
}
_CONV: Final = helper.make_node("Conv", ["image", "kernel", "bias"], ["answer"], pads=[1] * 4)
_SAME: Final = helper.make_node("Identity", ["x"], ["y"])
_IS_BRIGHT: Final = (
    helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
    helper.make_node("Greater", ["mean", "bright"], ["is_bright"]),
    helper.make_node("Cast", ["is_bright"], ["bright_number"], to=TensorProto.INT64),
    helper.make_node("Cast", ["is_bright"], ["bright_share"], to=TensorProto.FLOAT),
    helper.make_node("Sub", ["one", "bright_share"], ["dark"]),
)


def _model(
    nodes: Iterable[onnx.NodeProto],
    weights: dict[str, Any],
    shape: tuple[int, ...] = SHAPE,
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes),
        "bad",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in weights.items()
            if name in used
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _eat(factor: str) -> tuple[onnx.NodeProto, ...]:
    """Return nodes that take ``factor`` times a quarter of a gigabyte and add nothing."""
    return (
        helper.make_node("Mul", ["portion", factor], ["size"]),
        helper.make_node("Expand", ["zero", "size"], ["meal"]),
        helper.make_node("ReduceSum", ["meal"], ["eaten"], keepdims=0),
        helper.make_node("Add", ["answer", "eaten"], ["logits"]),
    )


def _wait(factor: str) -> tuple[onnx.NodeProto, ...]:
    """Return nodes that turn ``factor`` times ``HUGE`` times in a loop and add nothing."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
            helper.make_node("Identity", ["carried_in"], ["carried_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, [1]),
        ],
    )
    return (
        helper.make_node("Mul", ["turns", factor], ["count"]),
        helper.make_node("Loop", ["count", "go_on", "zero"], ["carried"], body=body),
        helper.make_node("Add", ["answer", "carried"], ["logits"]),
    )


def _divide(factor: str) -> tuple[onnx.NodeProto, ...]:
    """Return nodes that divide the smallest integer, by -1 if ``factor`` is 1, and add nothing."""
    return (
        helper.make_node("Mul", ["two", factor], ["twice"]),
        helper.make_node("Sub", ["unit", "twice"], ["divisor"]),
        helper.make_node("Div", ["smallest", "divisor"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["logits"]),
    )


def _twice(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node(name, ["x"], ["between"], domain="laugh"),
        helper.make_node(name, ["between"], ["y"], domain="laugh"),
    ]
