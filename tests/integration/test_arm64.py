"""ARM without hardware: LiteRT, the runner and a whole agent on an emulated arm64 box."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.messages import Report, UpdateState
from asdic.contract.release import Layout
from asdic.contract.target import ModelFormat
from asdic.device.bench.signing import read_result
from asdic.device.runner.runner import Runner
from asdic.fleet.manager import FleetConfig, Push
from asdic.fleet.rollout import Rollout
from asdic.fleet.server import running
from asdic.fleet.signing import ImageRepository
from tests.conftest import missing
from tests.support import arm64_system, litert_outputs, resized_images
from tests.support.arm64 import ArmBox, ArmProcess
from tests.support.models import keyword_inputs, make_keyword_variant
from tests.support.paper_box import wait_for

pytestmark = pytest.mark.slow

TARGET: Final = "arm64-litert-int8"
SIDE: Final = 64
"""Of the U-Net's input: small, as an emulated inference at 256 pixels takes seconds."""

PREDICT: Final = """
import json, sys
from pathlib import Path
from asdic.device.runner.engine import cpu_features
from asdic.device.runner.golden import read_golden
from asdic.device.bench.signing import read_result
from asdic.device.runner.runner import Runner
folder = Path(sys.argv[1])
with Runner.open(folder) as runner:
    answers = [runner.predict(s.inputs).label for s in read_golden(folder / "golden.npz")]
print(json.dumps({"labels": answers, "features": cpu_features()}))
"""


@pytest.fixture(scope="session", autouse=True)
def system() -> Path:
    """The arm64 system's root, which the first test of a fresh machine builds."""
    reason = arm64_system.unavailable_reason()
    if reason is None:
        try:
            return arm64_system.arm64_system()
        except arm64_system.Arm64SystemError as error:
            reason = str(error)
    missing(reason)
    raise AssertionError


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, system: Path, shared_data: Path) -> ArmBox:
    scripts = [Path(litert_outputs.__file__), Path(resized_images.__file__)]
    return ArmBox(tmp_path_factory.mktemp("arm64"), visible=(*scripts, shared_data))


@pytest.fixture(scope="module")
def variant(box: ArmBox, shared_data: Path) -> Path:
    """The keyword network for arm64, its golden set recorded on this x86-64 machine."""
    return make_keyword_variant(box.folder / "variant", shared_data, target=TARGET)


# The same file, the same bits


def images(folder: Path, count: int, side: int, *, channels: int) -> NDArray[np.float32]:
    """Return real ultrasound images as (count, 1, side, side, channels) in 0 to 1."""
    paths = sorted(folder.rglob("*.png"))[:count]
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    read = [image for path in paths if (image := cv2.imread(str(path), flag)) is not None]
    assert len(read) == count
    resized = [cv2.resize(image, (side, side)) for image in read]
    return (np.stack(resized).reshape(count, 1, side, side, channels) / 255).astype(np.float32)


def keywords(shared_data: Path, _folder: Path) -> tuple[Path, NDArray[np.float32]]:
    inputs, _ = keyword_inputs(shared_data, count=200)
    return shared_data / "models" / "kws_int8.tflite", inputs


def wake_words(shared_data: Path, _folder: Path) -> tuple[Path, NDArray[np.float32]]:
    inputs = images(shared_data / "busi", 24, 96, channels=3)
    return shared_data / "models" / "vww_int8.tflite", inputs


def carotid(shared_data: Path, folder: Path) -> tuple[Path, NDArray[np.float32]]:
    """Quantize the real U-Net at a small size, on real images."""
    from asdic.quantization.once import quantize_once
    from asdic.quantization.recipe import Recipe
    from asdic.quantization.source import Reading, read_source

    path = shared_data / "models" / "carotid.pt"
    model = read_source(path, folder, reading=Reading(size=(SIDE, SIDE)))
    inputs = images(shared_data / "timtrack", 8, SIDE, channels=1)
    name = model.description.inputs[0].name
    calibration = [{name: one.reshape(1, 1, SIDE, SIDE)} for one in inputs]
    made = quantize_once(model, ModelFormat.TFLITE, Recipe(), calibration, folder)
    return made.int8_paths[0], inputs


MODELS: Final = MappingProxyType({"kws": keywords, "vww": wake_words, "carotid": carotid})


@pytest.mark.parametrize("name", MODELS)
def test_int8_outputs_equal_those_of_x86_bit_for_bit(
    box: ArmBox, shared_data: Path, name: str
) -> None:
    folder = box.folder / name
    folder.mkdir()
    model, inputs = MODELS[name](shared_data, folder)
    np.savez(folder / "inputs.npz", inputs=inputs)
    done = box.run(
        *("python", litert_outputs.__file__, model),
        *(folder / "inputs.npz", folder / "outputs.npz"),
    )
    assert done.returncode == 0, done.stderr
    expected = litert_outputs.litert_outputs(model, inputs)
    assert all(np.ptp(array) > 0 for array in expected.values()), "the model does answer"
    with np.load(folder / "outputs.npz", allow_pickle=False) as answers:
        assert {name: answers[name].tobytes() for name in answers.files} == {
            name: array.tobytes() for name, array in expected.items()
        }


