"""Real ultrasound images: what the quantizer saw is what a device's runner sees, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.variant import MaskOutput, read_variant
from asdic.device.runner.golden import GoldenSample, read_golden
from asdic.device.runner.postprocess import mask_of
from asdic.device.runner.runner import Runner
from asdic.quantization.quantize import Options, quantize_model
from asdic.quantization.report import read_report
from asdic.training.data import read_dataset
from asdic.training.run import train_segmentation

TARGETS = ("x86-litert-int8", "x86-openvino-int8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def variants(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variants of a small network that has learnt a little from BUSI."""
    folder = tmp_path_factory.mktemp("busi")
    train_segmentation(read_dataset(shared_data / "busi"), folder / "run", size=(64, 64), epochs=5)
    quantize_model(folder / "run", TARGETS, folder / "out", options=Options(allow_fail=True))
    return folder / "out"


def image_of(sample: GoldenSample) -> NDArray[Any]:
    assert isinstance(sample.inputs, np.ndarray)
    return sample.inputs


@pytest.mark.parametrize("target", TARGETS)
def test_the_device_gives_the_masks_that_the_quantizer_saw(variants: Path, target: str) -> None:
    variant = read_variant(variants / target)
    assert variant.golden is not None
    samples = read_golden(variants / target / variant.golden.file.name)
    (rule,) = variant.postprocessing
    assert isinstance(rule, MaskOutput)
    with Runner.open(variants / target) as runner:
        for sample in samples[: variant.golden.recorded]:
            image = image_of(sample)
            seen = mask_of(sample.outputs[rule.tensor], rule, size=image.shape[:2])
            assert np.array_equal(runner.predict(image).mask, seen)


def test_the_golden_images_are_busi_images(variants: Path, shared_data: Path) -> None:
    images = {
        sample.read_image().tobytes()
        for sample in read_dataset(shared_data / "busi").split("calib")
    }
    golden = read_golden(variants / TARGETS[0] / "golden.npz")
    assert {image_of(sample).tobytes() for sample in golden} <= images


@pytest.mark.parametrize("target", TARGETS)
def test_lesions_and_empty_images_are_judged_apart(variants: Path, target: str) -> None:
    report = read_report(variants / target)
    assert (report.samples, report.empty.images) == (96, 20)
    assert report.ci95[0] <= report.drop <= report.ci95[1]
