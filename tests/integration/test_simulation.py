"""The simulation is not what the kernels are: shown where kernels cut off what is too large."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.target import ModelFormat, Runtime
from asdic.device.runner.engine import Engine, open_engine
from asdic.quantization.simulation import open_simulation
from tests.conftest import REPOSITORY
from tests.support import mixed_models
from tests.support.saturating import write_saturating

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 kernels saturate")


def kept_without_vnni(folder: Path, *, largest: int) -> dict[str, float]:
    """Return what kernels and simulation keep where the processor's best is AVX2."""
    model = write_saturating(folder / "model.xml", largest=largest)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.saturating", str(model), str(largest)],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        timeout=120,
    )
    kept: dict[str, float] = json.loads(done.stdout)
    return kept


@on_x86
def test_kernels_without_vnni_cut_off_what_the_simulation_keeps(tmp_path):
    kept = kept_without_vnni(tmp_path, largest=127)
    assert kept["kernels"] < 20.0
    assert kept["simulation"] > 100.0


@on_x86
def test_with_weights_in_7_bits_kernels_and_simulation_agree(tmp_path):
    kept = kept_without_vnni(tmp_path, largest=63)
    assert kept["kernels"] > 100.0
    assert kept["simulation"] > 100.0


def test_openvino_computes_no_layer_with_integers_in_simulation(tmp_path):
    model = write_saturating(tmp_path / "model.xml", largest=127)
    engine = open_simulation(ModelFormat.OPENVINO_IR, [model])
    precisions = {
        node.get_rt_info()["layerType"].astype(str): node.get_rt_info()["runtimePrecision"].astype(
            str
        )
        for node in engine._compiled.get_runtime_model().get_ordered_ops()
    }
    assert precisions["Convolution"] == "f32"
    assert engine.delegate.endswith("simulation: FakeQuantize in float32")
    engine.close()


def test_openvino_multiplies_float_activations_in_every_layer_in_simulation(tmp_path):
    model = write_linear(tmp_path / "model.xml")
    engines = (
        open_engine(Runtime.OPENVINO, [model]),
        open_simulation(ModelFormat.OPENVINO_IR, [model]),
    )
    assert [taken_by_linear(one) for one in engines] == [["u8"], ["f32"]]


def taken_by_linear(engine: Engine) -> list[str]:
    """Return the types of what OpenVINO's linear layers take, as its execution graph says."""
    nodes = engine._compiled.get_runtime_model().get_ordered_ops()
    return [
        node.input_value(0).get_element_type().get_type_name()
        for node in nodes
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]


def test_openvino_does_not_round_what_a_linear_layer_takes_by_itself(tmp_path):
    engine = open_simulation(ModelFormat.OPENVINO_IR, [write_linear(tmp_path / "model.xml")])
    codes = np.random.default_rng(1).integers(0, 256, (1, LINEAR))
    found = engine.run({"x": (codes / 255).astype(np.float32)})["y"]
    exact = (codes @ linear_weights().T.astype(np.int64)) * (LINEAR_SCALE / 255)
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())
    engine.close()


LINEAR, LINEAR_SCALE = 256, 0.01


def linear_weights() -> np.ndarray:
    return np.random.default_rng(0).integers(-127, 128, (LINEAR, LINEAR)).astype(np.int8)


def write_linear(path: Path) -> Path:
    """Write a linear layer as NNCF would: its input rounded, its weights stored as INT8."""
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter((1, LINEAR), np.float32, name="x")
    ends = [ops.constant(np.float32(end)) for end in (0, 1, 0, 1)]
    stored = ops.convert(ops.constant(linear_weights()), np.float32)
    weights = ops.multiply(stored, ops.constant(np.float32(LINEAR_SCALE)))
    y = ops.matmul(ops.fake_quantize(x, *ends, 256), weights, transpose_a=False, transpose_b=True)
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x], "linear"), path, compress_to_fp16=False)
    return path


def test_litert_simulates_with_reference_kernels(shared_data):
    files = [shared_data / "models" / "kws_int8.tflite"]
    real = open_engine(Runtime.LITERT, files)
    simulated = open_simulation(ModelFormat.TFLITE, files)
    random = np.random.default_rng(0)
    for _ in range(4):
        inputs = {
            spec.name: random.normal(0, 50, spec.shape).astype(np.float32) for spec in real.inputs
        }
        expected, found = (next(iter(one.run(inputs).values())) for one in (real, simulated))
        np.testing.assert_allclose(found, expected, atol=0.05)
    assert real.delegate.startswith("XNNPACK")
    assert simulated.delegate.startswith("none (simulation: reference kernels of LiteRT")


def test_a_jetson_graph_is_simulated_as_it_is_judged(tmp_path):
    mixed_models.write_float(ModelFormat.ONNX_QDQ, tmp_path)
    engine = open_simulation(ModelFormat.ONNX_QDQ, [tmp_path / "float.onnx"])
    assert engine.delegate.endswith("graph optimizations off")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        open_simulation(ModelFormat.TFLITE, [tmp_path / "model.tflite"])


@pytest.mark.parametrize("model_format", ModelFormat)
def test_a_damaged_file_is_the_files_fault(model_format, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"no model at all" * 100)
    with pytest.raises(ReleaseError, match="cannot load"):
        open_simulation(model_format, [file])
