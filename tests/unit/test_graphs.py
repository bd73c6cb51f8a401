"""Layers of several operators, their kinds, codes, and the share that is INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, QuantizationError
from asdic.contract.target import ModelFormat
from asdic.quantization.graphs.graph import Codes, Layer, check_size, int8_share, open_graph
from asdic.quantization.graphs.operators import Operator, Reading, joined, kind_word, unique
from tests.support.paper_graph import codes_of


def operator(name: str, *taken: str, kind: str = "add", joins: bool = False) -> Operator:
    return Operator(name=name, kind=kind, inputs=taken, output=name, shape=(1,), joins=joins)


def layers(*operators: Operator, outputs: tuple[str, ...] = ()) -> list[str]:
    return [f"{first.name}..{last.name}" for first, last in joined(operators, outputs)]


CONV = operator("conv", "x", kind="conv")
BIAS = operator("bias", "conv", joins=True)
RELU = operator("relu", "bias", joins=True)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("CONV_2D", "conv"),
        ("GroupConvolution", "conv"),
        ("ConvTranspose", "transposed-conv"),
        ("FULLY_CONNECTED", "linear"),
        ("RESIZE_BILINEAR", "resize-bilinear"),
        ("GlobalAveragePool", "global-average-pool"),
        ("HSwish", "h-swish"),
        ("PRelu", "prelu"),
        ("Add", "add"),
        ("ADD", "add"),
    ],
)
def test_formats_call_the_same_kind_by_one_word(type_, kind):
    assert kind_word(type_) == kind


def test_a_bias_and_an_activation_function_belong_to_their_convolution():
    assert layers(CONV, BIAS, RELU, outputs=("relu",)) == ["conv..relu"]


def test_what_others_take_as_well_is_the_end_of_a_layer():
    assert layers(CONV, BIAS, RELU, operator("skip", "bias", "relu")) == [
        "conv..bias",
        "relu..relu",
        "skip..skip",
    ]


def test_what_the_model_answers_with_is_the_end_of_a_layer():
    assert layers(CONV, BIAS, RELU, outputs=("bias", "relu")) == ["conv..bias", "relu..relu"]


def test_an_activation_function_behind_an_addition_is_a_layer_of_its_own():
    relu = operator("relu", "sum", joins=True)
    assert layers(operator("sum", "x", "y"), relu) == ["sum..sum", "relu..relu"]


def test_rounding_between_an_operator_and_the_next_parts_no_layer():
    reading = Reading()
    reading.note_activations(["x"])
    reading.operators.append(CONV)
    reading.note_activations(["conv"])
    reading.note_rounding("conv", "rounded", codes_of(0.1))
    relu = operator("relu", reading.sources["rounded"], joins=True)
    reading.operators.append(relu)
    reading.note_activations(["relu"])
    reading.note_rounding("relu", "relu rounded", codes_of(0.2))
    (found,) = reading.found()
    assert found.layer.name == "conv"
    assert found.answer == "relu rounded"
    assert found.layer.codes.scale == 0.2


def test_a_name_that_comes_twice_gets_a_number():
    assert list(unique(["a", "b", "a", "a"])) == ["a", "b", "a#2", "a#3"]


def test_codes_stand_for_real_values_and_back():
    codes = codes_of(0.5, 10)
    low, high = codes.bounds()
    assert (low, high) == (-69.0, 58.5)
    assert codes.of(np.array([-1000, -69, 0, 0.26, 58.5, 1000], np.float32)).tolist() == [
        *(-128, -128, 10, 11, 127, 127)
    ]


def test_a_scale_for_each_channel_is_that_channels():
    scale = np.array([1.0, 2.0]).reshape(1, 2, 1)
    codes = Codes(scale=scale, zero_point=np.zeros((1, 2, 1)), low=-128, high=127)
    assert codes.of(np.full((1, 2, 1), 8, np.float32)).ravel().tolist() == [8, 4]


def test_the_share_is_that_of_multiply_accumulates_and_not_of_layers():
    large = Layer(name="a", kind="conv", shape=(1,), macs=900, is_int8=True)
    small = Layer(name="b", kind="conv", shape=(1,), macs=100)
    free = Layer(name="c", kind="add", shape=(1,), is_int8=True)
    assert int8_share([large, small, free]) == 0.9
    assert int8_share([free]) == 0.0


def test_layers_that_answer_too_much_are_refused():
    many = [Layer(name=str(n), kind="conv", shape=(1, 64, 4096, 4096)) for n in range(2)]
    with pytest.raises(QuantizationError, match="8192 MiB to one input"):
        check_size(Path("model.onnx"), many)


@pytest.mark.parametrize("model_format", ModelFormat)
def test_a_missing_file_is_named(model_format, tmp_path):
    with (
        pytest.raises(ConfigError, match="does not exist"),
        open_graph(model_format, [tmp_path / "missing"]),
    ):
        pass


@pytest.mark.parametrize("model_format", ModelFormat)
def test_a_damaged_file_is_named(model_format, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"no model at all" * 100)
    with (
        pytest.raises(QuantizationError, match=r"cannot read .*model"),
        open_graph(model_format, [file]),
    ):
        pass
