"""Every option of a recipe, carried out by the real tools on small networks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.device.metrics import sqnr_db
from asdic.device.runner.engine import open_engine
from asdic.quantization.backends.backend import BACKENDS, FloatFiles, Tensors, Write
from asdic.quantization.backends.placement import check_placement
from asdic.quantization.frontends.tflite import from_tflite
from asdic.quantization.graphs.graph import open_graph
from asdic.quantization.recipe import LADDERS, parse_recipe
from asdic.quantization.sensitivity import RUNTIMES, Measurement, Sensitivities
from tests.support import mixed_models

FORMATS = tuple(ModelFormat)
OURS = (ModelFormat.TFLITE, ModelFormat.ONNX_QDQ)
"""Where the ranges are ours. OpenVINO numbers what NNCF inserts on through the process, so that
its files are the same from process to process only: ``test_quantize.py`` holds that."""
COUNT = 6
OPTIONS = {
    ModelFormat.TFLITE: (
        *("best-layers", "percentile", "average", "mse", "mse10-layers"),
        *("minmax-full-bias", "best-full-bias-layers"),
    ),
    ModelFormat.OPENVINO_IR: (
        *("average", "percentile", "mse-layers", "minmax-overflow", "minmax-smooth-mixed"),
        *("minmax-bias", "minmax-mixed-full-bias"),
    ),
    ModelFormat.ONNX_QDQ: (
        *("best", "average", "percentile", "mse", "mse10", "entropy-layers", "minmax-bias"),
        "minmax-full-bias-layers",
    ),
}
EACH = [(one, recipe) for one, recipes in OPTIONS.items() for recipe in recipes]


@dataclass(frozen=True)
class Source:
    """Float files and inputs of one format."""

    model_format: ModelFormat
    folder: Path
    files: FloatFiles
    samples: Sequence[Tensors]

    def write(self, recipe: str) -> Write:
        """Return what writes the INT8 files of a recipe."""
        module, name = BACKENDS[self.model_format].split(":")
        prepare = getattr(importlib.import_module(module), name)
        chosen = parse_recipe(f"static-wi8-ai8-{recipe}", self.model_format)
        write: Write = prepare(self.files, self.folder, self.samples, chosen)
        return write

    def answers(self, paths: Sequence[Path]) -> np.ndarray:
        """Return what the runtime that judges answers to the inputs."""
        with closing(open_engine(RUNTIMES[self.model_format], paths, threads=1)) as engine:
            found = [engine.run(one) for one in self.samples]
        return np.concatenate([tensor.ravel() for one in found for tensor in one.values()])

    @property
    def paths(self) -> list[Path]:
        """The float files."""
        return [self.folder / name for name in self.files.files]


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path
) -> Callable[[ModelFormat], Source]:
    """The network of a format: hand-made, or MLPerf Tiny's keyword spotting."""
    made: dict[ModelFormat, Source] = {}
    for one in (ModelFormat.OPENVINO_IR, ModelFormat.ONNX_QDQ):
        folder = tmp_path_factory.mktemp(one.value)
        files = mixed_models.write_float(one, folder)
        made[one] = Source(one, folder, files, mixed_models.inputs(COUNT))
    folder = tmp_path_factory.mktemp("keywords")
    found = from_tflite(shared_data / "models" / "kws_fp32.tflite", folder, {})
    files = FloatFiles(
        name="kws",
        files=found.files,
        inputs=found.inputs,
        outputs=found.outputs,
        preprocessing=(),
        postprocessing=(),
    )
    with np.load(shared_data / "keywords" / "inputs_int8.npz") as archive:
        inputs = archive["x"][:COUNT].reshape(COUNT, *found.inputs[0].shape).astype(np.float32)
    name = found.inputs[0].name
    samples = [{name: one} for one in inputs]
    made[ModelFormat.TFLITE] = Source(ModelFormat.TFLITE, folder, files, samples)
    return made.__getitem__


@pytest.mark.parametrize(("model_format", "recipe"), EACH)
def test_every_range_and_option_answers_nearly_as_float_does(
    sources: Callable[[ModelFormat], Source],
    tmp_path: Path,
    model_format: ModelFormat,
    recipe: str,
) -> None:
    source = sources(model_format)
    files = source.write(recipe)(tmp_path)
    int8 = source.answers([tmp_path / name for name in files.files])
    assert sqnr_db(source.answers(source.paths), int8) > 10.0


