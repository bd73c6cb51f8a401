"""TensorRT's engine up to the library's border, where a double stands; see its module."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asdic.contract.bench import Build
from asdic.contract.errors import ConfigError, InstallError, ReleaseError
from asdic.contract.target import Runtime
from asdic.device.runner import plans
from asdic.device.runner.cache import VARIABLE
from asdic.device.runner.cuda import Cuda
from asdic.device.runner.engine import open_engine
from asdic.device.runner.plans import PLANS_KEPT, Fingerprint, PlanCache, fingerprint_of
from asdic.device.runner.runner import Runner
from asdic.device.runner.tensorrt import TensorRtEngine, build_plan, log_of
from asdic.device.update.machine import Machine
from asdic.device.update.trial import measure_candidate
from tests.conftest import missing
from tests.support.models import SIDE, labelled_discs, make_tiny_variant
from tests.support.tensorrt_double import CudaDouble, DataType, WrongOrderError, make_tensorrt
from tests.support.tensorrt_double import Runtime as RuntimeDouble

IMAGE, MASK = labelled_discs(1)[0]
# Another plan, though the same model: protobuf passes over what it does not know.
UNKNOWN_FIELD = b"\xf8\x7f\x00"
BUILD = [
    *("Builder", "create_network", "OnnxParser", "parse", "create_builder_config"),
    "build_serialized_network",
]
LOAD = [
    *("Runtime", "deserialize_cuda_engine", "create_execution_context"),
    *("set_tensor_address", "set_tensor_address"),
]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_variant(tmp_path_factory.mktemp("v") / "jetson", target="jetson-orin-int8")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CudaDouble:
    """A machine whose libcudart is the double, with an empty cache."""
    double = CudaDouble()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: double)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return double


@pytest.fixture
def tensorrt(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The double of the library, where Python imports ``tensorrt`` from."""
    module = make_tensorrt(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def opened(variant: Path) -> TensorRtEngine:
    engine = open_engine(
        Runtime.TENSORRT, [variant / "model.onnx"], threads=1, execution_device="gpu"
    )
    assert isinstance(engine, TensorRtEngine)
    return engine


def test_a_jetson_variant_finds_what_it_was_made_for(variant, tensorrt):
    with Runner.open(variant) as runner:
        assert np.mean(runner.predict(IMAGE).mask == MASK) > 0.97
        assert not runner.facts().simulated
        assert runner.facts().version == "10.3.0"


def test_answers_are_those_of_the_simulation_byte_for_byte(variant, tensorrt):
    with Runner.open(variant) as runner, Runner.open(variant, simulate=True, threads=1) as other:
        for image in (IMAGE, 255 - IMAGE):
            answers = [one.predict(image).tensors["logits"] for one in (runner, other)]
            assert answers[0].tobytes() == answers[1].tobytes()


def test_an_engine_is_built_loaded_and_run_in_the_order_of_the_library(variant, tensorrt, cuda):
    with Runner.open(variant) as runner:
        assert tensorrt.calls == BUILD + LOAD
        cuda.calls.clear()
        runner.predict(IMAGE)
    inference = ["cudaMemcpyAsync-in", "execute", "cudaMemcpyAsync-out", "cudaStreamSynchronize"]
    assert cuda.calls[:4] == inference


def test_the_second_start_builds_nothing(variant, tensorrt):
    opened(variant).close()
    tensorrt.calls.clear()
    engine = opened(variant)
    assert not engine.is_new
    assert engine.build == Build(from_cache=True, seconds=None)
    assert tensorrt.calls == LOAD
    engine.close()


@pytest.mark.parametrize("change", ["driver", "chip", "version", "power mode", "system"])
def test_a_changed_machine_builds_anew(variant, tensorrt, cuda, tmp_path, monkeypatch, change):
    monkeypatch.setattr(
        "asdic.device.runner.tensorrt.fingerprint_of",
        lambda model, **facts: fingerprint_of(model, root=tmp_path, **facts),
    )
    opened(variant).close()
    match change:
        case "driver":
            cuda.driver = 12080
        case "chip":
            cuda.chip = (8, 6)
        case "version":
            tensorrt.__version__ = "10.4.0"
        case "power mode":
            (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
            (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002 fmode:fanNull\n")
        case "system":
            (tmp_path / "etc").mkdir()
            (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    engine = opened(variant)
    assert engine.is_new
    engine.close()


def test_the_first_start_says_how_long_it_built_and_who_computes(variant, tensorrt):
    engine = opened(variant)
    assert not engine.build.from_cache
    assert engine.build.seconds > 0
    assert engine.delegate == f"TensorRT {tensorrt.__version__}"
    engine.close()


@pytest.fixture
def trial(variant, tensorrt, tmp_path, monkeypatch):
    """What a trial found that kept its plan in a release's own folder."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gated"))
    found = measure_candidate(variant, baseline=None, simulate=False, seconds=0.05)
    assert tensorrt.calls.count("build_serialized_network") == 1
    tensorrt.calls.clear()
    return found


def test_the_plan_that_the_trial_built_is_the_one_that_the_runner_loads(variant, tensorrt, trial):
    with Runner.open(variant) as runner:
        assert tensorrt.calls == LOAD
        assert runner.facts() == trial.runtime
        assert not Machine(system="", trial=trial.runtime).differs("", runner.facts())


def test_a_plan_for_a_new_driver_is_another_machine_at_the_gate(variant, tensorrt, trial, cuda):
    cuda.driver = 12080
    with Runner.open(variant) as runner:
        assert tensorrt.calls == BUILD + LOAD
        assert Machine(system="", trial=trial.runtime).differs("", runner.facts())
        rebuilt = runner.facts()
    tensorrt.calls.clear()
    again = measure_candidate(variant, baseline=None, simulate=False, seconds=0.05)
    assert "build_serialized_network" not in tensorrt.calls
    assert again.runtime == rebuilt


def test_a_plan_that_nothing_has_gated_is_another_machine_at_the_gate(
    variant, tensorrt, trial, tmp_path
):
    (plan,) = (tmp_path / "gated" / "tensorrt").glob("*.plan")
    stored = plan.read_bytes()[32:] + UNKNOWN_FIELD
    plan.write_bytes(hashlib.sha256(stored).digest() + stored)
    with Runner.open(variant) as runner:
        assert Machine(system="", trial=trial.runtime).differs("", runner.facts())


def test_a_damaged_plan_is_built_anew_and_never_loaded(variant, tensorrt, tmp_path):
    opened(variant).close()
    (plan,) = (tmp_path / "cache" / "tensorrt").glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    engine = opened(variant)
    assert engine.is_new
    engine.close()


def test_a_cache_that_others_can_write_to_is_not_used(variant, tensorrt, tmp_path):
    opened(variant).close()
    (tmp_path / "cache" / "tensorrt").chmod(0o777)
    engine = opened(variant)
    assert engine.is_new
    engine.close()


def test_the_cache_keeps_the_newest_plans(tmp_path):
    cache = PlanCache(tmp_path)
    prints = [_fingerprint(f"sm_{number}") for number in range(PLANS_KEPT + 2)]
    for number, one in enumerate(prints):
        cache.write(one, b"plan")
        times = (number, number)
        os.utime(tmp_path / f"{one.name}.plan", times)
    assert [cache.read(one) is not None for one in prints] == [False] * 2 + [True] * PLANS_KEPT


def test_without_a_cache_every_start_builds(tmp_path):
    cache = PlanCache(None)
    cache.write(_fingerprint("sm_87"), b"plan")
    assert cache.read(_fingerprint("sm_87")) is None


def test_what_the_parser_refuses_is_named(variant, tensorrt, cuda):
    tensorrt.parse_errors = ["zero point of node dq is not 0", "another"]
    with pytest.raises(ReleaseError, match=r"cannot load .*model\.onnx: zero point of node dq"):
        opened(variant)
    assert not cuda.memory
    assert not cuda.streams


def test_a_model_without_a_kernel_is_refused_with_the_librarys_reason(variant, tensorrt):
    tensorrt.builds = False
    with pytest.raises(ReleaseError, match=r"cannot build an engine .* no kernel for Conv"):
        opened(variant)


def test_a_plan_that_does_not_load_is_said(variant, tensorrt):
    tensorrt.loads = False
    with pytest.raises(InstallError, match="cannot load its own engine"):
        opened(variant)


def test_a_model_of_halves_is_refused(variant, tensorrt):
    tensorrt.dtype = DataType.HALF
    with pytest.raises(ReleaseError, match="float32"):
        opened(variant)


def test_a_failure_of_cuda_names_the_call_and_leaves_nothing(variant, tensorrt, cuda):
    cuda.fails["cudaMalloc"] = 2
    with pytest.raises(InstallError, match="cudaMalloc failed with error 2: out of memory"):
        opened(variant)
    assert not cuda.streams


def test_closing_frees_what_was_taken(variant, tensorrt, cuda):
    engine = opened(variant)
    assert cuda.memory
    engine.close()
    engine.close()
    assert not cuda.memory
    assert not cuda.streams


def test_answers_can_be_written_to_the_callers_memory(variant, tensorrt):
    into = {"logits": np.full((1, 1, SIDE, SIDE), np.nan, np.float32)}
    inputs = {"image": np.ones((1, 1, SIDE, SIDE), np.float32)}
    with Runner.open(variant) as runner:
        answers = runner.infer(inputs, into=into)
    assert answers["logits"] is into["logits"]
    assert into["logits"][0, 0, 5, 5] == pytest.approx(4.0)


def test_without_tensorrt_it_says_where_it_comes_from(variant, cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        ConfigError, match="TensorRT is not installed; on a Jetson it comes with JetPack"
    ):
        opened(variant)


def test_without_cuda_it_says_where_it_comes_from(variant, tensorrt, monkeypatch):
    def nothing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    with pytest.raises(ConfigError, match=r"libcudart.* comes with JetPack"):
        opened(variant)


def test_an_old_tensorrt_is_refused(variant, tensorrt):
    tensorrt.__version__ = "8.6.2"
    with pytest.raises(ConfigError, match=r"TensorRT 8\.6\.2 is too old"):
        opened(variant)


def test_the_processor_is_no_place_for_tensorrt(variant, tensorrt):
    with pytest.raises(ConfigError, match="on the gpu, not on 'cpu'"):
        open_engine(Runtime.TENSORRT, [variant / "model.onnx"], threads=1)


def test_the_double_refuses_an_inference_without_addresses(variant, cuda):
    module = make_tensorrt(cuda)
    model = (variant / "model.onnx").read_bytes()
    complaints = log_of(module)
    plan = build_plan(module, complaints, model, variant, 1)
    stream = Cuda(cuda).stream
    engine = module.Runtime(complaints).deserialize_cuda_engine(plan)
    with pytest.raises(WrongOrderError, match="no address"):
        engine.create_execution_context().execute_async_v3(stream)


def test_the_double_refuses_to_build_what_was_not_parsed(cuda):
    module = make_tensorrt(cuda)
    builder = module.Builder(log_of(module))
    with pytest.raises(WrongOrderError, match="nothing was parsed"):
        builder.build_serialized_network(
            builder.create_network(1 << module.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
            builder.create_builder_config(),
        )


def test_the_double_refuses_bytes_that_are_no_plan(cuda):
    module = make_tensorrt(cuda)
    with pytest.raises(WrongOrderError, match="no plan"):
        RuntimeDouble(module, cuda, log_of(module)).deserialize_cuda_engine(b"rubbish")


def test_every_setting_is_part_of_the_fingerprint():
    assert _fingerprint("sm_87") != Fingerprint(
        **{**_facts("sm_87"), "settings": plans.SETTINGS + "x"}
    )
    assert _fingerprint("sm_87").name != _fingerprint("sm_86").name


@pytest.mark.tensorrt_rtx
def test_a_real_builder_takes_the_calls_that_the_double_takes(variant):
    """TensorRT-RTX has the same Python API, and builds without a GPU; it is not a Jetson's."""
    try:
        import tensorrt_rtx
    except ImportError:
        missing("no TensorRT-RTX; install the wheel tensorrt-rtx")
        raise
    model = (variant / "model.onnx").read_bytes()
    plan = build_plan(tensorrt_rtx, log_of(tensorrt_rtx), model, variant, 1)
    assert len(plan) > 1_000


@pytest.mark.tensorrt_rtx
def test_a_real_parser_names_what_it_refuses():
    try:
        import tensorrt_rtx
    except ImportError:
        missing("no TensorRT-RTX; install the wheel tensorrt-rtx")
        raise
    with pytest.raises(ReleaseError, match=r"TensorRT cannot load bad\.onnx: "):
        build_plan(tensorrt_rtx, log_of(tensorrt_rtx), b"rubbish", Path("bad.onnx"), 1)


def _facts(chip: str) -> dict[str, str]:
    return {
        "model": "sha256:0",
        "chip": chip,
        "runtime": "10.3.0",
        "driver": "12060/12060",
        "system": "",
        "power_mode": "",
    }


def _fingerprint(chip: str) -> Fingerprint:
    return Fingerprint(**_facts(chip))
