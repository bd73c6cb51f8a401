"""The runner with the real inference libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asdic.contract.errors import (
    AsdicError,
    ConfigError,
    DataError,
    DigestError,
    InstallError,
    MissingPackageError,
    ReleaseError,
)
from asdic.contract.files import sha256_of
from asdic.contract.target import Runtime
from asdic.contract.variant import (
    VARIANT_FILE,
    ArrayInput,
    ArrayOutput,
    ClassOutput,
    FileRef,
    MaskOutput,
    Requirements,
    TensorSpec,
    encode_variant,
    read_variant,
)
from asdic.device.runner.engine import cpu_features, open_engine, usable_threads
from asdic.device.runner.runner import Runner
from tests.support.models import (
    SIDE,
    keyword_inputs,
    labelled_discs,
    make_keyword_variant,
    make_tiny_variant,
)

IMAGE, MASK = labelled_discs(1)[0]
TARGETS = ("x86-openvino-int8", "jetson-orin-int8")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny variant a target, not to be changed."""
    folder = tmp_path_factory.mktemp("variants")
    for target in TARGETS:
        make_tiny_variant(folder / target, target=target)
    return folder


@pytest.fixture
def copy(variants: Path, tmp_path: Path) -> Path:
    """A tiny OpenVINO variant that a test may damage."""
    return Path(shutil.copytree(variants / TARGETS[0], tmp_path / "variant"))


def open_tiny(variants: Path, target: str = TARGETS[0]) -> Runner:
    return Runner.open(variants / target, simulate=target.startswith("jetson"), threads=1)


def change(folder: Path, **changes: object) -> None:
    """Write the variant's description anew with other values."""
    variant = msgspec.structs.replace(read_variant(folder, check=False), **changes)
    (folder / VARIANT_FILE).write_bytes(encode_variant(variant))


@pytest.mark.parametrize("target", TARGETS)
def test_a_variant_finds_what_it_was_made_for(variants, target):
    with open_tiny(variants, target) as runner:
        mask = runner.predict(IMAGE).mask
    assert mask.shape == IMAGE.shape
    assert np.mean(mask == MASK) > 0.97


@pytest.mark.parametrize("target", TARGETS)
def test_two_runners_give_the_same_bytes(variants, target):
    with open_tiny(variants, target) as first, open_tiny(variants, target) as second:
        answers = [runner.predict(IMAGE).tensors["logits"] for runner in (first, second)]
    assert answers[0].tobytes() == answers[1].tobytes()


@pytest.mark.parametrize("target", TARGETS)
def test_an_answer_belongs_to_the_caller(variants, target):
    with open_tiny(variants, target) as runner:
        first = runner.predict(IMAGE).tensors["logits"]
        kept = first.copy()
        runner.predict(255 - IMAGE)
    np.testing.assert_array_equal(first, kept)


def test_only_a_stand_in_is_called_simulated(variants):
    with open_tiny(variants) as real, open_tiny(variants, "jetson-orin-int8") as stand_in:
        assert not real.facts().simulated
        assert stand_in.facts().simulated
        assert stand_in.facts().runtime == "onnxruntime"


def test_named_tensors_go_in_and_out(variants):
    with open_tiny(variants) as runner:
        outputs = runner.infer({"image": np.ones((1, 1, SIDE, SIDE), np.float32)})
    assert set(outputs) == {"logits"}
    assert outputs["logits"].dtype == np.float32
    # 3 x 3 mean times the gain of 8, less 4.
    assert outputs["logits"][0, 0, 5, 5] == pytest.approx(4.0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_view_that_is_not_contiguous_is_read_as_it_looks(variants, target):
    wide = np.arange(SIDE * SIDE * 2, dtype=np.float32).reshape(1, 1, SIDE, SIDE * 2) / 2048
    view = wide[..., ::2].transpose(0, 1, 3, 2)
    with open_tiny(variants, target) as runner:
        expected = runner.infer({"image": np.ascontiguousarray(view)})["logits"]
        np.testing.assert_array_equal(runner.infer({"image": view})["logits"], expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"takes \['image'\], not \[\]"),
        ({"picture": np.zeros((1, 1, SIDE, SIDE), np.float32)}, r"not \['picture'\]"),
        ({"image": np.zeros((1, 1, SIDE, SIDE))}, "float64"),
        ({"image": np.zeros((1, 1, SIDE, 7), np.float32)}, r"\(1, 1, 32, 7\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(variants, inputs, message):
    with open_tiny(variants) as runner, pytest.raises(DataError, match=message):
        runner.infer(inputs)


def test_a_closed_runner_says_so(variants):
    runner = open_tiny(variants)
    runner.close()
    runner.close()
    with pytest.raises(ConfigError, match="closed"):
        runner.predict(IMAGE)


def test_a_folder_without_a_variant_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"variant\.json is missing"):
        Runner.open(tmp_path)


def test_a_changed_byte_is_found_before_the_runtime_sees_it(copy):
    weights = copy / "model.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestError, match=r"model\.bin has digest"):
        Runner.open(copy)


def test_a_truncated_file_is_refused(copy):
    weights = copy / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DigestError, match="bytes"):
        Runner.open(copy)


