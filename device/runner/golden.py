"""The golden set: what a device must reproduce before a model goes live.

The file is described at ``asdic.contract.variant.GoldenSet``. The quantizer writes it with the
model on the runtime that will fly it; the device reads it and lets the candidate answer again.
"""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError, ReleaseError
from asdic.contract.files import sha256_of, write_file
from asdic.contract.variant import FileRef, GoldenSet
from asdic.device.metrics import metric_named
from asdic.device.runner.archive import read_arrays
from asdic.device.runner.runner import Runner

GOLDEN_FILE: Final = "golden.npz"
LABELLED_AT_LEAST: Final = 32
SAMPLES_LIMIT: Final = 1_024
# How much one mask may lose on another processor, whose kernels round differently: pixels at the
# edge of a small object, but not the object.
INPUT_LOSS_POINTS: Final = 25.0
# What a mean of the same figures may differ by.
_ROUNDING_POINTS: Final = 1e-6
# Stands for "cannot be compared" in reports, whose JSON knows neither NaN nor infinity.
INCOMPARABLE: Final = float(np.finfo(np.float32).max)

_MEMBER: Final = re.compile(r"(input|reference|output)_([0-9]{1,4})(?:_(.+))?")

Inputs: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class GoldenSample:
    """One input with its reference and, if recorded, the model's own answers.

    ``inputs`` is the image or array as it comes in, or several by tensor name; ``reference`` is
    a mask (uint8, in the image's size) or a class number; ``outputs`` are float32, by name.
    """

    inputs: Inputs
    reference: NDArray[Any]
    outputs: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


GoldenSamples: TypeAlias = tuple[GoldenSample, ...]


class GoldenResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the golden check found.

    ``worst_difference`` is the largest difference of an output's element from the recorded one
    (``INCOMPARABLE`` where one is NaN or has another shape); ``measured`` is the mean over
    ``per_sample`` of ``metric``, in points; ``reason`` is empty where the check passed.
    """

    outputs_checked: int
    worst_difference: float
    metric: str
    measured: float
    limit: float
    per_sample: tuple[float, ...]
    passed: bool
    reason: str = ""


def record_golden(
    runner: Runner,
    folder: Path,
    labelled: Iterable[tuple[Inputs, NDArray[Any]]],
    *,
    metric: str,
    allowed_drop: float,
    detectable: float,
    recorded: int = 8,
    tolerance: float = 0.0,
) -> GoldenSet:
    """Run ``runner`` on ``labelled`` inputs, write the golden set and return its description.

    Args:
        runner: The very model that will fly, on the runtime that will fly it.
        folder: The variant's folder; the file in it is called ``GOLDEN_FILE``.
        labelled: Inputs as they come in, each with its mask or class number.
        metric: A name from ``asdic.device.metrics.METRICS``.
        allowed_drop: How many points the device may stay below what is measured here.
        detectable: From ``detectable_loss``.
        recorded: For how many of the samples the outputs are kept.
        tolerance: By how much an output's element may differ on the device.

    Raises:
        DataError: There are fewer inputs than a device asks for, or one does not fit.
        ReleaseError: The model answers NaN.
    """
    measure = metric_named(metric)
    samples, points = [], []
    for number, (inputs, reference) in enumerate(labelled):
        prediction = runner.predict(inputs)
        points.append(measure(prediction.judged, reference))
        outputs = prediction.tensors if number < recorded else {}
        samples.append(GoldenSample(inputs, reference, outputs))
    if len(samples) < LABELLED_AT_LEAST:
        raise DataError(
            f"a golden set needs at least {LABELLED_AT_LEAST} labelled inputs, not {len(samples)}"
        )
    expected = statistics.fmean(points)
    return GoldenSet(
        file=write_golden(folder / GOLDEN_FILE, samples),
        recorded=min(recorded, len(samples)),
        recorded_on=_place(runner),
        tolerance=tolerance,
        labelled=len(samples),
        metric=metric,
        expected=expected,
        limit=max(expected - allowed_drop, 0.0),
        detectable_loss=detectable,
        points=tuple(points),
    )


def write_golden(path: Path, samples: Iterable[GoldenSample]) -> FileRef:
    """Write ``samples`` to ``path`` in one step and return the file's description.

    Equal samples give equal bytes (numpy writes a constant time into the archive).

    Raises:
        DataError: An input or a reference is no array of numbers.
        ReleaseError: A recorded output is NaN or infinite, which no device could reproduce.
    """
    members: dict[str, NDArray[Any]] = {}
    for number, sample in enumerate(samples):
        members.update(_members(number, sample))
    if any(array.dtype.hasobject for array in members.values()):
        raise DataError("a golden set holds arrays of numbers, not of Python objects")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **members)  # type: ignore[arg-type]  # its newer flag is no array
    write_file(path, buffer.getvalue())
    return FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)


def read_golden(path: Path) -> GoldenSamples:
    """Return the samples in ``path``.

    Raises:
        ConfigError: The file cannot be opened.
        ReleaseError: It is damaged, too large (``archive.py``), or no golden set.
    """
    return _samples(read_arrays(path), path)


def check_golden(runner: Runner, folder: Path) -> GoldenResult:
    """Return whether ``runner`` reproduces the golden set of the variant in ``folder``.

    Three things are asked: each recorded output within the set's tolerance, the mean metric over
    all samples not below its limit, and no input or class far below what it had when the set was
    recorded (``weakness``).

    Raises:
        ConfigError: The runner's variant has no golden set.
        ReleaseError: The golden set is damaged, or holds less than its description promises.
    """
    golden = _golden_of(runner)
    samples = read_golden(folder / golden.file.name)
    _check_promise(golden, samples)
    worst, checked, points = (0.0, 0), 0, []
    measure = metric_named(golden.metric)
    for number, sample in enumerate(samples):
        try:
            prediction = runner.predict(sample.inputs)
            points.append(measure(prediction.judged, sample.reference))
        except (ReleaseError, DataError) as error:
            reason = f"golden input {number}: {error}"
            return _result(golden, points, INCOMPARABLE, checked, reason=reason)
        for name, expected in sample.outputs.items():
            difference = _difference(prediction.tensors.get(name), expected)
            worst = max(worst, (difference, -number))
            checked += 1
    reason = _reason(golden, points, *worst) or weakness(golden, points, samples)
    return _result(golden, points, worst[0], checked, reason=reason)


def detectable_loss(
    differences: NDArray[np.floating[Any]], *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest mean loss, in points, that so many paired samples can show.

    It is ``(z(1 - alpha) + z(power)) s / sqrt(n)``, where ``s`` is the standard deviation of the
    paired differences: the sample size of a one-sided paired test, solved for the difference
    (Chow, Shao, Wang: Sample Size Calculations in Clinical Research, 2nd ed., section 3.1).
    Where no sample differs, ``s`` says nothing; then it is the share of samples that may still
    differ, ``1 - alpha^(1/n)``, times 100 points (Hanley, Lippman-Hand, JAMA 249:1743, 1983).

    Args:
        differences: Candidate minus reference, in points, one a sample.
        power: Probability that a loss of this size is found.
        alpha: Probability that a loss is found where there is none.

    Raises:
        DataError: There are fewer than two samples.
    """
    values = np.asarray(differences, np.float64).ravel()
    if values.size < 2:
        raise DataError(f"{values.size} labelled samples cannot show a loss; give at least two")
    spread = float(values.std(ddof=1))
    if spread == 0.0:
        return 100.0 * (1.0 - float(alpha ** (1.0 / values.size)))
    normal = statistics.NormalDist()
    quantiles = normal.inv_cdf(1.0 - alpha) + normal.inv_cdf(power)
    return float(quantiles * spread / math.sqrt(values.size))


def _place(runner: Runner) -> str:
    facts = runner.facts()
    return f"{facts.runtime} {facts.version} ({' '.join(facts.cpu_features) or 'no cpu features'})"


def _members(number: int, sample: GoldenSample) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(sample.inputs, Mapping):
        for name, array in sample.inputs.items():
            yield f"input_{number}_{name}", np.asarray(array)
    else:
        yield f"input_{number}", np.asarray(sample.inputs)
    yield f"reference_{number}", np.asarray(sample.reference)
    for name, array in sample.outputs.items():
        if not np.isfinite(array).all():
            raise ReleaseError(f"output {name!r} of golden sample {number} is not finite")
        yield f"output_{number}_{name}", np.asarray(array, np.float32)


def _samples(members: Mapping[str, NDArray[Any]], path: Path) -> GoldenSamples:
    parts: dict[int, dict[str, dict[str | None, NDArray[Any]]]] = {}
    for name, array in members.items():
        match = _MEMBER.fullmatch(name)
        if match is None or int(match[2]) >= SAMPLES_LIMIT:
            raise ReleaseError(f"the golden set {path} holds an unknown member {name!r}")
        parts.setdefault(int(match[2]), {}).setdefault(match[1], {})[match[3]] = array
    if sorted(parts) != list(range(len(parts))):
        raise ReleaseError(f"the golden set {path} has gaps in its numbering")
    return tuple(_sample(parts[number], number, path) for number in range(len(parts)))


