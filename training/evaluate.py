"""How good a segmentation network is, and how good no network would be.

Images with a lesion and images without one are counted apart: a metric of overlap says nothing
about an empty mask, and averaging both would hide either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ImageInput, MaskOutput
from asdic.device.metrics import metric_named
from asdic.device.runner.postprocess import mask_of
from asdic.device.runner.preprocess import prepare_image
from asdic.training.data import Dataset, Sample
from asdic.training.description import ModelDescription
from asdic.training.pixels import Pixels

SMOOTHING: Final = 0.02
"""Standard deviation of the baseline's Gaussian, as a share of the image's shorter side."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of each image, by its name.

    ``scores`` holds the metric, in points, of the images with a lesion; ``alarms`` says of those
    without one whether something was found all the same.
    """

    metric: str
    scores: dict[str, float]
    alarms: dict[str, bool]

    @property
    def mean(self) -> float:
        """The mean over the images with a lesion, in points."""
        return float(np.mean(list(self.scores.values())))

    @property
    def false_alarm_percent(self) -> float | None:
        """How many of the images without a lesion got a mask; None if there are no such images."""
        return 100 * float(np.mean(list(self.alarms.values()))) if self.alarms else None


def evaluate(
    network: nn.Module, samples: Sequence[Sample], description: ModelDescription
) -> Evaluation:
    """Return how good ``network`` is, with the runner's own pre- and postprocessing.

    Masks are compared in the size of the original image.

    Raises:
        ConfigError: The description is not of one image in and one mask out.
        DataError: A sample has no mask, or none has a lesion.
    """
    match description.preprocessing, description.postprocessing:
        case (ImageInput() as rule,), (MaskOutput() as output,):
            pass
        case _:
            raise ConfigError(f"{description.name} is not a network from one image to one mask")

    @torch.inference_mode()
    def predict(image: Pixels) -> Pixels:
        logits = network(torch.from_numpy(prepare_image(image, rule))).numpy()
        return mask_of(logits, output, size=(image.shape[0], image.shape[1]))

    network.eval()
    return judge(samples, predict, metric=description.metric)


def judge(
    samples: Sequence[Sample], predict: Callable[[Pixels], Pixels], *, metric: str = "dice"
) -> Evaluation:
    """Return how good the masks are that ``predict`` makes of the images.

    Raises:
        ConfigError: There is no such metric.
        DataError: A sample has no mask, or none has a lesion.
    """
    measure = metric_named(metric)
    scores: dict[str, float] = {}
    alarms: dict[str, bool] = {}
    for sample in samples:
        found, truth = predict(sample.read_image()), _truth(sample)
        if truth.any():
            scores[sample.name] = measure(found, truth)
        else:
            alarms[sample.name] = bool(found.any())
    if not scores:
        raise DataError(f"none of the {len(samples)} images shows a lesion; there is no {metric}")
    return Evaluation(metric=metric, scores=scores, alarms=alarms)


def threshold_baseline(dataset: Dataset) -> float:
    """Return the Dice, in points, of one grey level for all images: what needs no network.

    Level and side (darker or brighter) are those with the best mean Dice on the lesion images of
    ``train``; what is returned is their mean Dice on those of ``calib``. The images are smoothed
    first, or speckle alone would decide.

    Raises:
        DataError: A sample has no mask, or a split has no lesion.
    """
    fitted = _mean_dice(dataset.split("train"))
    judged = _mean_dice(dataset.split("calib"))
    return float(judged[np.unravel_index(np.argmax(fitted), fitted.shape)])


def _mean_dice(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Return the mean Dice for each side (darker, brighter) and level, (2, 256)."""
    tables = []
    for sample in samples:
        truth = _truth(sample)
        if truth.any():
            tables.append(_dice_by_level(_smoothed_grey(sample.read_image()), truth))
    if not tables:
        raise DataError(f"none of the {len(samples)} images shows a lesion; there is no Dice")
    return np.asarray(np.mean(tables, axis=0), np.float64)


def _dice_by_level(grey: Pixels, truth: Pixels) -> NDArray[np.float64]:
    """Return the Dice of "at most this level" and of "above this level", (2, 256), in points."""
    lesion = np.cumsum(np.bincount(grey[truth == 1], minlength=256))
    pixels = np.cumsum(np.bincount(grey.ravel(), minlength=256))
    size = lesion[-1]
    darker = 2 * lesion / (pixels + size)
    brighter = 2 * (size - lesion) / (pixels[-1] - pixels + size)
    return 100 * np.stack([darker, brighter])


def _smoothed_grey(image: Pixels) -> Pixels:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sigma = max(SMOOTHING * min(grey.shape), 0.5)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.uint8)


def _truth(sample: Sample) -> Pixels:
    mask = sample.read_mask()
    if mask is None:
        raise DataError(f"{sample.name} has no mask, so nothing can be judged by it")
    return mask
