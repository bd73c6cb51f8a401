"""Images as a model sees them, to the last bit: the same program runs on x86-64 and on arm64.

``python resized_images.py IMAGES`` reads an ``.npz`` and prints one digest for each image and size.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.variant import ImageInput
from asdic.device.runner.preprocess import prepare_image

SIZES: Final = ((64, 64), (96, 80), (320, 400))


def tensor_digests(images: Iterable[NDArray[np.uint8]]) -> list[str]:
    """Return the digest of each image's tensor, grey and in color, in several sizes."""
    rules = [
        rule
        for height, width in SIZES
        for rule in (
            ImageInput(tensor="image", height=height, width=width, color="grey"),
            ImageInput(tensor="image", height=height, width=width, color="rgb"),
        )
    ]
    return [_digest(prepare_image(image, rule)) for image in images for rule in rules]


def _digest(tensor: NDArray[Any]) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    with np.load(Path(sys.argv[1]), allow_pickle=False) as arrays:
        print(json.dumps(tensor_digests([arrays[name] for name in arrays.files])))  # noqa: T201
