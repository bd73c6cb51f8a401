"""Where a runner's memory comes from: made once, or the caller's; and OpenVINO's cache."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import DataError
from asdic.contract.variant import ArrayInput, ImageInput
from asdic.device.runner.cache import VARIABLE, cache_folder
from asdic.device.runner.openvino import _settings
from asdic.device.runner.preprocess import Preparation, prepare
from asdic.device.runner.runner import Runner
from tests.support.models import (
    SIDE,
    labelled_discs,
    make_keyword_variant,
    make_tiny_variant,
)

IMAGE, _ = labelled_discs(1)[0]
SHAPE = (1, 1, SIDE, SIDE)
TARGETS = ("x86-openvino-int8", "jetson-orin-int8")
FRAMES = 200
# OpenVINO's Python objects reach about 14 kB and stay there; a kept array a frame is 720 kB.
SLACK_BYTES = 32 << 10


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    for target in TARGETS:
        make_tiny_variant(folder / target, target=target)
    return folder


@pytest.fixture(params=TARGETS)
def runner(variants: Path, request: pytest.FixtureRequest) -> Iterator[Runner]:
    simulate = request.param.startswith("jetson")
    with Runner.open(variants / request.param, simulate=simulate, threads=1) as runner:
        yield runner


def bright(level: float) -> dict[str, np.ndarray]:
    return {"image": np.full(SHAPE, level, np.float32)}


def test_answers_are_written_to_the_callers_arrays(runner):
    into = {"logits": np.empty(SHAPE, np.float32)}
    for level in (0.2, 1.0, 0.5):
        expected = runner.infer(bright(level))["logits"]
        answers = runner.infer(bright(level), into=into)
        assert answers["logits"] is into["logits"]
        np.testing.assert_array_equal(into["logits"], expected)


def test_two_sets_of_arrays_can_take_turns(runner):
    first, second = ({"logits": np.empty(SHAPE, np.float32)} for _ in range(2))
    runner.infer(bright(0.2), into=first)
    runner.infer(bright(1.0), into=second)
    kept = second["logits"].copy()
    runner.infer(bright(0.5), into=first)
    np.testing.assert_array_equal(second["logits"], kept)
    np.testing.assert_array_equal(first["logits"], runner.infer(bright(0.5))["logits"])


def test_integers_of_litert_are_written_as_real_values(tmp_path, shared_data):
    folder = make_keyword_variant(tmp_path / "keywords", shared_data)
    random = np.random.default_rng(0)
    with Runner.open(folder, threads=1) as runner:
        spec = runner.outputs[0]
        inputs = {"input_1": random.normal(0, 40, runner.inputs[0].shape).astype(np.float32)}
        into = {spec.name: np.empty(spec.shape, np.float32)}
        runner.infer(inputs, into=into)
        expected = runner.infer(inputs)[spec.name]
    assert into[spec.name].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("into", "message"),
    [
        ({}, r"answers \['logits'\], not \[\]"),
        ({"logits": np.empty((1, 1, SIDE, 7), np.float32)}, r"\(1, 1, 32, 7\)"),
        ({"logits": np.empty(SHAPE)}, "float64"),
        ({"logits": np.empty((1, 1, SIDE, 2 * SIDE), np.float32)[..., ::2]}, "contiguous"),
        ({"logits": np.broadcast_to(np.float32(0), SHAPE)}, "writable"),
    ],
)
def test_arrays_that_answers_do_not_fit_into_are_refused(runner, into, message):
    with pytest.raises(DataError, match=message):
        runner.infer(bright(1.0), into=into)


@pytest.mark.parametrize("image", [IMAGE, np.repeat(IMAGE, 5, 0).repeat(5, 1)])
def test_many_frames_take_no_more_memory_than_few(runner, image):
    assert grown_bytes(lambda: runner.predict(image)) < SLACK_BYTES


def test_many_inferences_into_the_callers_arrays_take_no_more_memory_than_few(runner):
    inputs, into = bright(1.0), {"logits": np.empty(SHAPE, np.float32)}
    assert grown_bytes(lambda: runner.infer(inputs, into=into)) < SLACK_BYTES


def grown_bytes(work: Callable[[], object]) -> int:
    """Return how much more is held after ``FRAMES`` rounds than after a tenth of them."""
    tracemalloc.start()
    try:
        held = []
        for rounds in (FRAMES // 10, FRAMES):
            for _ in range(rounds):
                work()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return held[1] - held[0]


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_prepared_rules_give_what_fresh_ones_give(color, layout):
    rules = [
        ImageInput(tensor="image", height=24, width=30, color=color, layout=layout),
        ArrayInput(tensor="depth"),
    ]
    random = np.random.default_rng(3)
    prepared = Preparation(rules)
    for shape in ((24, 30), (50, 70, 3), (24, 30, 3), (10, 90), (60, 61)):
        inputs = {
            "image": random.integers(0, 256, shape, np.uint8),
            "depth": random.normal(size=4).astype(np.float32),
        }
        expected = prepare(inputs, rules)
        for name, tensor in prepared.tensors(inputs).items():
            np.testing.assert_array_equal(tensor, expected[name])
            assert tensor.flags.c_contiguous


def test_a_gpus_kernels_are_kept_and_a_processor_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for device in ("GPU", "NPU"):
        assert _settings(device, 2)["CACHE_DIR"] == str(tmp_path / "openvino")
    assert "CACHE_DIR" not in _settings("CPU", 2)
    assert _settings("CPU", 2)["INFERENCE_NUM_THREADS"] == 2


def test_a_cache_belongs_to_its_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    folder = cache_folder("tensorrt")
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert cache_folder("tensorrt") is None


def test_without_a_place_there_is_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert cache_folder("tensorrt") is None
    assert "CACHE_DIR" not in _settings("GPU", 2)


def test_the_cache_is_where_the_system_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("openvino") == tmp_path / "xdg" / "asdic" / "openvino"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("openvino") == tmp_path / "home" / ".cache" / "asdic" / "openvino"
