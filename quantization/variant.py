"""Writing a variant: the model's files, golden set and description, and the report beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.files import canonical_json, new_folder, sha256_of, write_file
from asdic.contract.target import Runtime, Target
from asdic.contract.variant import VARIANT_FILE, FileRef, GoldenSet, Variant, encode_variant
from asdic.device.metrics import metric_named, sample_metric_for
from asdic.device.runner.golden import LABELLED_AT_LEAST, detectable_loss, record_golden
from asdic.quantization.calibration import Inputs
from asdic.quantization.examples import write_examples
from asdic.quantization.judge import Judgement, open_runner
from asdic.quantization.ladder import Rung
from asdic.quantization.report import REPORT_FILE, QuantizationReport
from asdic.training.description import ModelDescription

RECORDED: Final = 8

# How far an output on the device may lie from the one recorded here.
#   LiteRT with XNNPACK is the same bit for bit on x86 and ARM, as measured: nothing.
#   The kernels of the others round differently from processor to processor (up to 0.65 logits
#   on a small net). Such a step is of the size of quantization noise, so they may be as far away
#   as the worst that quantization itself did to the recorded outputs.
_BIT_IDENTICAL: Final = frozenset({Runtime.LITERT})


def write_variant(
    folder: Path,
    *,
    target: Target,
    rung: Rung,
    inputs: Inputs,
    description: ModelDescription,
    report: QuantizationReport,
    max_drop: float,
    replace: bool,
) -> None:
    """Write the variant for ``target`` as ``folder``, in one step.

    Args:
        folder: Where it goes.
        target: What it is for.
        rung: The recipe carried out, whose files are copied.
        inputs: The cases, the first of which become the golden set.
        description: The float model's.
        report: Goes beside the variant.
        max_drop: The points that the device may lose, where so few samples can show that.
        replace: Whether a folder that exists is replaced.

    Raises:
        ConfigError: The folder exists and ``replace`` is not set.
    """
    with new_folder(folder, replace=replace) as new:
        for file in rung.paths:
            shutil.copyfile(file, new / file.name)
        variant = Variant(
            model=description.name,
            target=target.name,
            runtime=target.runtime,
            runtime_version=_runtime_version(target, rung),
            task=description.task,
            files=tuple(_file_ref(new / name) for name in rung.files.files),
            inputs=rung.model.inputs,
            outputs=rung.model.outputs,
            preprocessing=rung.model.preprocessing,
            postprocessing=rung.model.postprocessing,
            recipe=rung.recipe.name,
            golden=_write_golden(new, target, rung, inputs, max_drop=max_drop),
            requires=description.requires,
        )
        write_file(new / VARIANT_FILE, encode_variant(variant))
        write_file(new / REPORT_FILE, canonical_json(report))
        write_examples(new, rung.judgement, inputs)


def write_refusal(folder: Path, *, rung: Rung, inputs: Inputs, report: QuantizationReport) -> None:
    """Write what was found out about a rung that lost too much as ``folder``, without a model."""
    with new_folder(folder, replace=True) as new:
        write_file(new / REPORT_FILE, canonical_json(report))
        write_examples(new, rung.judgement, inputs)


def _runtime_version(target: Target, rung: Rung) -> str:
    facts = rung.judgement.facts
    return (
        facts.version if target.simulator is None else f"simulated-{facts.runtime}-{facts.version}"
    )


def _write_golden(
    folder: Path, target: Target, rung: Rung, inputs: Inputs, *, max_drop: float
) -> GoldenSet:
    """Write the golden set with the files that fly, on the runtime that judged them."""
    chosen = _golden_numbers(rung.judgement)
    detectable = detectable_loss(_differences(rung.judgement, chosen))
    exact = target.runtime in _BIT_IDENTICAL
    runtime = Runtime(rung.judgement.facts.runtime)
    with open_runner(runtime, [folder / file.name for file in rung.paths], rung.model) as runner:
        return record_golden(
            runner,
            folder,
            [(inputs.cases[one].given, rung.judgement.references[one]) for one in chosen],
            metric=sample_metric_for(rung.judgement.metric),
            allowed_drop=max(max_drop, detectable),
            detectable=detectable,
            recorded=RECORDED,
            tolerance=0.0 if exact else _worst_error(rung.judgement, chosen[:RECORDED]),
        )


def _golden_numbers(judgement: Judgement) -> tuple[int, ...]:
    """Return the cases of the golden set: those with something to find come first."""
    others = (one for one in range(len(judgement.references)) if one not in set(judgement.judged))
    return (*judgement.judged, *others)[:LABELLED_AT_LEAST]


def _differences(judgement: Judgement, chosen: Sequence[int]) -> NDArray[np.float64]:
    measure = metric_named(sample_metric_for(judgement.metric))
    return np.array(
        [
            measure(judgement.int8[one].judged, judgement.references[one])
            - measure(judgement.fp32[one].judged, judgement.references[one])
            for one in chosen
        ]
    )


def _worst_error(judgement: Judgement, chosen: Sequence[int]) -> float:
    errors = [
        float(np.abs(judgement.int8[one].tensors[name] - tensor).max())
        for one in chosen
        for name, tensor in judgement.fp32[one].tensors.items()
    ]
    return max(errors)


def _file_ref(path: Path) -> FileRef:
    return FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