@pytest.mark.parametrize("model_format", OURS)
def test_the_first_rung_writes_the_same_bytes_again(
    sources: Callable[[ModelFormat], Source], tmp_path: Path, model_format: ModelFormat
) -> None:
    recipe = LADDERS[model_format][0].name.removeprefix("static-wi8-ai8-")
    contents = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = sources(model_format).write(recipe)(folder)
        contents.append([(folder / name).read_bytes() for name in files.files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("model_format", FORMATS)
def test_a_layer_that_is_named_stays_float_alone(
    sources: Callable[[ModelFormat], Source], tmp_path: Path, model_format: ModelFormat
) -> None:
    source = sources(model_format)
    with open_graph(model_format, source.paths) as graph:
        chosen = max((one for one in graph.layers if one.macs), key=lambda one: one.macs)
    files = source.write("minmax")(tmp_path, (chosen.name,))
    with open_graph(model_format, [tmp_path / name for name in files.files]) as graph:
        floats = {one.name for one in graph.layers if one.macs and not one.is_int8}
    assert floats == {chosen.name}


@pytest.mark.parametrize("model_format", OURS)
def test_corrected_biases_take_the_mean_errors_of_the_layers_away(
    sources: Callable[[ModelFormat], Source], tmp_path: Path, model_format: ModelFormat
) -> None:
    source = sources(model_format)

    def mean_errors(recipe: str) -> float:
        folder = tmp_path / recipe
        folder.mkdir()
        files = source.write(recipe)(folder)
        paths = [folder / name for name in files.files]
        with open_graph(model_format, source.paths) as exact, open_graph(model_format, paths) as q:
            names = [one.name for one in q.layers if one.macs and one.is_int8]
            errors = [
                {name: q.run(one)[name] - exact.run(one)[name] for name in names}
                for one in source.samples
            ]
        channel = -1 if model_format is ModelFormat.TFLITE else 1
        means = [
            np.mean([np.moveaxis(one[name], channel, -1) for one in errors], axis=0)
            .reshape(-1, errors[0][name].shape[channel])
            .mean(axis=0)
            for name in names
        ]
        return float(sum(np.square(one).sum() for one in means))

    assert mean_errors("mse-full-bias-layers") < mean_errors("mse-layers") / 4


@pytest.mark.parametrize("model_format", OURS)
def test_a_layer_that_is_not_there_cannot_stay_float(
    sources: Callable[[ModelFormat], Source], tmp_path: Path, model_format: ModelFormat
) -> None:
    with pytest.raises(QuantizationError, match=r"there is no (layer|node) 'nowhere'"):
        sources(model_format).write("minmax")(tmp_path, ("nowhere",))


@pytest.mark.parametrize("model_format", OURS)
def test_nan_in_an_input_is_refused(
    sources: Callable[[ModelFormat], Source], model_format: ModelFormat
) -> None:
    source = sources(model_format)
    broken = [{name: np.full_like(one, np.nan) for name, one in source.samples[0].items()}]
    source = Source(model_format, source.folder, source.files, broken)
    with pytest.raises(QuantizationError, match=r"the tensor '.*' holds NaN or infinity"):
        source.write("mse")


@pytest.mark.parametrize("recipe", ["best", "best-layers", "minmax-bias"])
def test_all_layers_of_the_jetsons_graph_are_placed_as_tensorrt_wants(
    sources: Callable[[ModelFormat], Source], tmp_path: Path, recipe: str
) -> None:
    sources(ModelFormat.ONNX_QDQ).write(recipe)(tmp_path)
    placement = check_placement(onnx.load(tmp_path / "model.onnx"))
    assert placement.layers == placement.int8_layers == len(mixed_models.MACS)


@pytest.fixture(scope="module")
def measured(
    sources: Callable[[ModelFormat], Source], tmp_path_factory: pytest.TempPathFactory
) -> dict[ModelFormat, tuple[Sensitivities, Path]]:
    """The sensitivities of LiteRT's and TensorRT's layers, and where they were measured."""
    found = {}
    for one in OURS:
        source, folder = sources(one), tmp_path_factory.mktemp("sensitivity")
        measurement = Measurement(
            model=source.files,
            source=source.folder,
            model_format=one,
            samples=source.samples,
            write=source.write("minmax-layers"),
        )
        found[one] = (measurement.sensitivities(folder), folder)
    return found


def test_the_most_sensitive_layer_left_float_helps_more_than_the_least(
    sources: Callable[[ModelFormat], Source],
    measured: dict[ModelFormat, tuple[Sensitivities, Path]],
    tmp_path: Path,
) -> None:
    source = sources(ModelFormat.TFLITE)
    names = measured[ModelFormat.TFLITE][0].first(99)
    exact, gained = source.answers(source.paths), []
    for layer in (names[0], names[-1]):
        files = source.write("minmax-layers")(tmp_path, (layer,))
        gained.append(sqnr_db(exact, source.answers([tmp_path / one for one in files.files])))
    assert gained[0] > gained[1]


@pytest.mark.parametrize("model_format", OURS)
def test_shares_of_the_noise_come_in_order_and_sum_up(
    measured: dict[ModelFormat, tuple[Sensitivities, Path]], model_format: ModelFormat
) -> None:
    found, folder = measured[model_format]
    shares = [one.noise_share for one in found.measured]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    assert list(folder.iterdir()) == []