def test_a_target_without_a_simulator_cannot_be_simulated(copy):
    with pytest.raises(ConfigError, match="has no simulator"):
        Runner.open(copy, simulate=True)


def test_a_jetson_variant_asks_to_be_simulated(variants):
    with pytest.raises(ConfigError, match="simulated with ONNX Runtime"):
        Runner.open(variants / "jetson-orin-int8")


def test_a_gpu_that_is_not_there_is_missed(copy):
    change(copy, target="x86-openvino-gpu-int8")
    with pytest.raises(ConfigError, match="finds no GPU on this machine, only: CPU"):
        Runner.open(copy)


def test_an_older_runtime_than_the_variant_needs_is_refused(copy):
    change(copy, requires=Requirements(runtime_version="2999.1"))
    with pytest.raises(InstallError, match=r"needs openvino 2999\.1 or newer"):
        Runner.open(copy)


def test_the_oldest_runtime_that_the_variant_allows_is_taken(copy):
    change(copy, requires=Requirements(runtime_version="2026.2"))
    Runner.open(copy).close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (TensorSpec(name="image", shape=(1, 1, 8, 8)),)}, "promises the inputs"),
        ({"outputs": (TensorSpec(name="other", shape=(1,)),)}, "promises the outputs"),
        ({"preprocessing": (ArrayInput(tensor="other"),)}, r"the rules are for \['other'\]"),
        ({"preprocessing": ()}, r"the rules are for \[\]"),
        ({"postprocessing": (ArrayOutput(tensor="other"),)}, r"not \['other'\]"),
    ],
)
def test_a_description_that_does_not_fit_the_model_is_refused(copy, changes, message):
    change(copy, **changes)
    with pytest.raises(ReleaseError, match=message):
        Runner.open(copy)


def test_an_image_rule_of_another_size_is_refused(copy):
    rule = read_variant(copy).preprocessing[0]
    change(copy, preprocessing=(msgspec.structs.replace(rule, height=8),))
    with pytest.raises(ReleaseError, match=r"its rule makes \(1, 1, 8, 32\)"):
        Runner.open(copy)


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        (Runtime.LITERT, "model.tflite"),
        (Runtime.OPENVINO, "model.xml"),
        (Runtime.ONNXRUNTIME, "model.onnx"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"this is no model", bytes(4096)])
def test_a_damaged_model_is_named(tmp_path, runtime, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=f"cannot load .*{name}") as caught:
        open_engine(runtime, [path], threads=1)
    assert "\n" not in str(caught.value)


def test_a_model_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.xml does not exist"):
        open_engine(Runtime.OPENVINO, [tmp_path / "model.xml"])


@pytest.mark.parametrize("runtime", [Runtime.LITERT, Runtime.ONNXRUNTIME])
def test_an_engine_for_the_processor_takes_no_gpu(tmp_path, runtime):
    path = tmp_path / "model"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match="not on 'gpu'"):
        open_engine(runtime, [path], execution_device="gpu")


@pytest.mark.parametrize(
    ("runtime", "hidden", "extra"),
    [
        (Runtime.LITERT, ("ai_edge_litert", "tflite_runtime"), "litert"),
        (Runtime.OPENVINO, ("openvino",), "openvino"),
        (Runtime.ONNXRUNTIME, ("onnxruntime",), "onnxruntime"),
    ],
)
def test_a_missing_runtime_says_what_to_install(tmp_path, monkeypatch, runtime, hidden, extra):
    for module in [name for name in sys.modules if name.split(".")[0] in hidden]:
        monkeypatch.delitem(sys.modules, module)
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say: not installed
    path = tmp_path / "model"
    path.write_bytes(b"x")
    with pytest.raises(MissingPackageError, match=rf"install `asdic\[{extra}\]`"):
        open_engine(runtime, [path])