def test_images_are_resized_to_the_same_bytes(box: ArmBox, shared_data: Path) -> None:
    paths = sorted((shared_data / "busi" / "images").glob("*.png"))[:24]
    flags = itertools.cycle((cv2.IMREAD_GRAYSCALE, cv2.IMREAD_COLOR))
    read = [cv2.imread(str(path), flag) for path, flag in zip(paths, flags, strict=False)]
    images = [np.asarray(image, np.uint8) for image in read if image is not None]
    np.savez(box.folder / "images.npz", *images)
    done = box.run("python", resized_images.__file__, box.folder / "images.npz")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == resized_images.tensor_digests(images)


# The runner


@pytest.fixture(scope="module")
def predicted(box: ArmBox, variant: Path) -> Any:
    done = box.run("python", "-c", PREDICT, variant)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_runner_predicts_there_what_it_predicts_here(
    predicted: Any, variant: Path, shared_data: Path
) -> None:
    inputs, _ = keyword_inputs(shared_data, count=64)
    with Runner.open(variant) as runner:
        assert predicted["labels"] == [runner.predict(one).label for one in inputs]


def test_the_processors_features_are_those_of_an_arm_core(predicted: Any) -> None:
    assert predicted["features"] == ["asimd"]


# The agent


@dataclass(frozen=True, kw_only=True)
class Updated:
    """What came of a rollout to the box, whose agent still runs."""

    state: Path
    log: Path
    agent: ArmProcess
    rollout: Rollout
    report: Report
    public_key: str


@pytest.fixture(scope="module")
def updated(
    box: ArmBox, variant: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Updated]:
    """The box after it enrolled and took a release over MQTT, at a real manager."""
    folder = tmp_path_factory.mktemp("fleet")
    layout = Layout.create(folder / "releases")
    layout.add_release("1.0.0", {TARGET: variant}, security_counter=1)
    ImageRepository(folder / "releases", folder / "keys").sign(layout, "1.0.0")
    state, log = box.folder / "box", box.folder / "agent.log"
    config = FleetConfig(state=folder / "fleet", releases=folder / "releases")
    with running(config) as (serving, fleet):
        token = fleet.inventory.new_token(time.time())
        words = ("--server", serving.url, "--token", token, "--device", "arm-1")
        done = box.run("asdic-agent", "enrol", *words, "--state", state)
        assert done.returncode == 0, done.stderr
        with box.running("asdic-agent", "run", "--state", state, log=log) as agent:
            started = fleet.push(Push(version="1.0.0"))

            def rollout() -> Rollout:
                return fleet.records.get(started.id)

            wait_for(_ended(agent, rollout), f"the rollout ends, see {log}", 120.0)
            assert not agent.has_ended(), log.read_text()
            yield Updated(
                state=state,
                log=log,
                agent=agent,
                rollout=rollout(),
                report=fleet.inventory.reports()["arm-1"],
                public_key=fleet.inventory.select("arm-1")[0].public_key,
            )


def _ended(agent: ArmProcess, rollout: Callable[[], Rollout]) -> Callable[[], bool]:
    return lambda: rollout().state.value in {"finished", "halted"} or agent.has_ended()


def test_the_box_is_found_to_be_an_arm64_target(updated: Updated) -> None:
    assert updated.report.target == TARGET


def test_a_release_sent_over_mqtt_is_committed(updated: Updated) -> None:
    assert updated.rollout.state.value == "finished", updated.log.read_text()
    assert updated.report.state is UpdateState.COMMITTED
    assert updated.report.version == "1.0.0"


def test_outputs_recorded_on_x86_pass_the_gate_there_exactly(updated: Updated) -> None:
    assert updated.report.gate is not None
    assert updated.report.gate.outputs_checked == 8
    assert updated.report.gate.worst_difference == 0.0


def test_the_report_says_what_runs_the_model(updated: Updated) -> None:
    assert updated.report.loaded is not None
    assert updated.report.loaded.inferences > 0
    assert updated.report.runtime is not None
    assert updated.report.runtime.runtime == "litert"
    assert updated.report.runtime.cpu_features == ("asimd",)
    assert not updated.report.runtime.simulated


def test_a_benchmark_there_says_that_it_is_emulated(box: ArmBox, updated: Updated) -> None:
    path = box.folder / "bench.json"
    words = ("--seconds", "0.5", "--cold-starts", "1", "--json", path)
    done = box.run("asdic-agent", "bench", "--state", updated.state, *words)
    assert done.returncode == 0, done.stderr
    result = read_result(path, trusted=[updated.public_key])
    assert result.signer == updated.public_key
    assert result.report.emulated
    assert result.report.machine.architecture == "aarch64"


def test_the_agent_ends_well_when_it_is_asked_to(updated: Updated) -> None:
    assert updated.agent.terminate() == 0