def _sample(
    parts: Mapping[str, Mapping[str | None, NDArray[Any]]], number: int, path: Path
) -> GoldenSample:
    inputs, references = parts.get("input", {}), parts.get("reference", {})
    outputs = parts.get("output", {})
    single = set(inputs) == {None}
    if (
        (None in inputs and not single)
        or not inputs
        or set(references) != {None}
        or None in outputs
    ):
        raise ReleaseError(f"sample {number} of the golden set {path} is incomplete")
    return GoldenSample(
        inputs=inputs[None] if single else {str(name): array for name, array in inputs.items()},
        reference=references[None],
        outputs={str(name): array for name, array in outputs.items()},
    )


def _golden_of(runner: Runner) -> GoldenSet:
    if runner.variant is None or runner.variant.golden is None:
        raise ConfigError("this variant has no golden set; quantize the model again with labels")
    return runner.variant.golden


def _check_promise(golden: GoldenSet, samples: GoldenSamples) -> None:
    recorded = sum(1 for sample in samples if sample.outputs)
    if golden.labelled < LABELLED_AT_LEAST or golden.recorded < 1:
        raise ReleaseError(
            f"the golden set promises {golden.recorded} recorded and {golden.labelled} labelled "
            f"inputs; a device asks for 1 and {LABELLED_AT_LEAST}"
        )
    if (recorded, len(samples)) != (golden.recorded, golden.labelled):
        raise ReleaseError(
            f"the golden set holds {recorded} recorded and {len(samples)} labelled inputs, "
            f"{golden.recorded} and {golden.labelled} are promised"
        )
    if len(golden.points) not in {0, len(samples)}:
        raise ReleaseError(
            f"the golden set tells the points of {len(golden.points)} of {len(samples)} inputs"
        )


def _difference(found: NDArray[np.float32] | None, expected: NDArray[np.float32]) -> float:
    if found is None or found.shape != expected.shape or not np.isfinite(found).all():
        return INCOMPARABLE
    if not found.size:
        return 0.0
    return float(np.abs(found.astype(np.float64) - expected).max())


def _reason(golden: GoldenSet, points: list[float], worst: float, place: int) -> str:
    """Return why the check failed, or nothing; ``-place`` is the input that differs most."""
    if worst == INCOMPARABLE:
        return f"golden input {-place}: an output is not a number, or not of the recorded shape"
    if not worst <= golden.tolerance:
        return (
            f"golden input {-place}: an output differs by {worst:.6g} from what was recorded on "
            f"{golden.recorded_on}, {golden.tolerance:.6g} is allowed"
        )
    measured = statistics.fmean(points)
    if not measured >= golden.limit:
        return f"{golden.metric} is {measured:.2f} points, the limit is {golden.limit:.2f}"
    return ""


def weakness(golden: GoldenSet, points: list[float], samples: GoldenSamples) -> str:
    """Return which input or class lost too much since the set was recorded, or nothing.

    A mean over all inputs hides the one kind that fails. Where outputs must be equal bit for bit,
    so must be each input's points. Elsewhere one mask may lose ``INPUT_LOSS_POINTS``; and a class
    may lose half of those of its inputs that were right, since a single close call proves nothing.
    """
    if not golden.points:
        return ""
    exact = golden.tolerance == 0.0
    by_class = not exact and all(sample.reference.size == 1 for sample in samples)
    if by_class:
        return _lost_class(golden, points, samples)
    allowed = _ROUNDING_POINTS if exact else INPUT_LOSS_POINTS
    losses = [before - now for before, now in zip(golden.points, points, strict=True)]
    worst = max(range(len(losses)), key=losses.__getitem__)
    if losses[worst] <= allowed:
        return ""
    return (
        f"golden input {worst}: {golden.metric} is {points[worst]:.2f} points, it was "
        f"{golden.points[worst]:.2f} when recorded, and one input may lose {allowed:.0f}"
    )


def _lost_class(golden: GoldenSet, points: list[float], samples: GoldenSamples) -> str:
    right: dict[int, list[bool]] = {}
    for sample, before, now in zip(samples, golden.points, points, strict=True):
        if before > 0.0:
            right.setdefault(int(sample.reference.item()), []).append(now > 0.0)
    for number, still in sorted(right.items()):
        if len(still) > 1 and sum(still) < len(still) / 2:
            return (
                f"class {number}: {sum(still)} of {len(still)} golden inputs are still right that "
                "were when recorded"
            )
    return ""


def _result(
    golden: GoldenSet, points: list[float], worst: float, checked: int, *, reason: str
) -> GoldenResult:
    return GoldenResult(
        outputs_checked=checked,
        worst_difference=worst,
        metric=golden.metric,
        measured=statistics.fmean(points) if points else 0.0,
        limit=golden.limit,
        per_sample=tuple(points),
        passed=not reason,
        reason=reason,
    )