def test_an_onnx_model_of_free_shape_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, "width"])
        for name in ("a", "b")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a"], ["b"])], "free", value[:1], value[1:]
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(ReleaseError, match="fixed shape"):
        open_engine(Runtime.ONNXRUNTIME, [tmp_path / "free.onnx"], threads=1)


def test_an_onnx_model_of_several_inputs_and_outputs_goes_by_names(tmp_path):
    onnx = pytest.importorskip("onnx")

    def tensor(name):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2])

    nodes = [
        onnx.helper.make_node("Sub", ["a", "b"], ["difference"]),
        onnx.helper.make_node("Add", ["a", "b"], ["sum"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "two", [tensor("a"), tensor("b")], [tensor("sum"), tensor("difference")]
    )
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "two.onnx"
    )
    rules = [ClassOutput(tensor="difference", labels=("no", "yes")), ArrayOutput(tensor="sum")]
    with Runner(
        open_engine(Runtime.ONNXRUNTIME, [tmp_path / "two.onnx"], threads=1),
        preprocessing=[ArrayInput(tensor="b"), ArrayInput(tensor="a")],
        postprocessing=rules,
    ) as runner:
        prediction = runner.predict({"b": np.array([[1, 2]]), "a": np.array([[3, 7]])})
        with pytest.raises(DataError, match=r"several inputs.*\['b', 'a'\]"):
            runner.predict(np.array([[1, 2]]))
    np.testing.assert_array_equal(prediction.outputs["sum"], [[4, 9]])
    np.testing.assert_array_equal(prediction.scores, [2, 5])
    assert prediction.label == "yes"


def test_real_keywords_are_recognized_by_a_full_int8_file(shared_data, tmp_path):
    values, labels = keyword_inputs(shared_data)
    with Runner.open(make_keyword_variant(tmp_path / "kws", shared_data), threads=1) as runner:
        found = [runner.predict(value).scores.argmax() for value in values]
    # The MLPerf Tiny reference states about 90 %; this file gave 90.2 % on these inputs.
    assert np.mean(found == labels) == pytest.approx(0.902, abs=0.005)


def test_int8_inputs_saturate_instead_of_wrapping(shared_data):
    path = shared_data / "models" / "kws_int8.tflite"
    with Runner(
        open_engine(Runtime.LITERT, [path], threads=1),
        preprocessing=[ArrayInput(tensor="input_1")],
        postprocessing=[ArrayOutput(tensor="Identity")],
    ) as runner:
        edge = np.full((1, 49, 10, 1), (127 - 83) * 0.5847029, np.float32)
        beyond = np.full((1, 49, 10, 1), 1e6, np.float32)
        np.testing.assert_array_equal(
            runner.predict(edge).outputs["Identity"], runner.predict(beyond).outputs["Identity"]
        )


def test_int8_and_float_keywords_agree_mostly(shared_data):
    values, _ = keyword_inputs(shared_data, count=200)
    found = []
    for name in ("kws_int8.tflite", "kws_fp32.tflite"):
        engine = open_engine(Runtime.LITERT, [shared_data / "models" / name], threads=1)
        rule = ClassOutput(tensor=engine.outputs[0].name)
        with Runner(
            engine,
            preprocessing=[ArrayInput(tensor=engine.inputs[0].name)],
            postprocessing=[rule],
        ) as runner:
            found.append([runner.predict(value).scores.argmax() for value in values])
    assert np.mean(np.array(found[0]) == found[1]) > 0.95


def test_threads_are_those_that_the_process_may_use():
    allowed = {min(os.sched_getaffinity(0))}
    program = "from asdic.device.runner.engine import usable_threads; print(usable_threads())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    assert int(done.stdout) == 1
    assert 1 <= usable_threads() <= len(os.sched_getaffinity(0))


def test_cpu_features_are_those_that_the_kernel_shows():
    shown = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert set(cpu_features()) <= set(shown)
    assert list(cpu_features()) == sorted(cpu_features())


def test_no_failure_of_opening_escapes_as_a_foreign_exception(copy):
    path = copy / "model.xml"
    path.write_text("<net name='x' version='11'></net>", encoding="utf-8")
    reference = FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
    change(copy, files=(reference, *read_variant(copy, check=False).files[1:]))
    with pytest.raises(AsdicError):
        Runner.open(copy)


def test_a_mask_rule_that_does_not_fit_the_tensor_is_refused(copy):
    change(copy, postprocessing=(MaskOutput(tensor="logits", activation="softmax"),))
    with Runner.open(copy, threads=1) as runner, pytest.raises(ReleaseError, match="1 channels"):
        runner.predict(IMAGE)
