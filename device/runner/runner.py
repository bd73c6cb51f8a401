"""A loaded model with its pre- and postprocessing: enter, infer, exit.

::

    with Runner.open(Path("variants/x86-openvino-int8")) as runner:
        mask = runner.predict(image).mask

The quantizer's gate, the device and a user's own program use this same class.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError, InstallError, ReleaseError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import Runtime, Target, target_named
from asdic.contract.variant import (
    ImageInput,
    InputRule,
    OutputRule,
    TensorSpec,
    Variant,
    read_variant,
)
from asdic.device.runner.engine import BuiltEngine, Engine, Tensors, cpu_features, open_engine
from asdic.device.runner.postprocess import Prediction, interpret
from asdic.device.runner.preprocess import Preparation
from asdic.device.runner.stream import STALL_S, WAITING, FrameSource, Keep, Stages, Stream


class Runner:
    """A loaded model. Not for use by two threads at once.

    Args:
        engine: The loaded model.
        preprocessing: One rule for each of its inputs.
        postprocessing: One rule for each output that is of interest.
        variant: The description that it was opened from, if there is one.

    Attributes:
        load_s: What ``open`` took, digests and the runtime's import included.
        build: How the runtime came by what it runs; None where it runs the file as it is.

    Raises:
        ReleaseError: The rules, or the variant's named tensors, do not fit the model.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        preprocessing: Sequence[InputRule],
        postprocessing: Sequence[OutputRule],
        variant: Variant | None = None,
    ) -> None:
        self.variant = variant
        self.load_s = 0.0
        self.build = engine.build
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.preprocessing = tuple(preprocessing)
        self.postprocessing = tuple(postprocessing)
        self._engine: Engine | None = engine
        self._stream: Stream | None = None
        self._facts = _facts(engine, variant)
        self._shapes = {spec.name: spec.shape for spec in engine.inputs}
        self._output_shapes = {spec.name: spec.shape for spec in engine.outputs}
        _check_rules(self)
        self._preparation = Preparation(self.preprocessing)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        simulate: bool = False,
        threads: int | None = None,
        check: bool = True,
    ) -> Runner:
        """Return the variant in ``folder``, loaded by its target's runtime.

        Args:
            folder: ``variant.json`` and the files that it names.
            simulate: Use the runtime that may stand in for the target's; what it reports is
                marked as simulated.
            threads: Processor threads for one inference; None takes all usable ones.
            check: Compare each file with its digest first.

        Raises:
            ConfigError: There is no variant, or no engine or simulator for its target.
            MissingPackageError: The runtime is not installed.
            InstallError: The runtime is older than the variant asks for.
            DigestError: A file differs from its description.
            ReleaseError: The model is damaged, or does not fit its description.
        """
        started = time.perf_counter()
        variant = read_variant(folder, check=check)
        target = target_named(variant.target)
        engine = open_engine(
            _simulator(target) if simulate else variant.runtime,
            [folder / file.name for file in variant.files],
            threads=threads,
            execution_device="cpu" if simulate else target.execution_device,
        )
        try:
            _check_version(engine, variant)
            runner = cls(
                engine,
                preprocessing=variant.preprocessing,
                postprocessing=variant.postprocessing,
                variant=variant,
            )
        except BaseException:
            engine.close()
            raise
        runner.load_s = time.perf_counter() - started
        return runner

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def infer(self, inputs: Tensors, into: Tensors | None = None) -> dict[str, NDArray[np.float32]]:
        """Return the model's own answers (float32) for tensors (float32), all by name.

        Args:
            inputs: One tensor for each of the model's inputs.
            into: One array (float32, contiguous, writable) for each of its outputs, to which the
                answers are written, for callers that want no new memory a frame. None makes new
                arrays.

        Raises:
            DataError: A name, shape or dtype is not the model's.
            ConfigError: The runner is closed.
        """
        self._check_tensors(inputs)
        if into is not None:
            self._check_targets(into)
        return self._open_engine().run(inputs, into)

    def predict(self, inputs: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Prediction:
        """Return what the model says about an image, or about several named inputs.

        Args:
            inputs: An image (uint8, (H, W) or (H, W, 3) RGB) or array for a model with one
                input; a mapping from tensor name to image or array for any model.

        Raises:
            DataError: An input does not fit.
            ReleaseError: An answer does not fit its rule, or is not a number.
            ConfigError: The runner is closed.
        """
        engine = self._open_engine()
        named = self._named(inputs)
        tensors = self._preparation.tensors(named)
        self._check_tensors(tensors)
        return self._prediction(engine.run(tensors), self._image_size(named))

    def stream(
        self,
        source: FrameSource,
        *,
        waiting: int = WAITING,
        keep: Keep = Keep.NEWEST,
        stall_s: float = STALL_S,
    ) -> Stream:
        """Return what the model says about the frames of a camera or file, in their order.

        Preparing a frame, inferring another and interpreting a third overlap. Nothing else can
        use the runner until the stream ends or is stopped.

        Args:
            source: Gives frames; see ``stream.py``.
            waiting: How many frames may wait for their turn.
            keep: What happens to a frame when as many are waiting.
            stall_s: After how many seconds without a frame "no signal" is said, again and again.

        Returns:
            What is iterated over, once, for ``Predicted``, for ``Refused`` where a frame does not
            fit, and for ``NoSignal``. The iteration raises ``LinkError`` where the source failed,
            ``ReleaseError`` where an answer does not fit its rule or is not a number, and
            ``ConfigError`` where the runner streams already.

        Raises:
            ConfigError: The runner is closed or streams already, or a figure makes no sense.
        """
        self._open_engine()
        return Stream(self._stages(), source, waiting=waiting, keep=keep, stall_s=stall_s)

    def facts(self) -> RuntimeFacts:
        """Return what runs the model, for reports."""
        return self._facts

    def close(self) -> None:
        """End the stream, if one runs, and free the model; a second time does nothing."""
        if self._stream is not None:
            self._stream.stop()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise ConfigError("this runner is closed; open the variant again")
        if self._stream is not None:
            if self._stream.runs:
                raise ConfigError("this runner streams; stop the stream first")
            self._stream = None
        return self._engine

    def _stages(self) -> Stages:
        return Stages(
            lend=self._lend,
            rules=self.preprocessing,
            named=self._named,
            check=self._check_tensors,
            size=self._image_size,
            interpret=self._prediction,
        )

    def _lend(self, stream: Stream) -> Engine:
        engine = self._open_engine()
        self._stream = stream
        return engine

    def _prediction(
        self, tensors: dict[str, NDArray[np.float32]], size: tuple[int, int] | None
    ) -> Prediction:
        outputs = interpret(tensors, self.postprocessing, size=size)
        return Prediction(outputs=outputs, tensors=tensors, rules=self.postprocessing)

    def _check_targets(self, into: Tensors) -> None:
        if into.keys() != self._output_shapes.keys():
            raise DataError(f"the model answers {sorted(self._output_shapes)}, not {sorted(into)}")
        for name, shape in self._output_shapes.items():
            array = into[name]
            fits = array.shape == shape and array.dtype == np.float32
            if not fits or not array.flags.c_contiguous or not array.flags.writeable:
                raise DataError(
                    f"output {name!r} needs a contiguous, writable float32 array of shape {shape}, "
                    f"not {array.dtype} of shape {array.shape}"
                )

    def _check_tensors(self, inputs: Mapping[str, NDArray[np.float32]]) -> None:
        if inputs.keys() != self._shapes.keys():
            raise DataError(f"the model takes {sorted(self._shapes)}, not {sorted(inputs)}")
        for name, shape in self._shapes.items():
            array = inputs[name]
            if array.shape != shape or array.dtype != np.float32:
                raise DataError(
                    f"input {name!r} is {array.dtype} of shape {array.shape}, the model takes "
                    f"float32 of shape {shape}"
                )

    def _named(
        self, inputs: NDArray[Any] | Mapping[str, NDArray[Any]]
    ) -> Mapping[str, NDArray[Any]]:
        if isinstance(inputs, Mapping):
            return inputs
        if len(self.preprocessing) != 1:
            names = [rule.tensor for rule in self.preprocessing]
            raise DataError(f"the model has several inputs; pass a mapping with the names {names}")
        return {self.preprocessing[0].tensor: inputs}

    def _image_size(self, named: Mapping[str, NDArray[Any]]) -> tuple[int, int] | None:
        """Return height and width of the first image, which is the size of every mask."""
        for rule in self.preprocessing:
            if isinstance(rule, ImageInput):
                height, width = named[rule.tensor].shape[:2]
                return height, width
        return None


def _facts(engine: Engine, variant: Variant | None) -> RuntimeFacts:
    return RuntimeFacts(
        runtime=engine.runtime.value,
        version=engine.version,
        delegate=engine.delegate,
        cpu_features=cpu_features(),
        simulated=variant is not None and engine.runtime is not variant.runtime,
        plan=engine.plan if isinstance(engine, BuiltEngine) else None,
    )


def _simulator(target: Target) -> Runtime:
    if target.simulator is None:
        raise ConfigError(f"target {target.name!r} has no simulator; open it without simulate")
    return target.simulator


def _check_version(engine: Engine, variant: Variant) -> None:
    """Refuse a runtime that is older than the variant's author allows."""
    wanted = variant.requires.runtime_version
    if wanted is None or engine.runtime is not variant.runtime:
        return
    if _numbers(engine.version) < _numbers(wanted):
        raise InstallError(
            f"the variant needs {engine.runtime.value} {wanted} or newer, this machine has "
            f"{engine.version}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``2026.4.1-22982`` gives (2026, 4, 1).

    A version that starts with a name is older than any number, as (): see ``litert.py``.
    """
    leading = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def _check_rules(runner: Runner) -> None:
    if runner.variant is not None:
        _check_specs("inputs", runner.variant.inputs, runner.inputs)
        _check_specs("outputs", runner.variant.outputs, runner.outputs)
    inputs = {spec.name: spec.shape for spec in runner.inputs}
    taken = [rule.tensor for rule in runner.preprocessing]
    if sorted(taken) != sorted(inputs):
        raise ReleaseError(f"the model has the inputs {sorted(inputs)}, the rules are for {taken}")
    for rule in runner.preprocessing:
        if isinstance(rule, ImageInput) and _image_shape(rule) != inputs[rule.tensor]:
            raise ReleaseError(
                f"input {rule.tensor!r} has shape {inputs[rule.tensor]}, its rule makes "
                f"{_image_shape(rule)}"
            )
    known = {spec.name for spec in runner.outputs}
    unknown = [rule.tensor for rule in runner.postprocessing if rule.tensor not in known]
    if unknown:
        raise ReleaseError(f"the model has the outputs {sorted(known)}, not {unknown}")


def _check_specs(what: str, signed: Iterable[TensorSpec], found: Iterable[TensorSpec]) -> None:
    promised = {spec.name: spec.shape for spec in signed}
    actual = {spec.name: spec.shape for spec in found}
    if promised != actual:
        raise ReleaseError(f"the variant promises the {what} {promised}, the model has {actual}")


def _image_shape(rule: ImageInput) -> tuple[int, ...]:
    channels = 1 if rule.color == "grey" else 3
    if rule.layout == "nchw":
        return (1, channels, rule.height, rule.width)
    return (1, rule.height, rule.width, channels)
