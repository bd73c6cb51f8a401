"""Variants of a U-Net for the benchmarks: real size, real INT8 files, random weights.

The weights change no time. There is no golden set: nothing here judges what the network says.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from asdic.contract.files import sha256_of, write_file
from asdic.contract.target import target_named
from asdic.contract.variant import (
    VARIANT_FILE,
    FileRef,
    ImageInput,
    MaskOutput,
    TensorSpec,
    Variant,
    encode_variant,
)
from asdic.quantization.frontends.torch import write_program
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.quantization.once import quantize_once
from asdic.quantization.recipe import LADDERS
from asdic.training.description import ModelDescription
from asdic.training.models import small_unet

SIDE: Final = 256
TARGETS: Final = ("x86-litert-int8", "x86-openvino-int8", "jetson-orin-int8")
# What runs each here; the Jetson's file runs in ONNX Runtime.
RUNTIMES: Final = MappingProxyType(
    dict(zip(TARGETS, ("LiteRT", "OpenVINO", "ONNX Runtime"), strict=True))
)
_SHAPE: Final = (1, 1, SIDE, SIDE)


def make_variants(folder: Path) -> Mapping[str, Path]:
    """Quantize the network for each target into ``folder`` and return the variants' folders."""
    torch.manual_seed(0)
    path = folder / "model.pt2"
    write_program(torch.export.export(small_unet().eval(), (torch.zeros(_SHAPE),)), path)
    model = FloatModel(
        kind=SourceKind.PROGRAM, path=path, description=_description(), data=None, digest=""
    )
    return {target: _make(model, target, folder) for target in TARGETS}


def found_variants(folder: Path) -> Mapping[str, Path]:
    """Return the variants in ``folder`` that the benchmarks know how to run by hand."""
    return dict(_found(folder))


def _found(folder: Path) -> Iterator[tuple[str, Path]]:
    for target in TARGETS:
        if (folder / target / VARIANT_FILE).is_file():
            yield target, folder / target


def _make(model: FloatModel, target: str, folder: Path) -> Path:
    wanted = target_named(target)
    place = folder / target
    recipe = LADDERS[wanted.model_format][0]
    random = np.random.default_rng(0)
    calibration = [{"image": random.random(_SHAPE, np.float32)} for _ in range(4)]
    work = folder / "work" / target
    made = quantize_once(model, wanted.model_format, recipe, calibration, work)
    place.mkdir()
    for path in made.int8_paths:
        shutil.copyfile(path, place / path.name)
    variant = Variant(
        model="unet",
        target=target,
        runtime=wanted.runtime,
        runtime_version="",
        task="segmentation",
        files=tuple(_reference(place / path.name) for path in made.int8_paths),
        inputs=made.model.inputs,
        outputs=made.model.outputs,
        preprocessing=made.model.preprocessing,
        postprocessing=made.model.postprocessing,
        recipe=recipe.name,
    )
    write_file(place / VARIANT_FILE, encode_variant(variant))
    return place


def _description() -> ModelDescription:
    return ModelDescription(
        name="unet",
        task="segmentation",
        weights="model.pt2",
        data="",
        inputs=(TensorSpec(name="image", shape=_SHAPE),),
        outputs=(TensorSpec(name="logits", shape=_SHAPE),),
        preprocessing=(ImageInput(tensor="image", height=SIDE, width=SIDE),),
        postprocessing=(MaskOutput(tensor="logits"),),
    )


def _reference(path: Path) -> FileRef:
    return FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
