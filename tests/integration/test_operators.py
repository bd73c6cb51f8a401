"""ONNX operators in torch, on the way to LiteRT: each answers as ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch

from asdic.contract.errors import UnsupportedModelError
from asdic.quantization.converters.network import read_network
from asdic.quantization.converters.operators import OPERATORS
from tests.support.small_models import node, write_graph

SHAPE: Final = (1, 4, 6, 8)
RANDOM: Final = np.random.default_rng(0)


class Case(NamedTuple):
    """One node on ``x`` with constant inputs, by their places after ``x``."""

    kind: str
    constants: Sequence[Any] = ()
    attributes: Mapping[str, Any] = {}
    outputs: int = 1
    opset: int = 18

    def __str__(self) -> str:
        return f"{self.kind}-{self.attributes or ''}"


def _floats(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def _ints(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


ALONE: Final = (
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "GlobalAveragePool"),
    *("GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg"),
    *("Reciprocal", "Relu", "Sigmoid", "Sin", "Softmax", "Softplus", "Tanh", "Transpose"),
    *("Dropout", "ReduceSum", "Sqrt", "Log"),
)
POSITIVE: Final = frozenset({"Sqrt", "Log", "Reciprocal", "Pow"})
PAIRS: Final = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
KERNEL, PADS = {"kernel_shape": [3, 3]}, {"kernel_shape": [3, 3], "strides": [2, 2]}
CASES: Final = (
    *(Case(kind) for kind in ALONE),
    *(Case(kind, (_floats(4, 1, 1),)) for kind in PAIRS),
    Case("Pow", (np.float32(1.5),)),
    Case("MatMul", (_floats(8, 5),)),
    Case("Einsum", (_floats(8, 5),), {"equation": "bchw,wo->bcho"}),
    Case("HardSigmoid", (), {"alpha": 1 / 6, "beta": 0.5}),
    Case("Gelu", (), {"approximate": "tanh"}, opset=20),
    Case("Gelu", opset=20),
    Case("Clip", (np.float32(-0.5), np.float32(0.5))),
    Case("PRelu", (_floats(4, 1, 1),)),
    Case("Conv", (_floats(6, 4, 3, 3), _floats(6)), {"pads": [1, 1, 1, 1]}),
    Case("Conv", (_floats(4, 1, 3, 3),), {"group": 4, "pads": [0, 0, 1, 1], "strides": [2, 2]}),
    Case("Conv", (_floats(6, 4, 3, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", (_floats(6, 4, 3, 3),), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    Case("ConvTranspose", (_floats(4, 3, 2, 2), _floats(3)), {"strides": [2, 2]}),
    Case("ConvTranspose", (_floats(4, 3, 3, 3),), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("ConvTranspose", (_floats(4, 3, 3, 3),), {"pads": [1] * 4, "output_padding": [0, 0]}),
    Case("MaxPool", (), {**KERNEL, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("MaxPool", (), {**PADS, "auto_pad": "SAME_UPPER"}),
    Case("MaxPool", (), {**PADS, "ceil_mode": 1}),
    Case("AveragePool", (), {**KERNEL, "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (), {**KERNEL, "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", (), {**PADS, "auto_pad": "SAME_UPPER"}),
    Case("AveragePool", (), {**KERNEL, "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    Case("BatchNormalization", (_floats(4), _floats(4), _floats(4), abs(_floats(4)))),
    Case("InstanceNormalization", (_floats(4), _floats(4))),
    Case("LayerNormalization", (_floats(8), _floats(8))),
    Case("LayerNormalization", (_floats(6, 8),), {"axis": 2}),
    Case("GroupNormalization", (_floats(2), _floats(2)), {"num_groups": 2}),
    Case("GroupNormalization", (_floats(4), _floats(4)), {"num_groups": 2}, opset=21),
    Case("Resize", (None, np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}),
    Case("Resize", (None, None, _ints(1, 4, 12, 12)), {"mode": "linear"}),
    Case(
        "Resize",
        (None, np.array([1, 1, 2, 3], np.float32)),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    Case(
        "Resize",
        (None, None, _ints(1, 4, 11, 13)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    Case("DepthToSpace", (), {"blocksize": 2}),
    Case("DepthToSpace", (), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (), {"blocksize": 2}),
    Case("Reshape", (_ints(0, -1, 3),)),
    Case("Squeeze", (_ints(0),)),
    Case("Unsqueeze", (_ints(0, -1),)),
    Case("Concat", (_floats(1, 2, 6, 8),), {"axis": 1}),
    Case("Split", (), {"axis": 3, "num_outputs": 3}, outputs=3),
    Case("Split", (_ints(1, 3),), {"axis": 1}, outputs=2),
    Case("Slice", (_ints(1, -3), _ints(4, 2**62), _ints(1, 3), _ints(2, 1))),
    Case("Pad", (_ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5))),
    Case("Pad", (_ints(0, 0, 1, 2, 0, 0, 3, 0),), {"mode": "reflect"}),
    Case("Pad", (_ints(0, 0, 0, 2, 0, 0, 0, 1),), {"mode": "edge"}),
    Case("Pad", (_ints(1, 1), None, _ints(3)), {}),
    Case("Expand", (_ints(2, 1, 1, 1),)),
    Case("Tile", (_ints(1, 2, 1, 1),)),
    Case("Gather", (_ints(2, -1),), {"axis": 3}),
    Case("Gather", (np.array(1, np.int64),), {"axis": 1}),
    Case("ReduceMean", (_ints(2, 3),), {"keepdims": 0}),
    Case("ReduceMax", (_ints(1),)),
    Case("ReduceMin", (_ints(-1),)),
    Case("ReduceMean", (), {"axes": [1]}, opset=13),
)
BY_THEMSELVES: Final = frozenset({"Cast", "Equal", "Gemm", "Greater", "Less", "Where"})
"""They take or give something else than floats of four sides: tried below."""


def _compare(path: Path, inputs: np.ndarray[Any, Any]) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = onnxruntime.InferenceSession(str(path), options).run(None, {"x": inputs})
    with torch.no_grad():
        found = read_network(path)(torch.from_numpy(inputs))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_answers_as_in_onnx_runtime(tmp_path: Path, case: Case) -> None:
    names = [f"c{place}" if one is not None else "" for place, one in enumerate(case.constants)]
    outputs = [f"y{place}" for place in range(case.outputs)]
    weights = {
        name: np.asarray(one) for name, one in zip(names, case.constants, strict=True) if name
    }
    path = write_graph(
        tmp_path / "one.onnx",
        [node(case.kind, ["x", *names], outputs, **case.attributes)],
        weights,
        shape=SHAPE,
        outputs=dict.fromkeys(outputs, None),
        opset=case.opset,
    )
    inputs = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    _compare(path, abs(inputs) + 0.1 if case.kind in POSITIVE else inputs)


def test_a_matrix_product_answers_as_in_onnx_runtime(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "gemm.onnx",
        [node("Gemm", ["x", "b", "c"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"b": _floats(5, 8), "c": _floats(5)},
        shape=(3, 8),
        outputs={"y": 2},
    )
    _compare(path, _floats(3, 8))


@pytest.mark.parametrize("comparison", ["Equal", "Greater", "Less"])
def test_a_choice_answers_as_in_onnx_runtime(tmp_path: Path, comparison: str) -> None:
    path = write_graph(
        tmp_path / "where.onnx",
        [
            node(comparison, ["x", "zero"], ["mask"]),
            node("Cast", ["mask"], ["number"], to=1),
            node("Where", ["mask", "x", "number"], ["y"]),
        ],
        {"zero": np.float32(0)},
        shape=SHAPE,
    )
    _compare(path, np.maximum(_floats(*SHAPE), 0))


def test_every_operator_is_tried() -> None:
    assert {case.kind for case in CASES} | BY_THEMSELVES == set(OPERATORS)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case("Hardmax"), "is not among the operators"),
        (Case("Resize", (None, None, _ints(1, 4, 9, 9)), {"mode": "cubic"}), "by cubic"),
        (Case("Resize", (None, None, _ints(1, 4, 9, 9))), "by nearest, half_pixel"),
        (Case("Slice", (_ints(3), _ints(0), _ints(3), _ints(-1))), "goes backwards"),
        (Case("Pad", (_ints(0, 1, 0, 0, 0, 0, 0, 0),), {"mode": "edge"}), "repeats channels"),
        (Case("AveragePool", (), {**KERNEL, "dilations": [2, 2]}, opset=19), "has dilations"),
        (Case("Cast", (), {"to": 10}), "makes numbers of ONNX's type 10"),
    ],
    ids=str,
)
def test_a_use_that_is_not_known_is_refused_with_its_node(
    tmp_path: Path, case: Case, why: str
) -> None:
    names = [f"c{place}" if one is not None else "" for place, one in enumerate(case.constants)]
    path = write_graph(
        tmp_path / "one.onnx",
        [node(case.kind, ["x", *names], ["y"], name="/neck/it", **case.attributes)],
        {name: np.asarray(one) for name, one in zip(names, case.constants, strict=True) if name},
        shape=SHAPE,
        opset=case.opset,
    )
    with pytest.raises(UnsupportedModelError, match=rf"{case.kind} \(the node '/neck/it'\).*{why}"):
        read_network(path)(torch.zeros(SHAPE))


def test_a_shape_that_the_model_computes_is_refused(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "computed.onnx",
        [
            node("Cast", ["x"], ["sides"], to=7),
            node("Reshape", ["x", "sides"], ["y"], name="/head/view"),
        ],
        {},
        shape=(4,),
    )
    with pytest.raises(UnsupportedModelError, match=r"'/head/view'.*anew for every image"):
        read_network(path)(torch.ones(4))
