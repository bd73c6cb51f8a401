"""Random anatomy for the synthetic images: layers of a breast, and perhaps one lesion.

Contrasts and attenuations are rounded from what textbooks give for breast ultrasound (F. A. Duck,
Physical Properties of Tissue, 1990); shapes follow the BI-RADS descriptors: cysts smooth and
anechoic, benign tumours oval and wider than tall, malignant ones irregular, taller and shadowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Field = NDArray[np.float32]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """What is in front of the transducer; each field is (H, W).

    ``echo_db`` is the scattering strength, 0 for bright glandular tissue; ``attenuation`` is one
    way, in dB/cm/MHz; ``mask`` is 1 in the lesion. ``label`` is normal, benign or malignant.
    """

    echo_db: Field
    attenuation: Field
    mask: NDArray[np.uint8]
    label: str


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: where it begins (share of the height), how bright it is, what it absorbs."""

    begins: Range
    echo_db: Range
    attenuation: float


@dataclass(frozen=True, kw_only=True)
class LesionKind:
    """How one kind of lesion looks; a pair holds the ends of a uniform distribution.

    ``share`` is how many of all images show it. ``aspect`` is height over width, ``roughness``
    is how far the border leaves the ellipse, as a share of the radius.
    """

    label: str
    share: float
    echo_db: Range
    aspect: Range
    roughness: Range
    attenuation: Range


SKIN: Final = Layer(begins=(-1, -1), echo_db=(0, 4), attenuation=0.9)
FAT: Final = Layer(begins=(0.04, 0.08), echo_db=(-17, -9), attenuation=0.45)
GLAND: Final = Layer(begins=(0.15, 0.35), echo_db=(-3, 1), attenuation=0.55)
MUSCLE: Final = Layer(begins=(0.75, 0.95), echo_db=(-15, -8), attenuation=0.6)
LAYERS: Final = (SKIN, FAT, GLAND, MUSCLE)

CYST: Final = LesionKind(
    label="benign",
    share=0.22,
    echo_db=(-45, -24),
    aspect=(0.6, 1.0),
    roughness=(0.01, 0.03),
    attenuation=(0.0, 0.1),
)
FIBROADENOMA: Final = LesionKind(
    label="benign",
    share=0.33,
    echo_db=(-22, -12),
    aspect=(0.45, 0.8),
    roughness=(0.02, 0.06),
    attenuation=(0.3, 0.6),
)
CARCINOMA: Final = LesionKind(
    label="malignant",
    share=0.3,
    echo_db=(-24, -13),
    aspect=(0.8, 1.3),
    roughness=(0.06, 0.14),
    attenuation=(0.9, 1.7),
)
LESIONS: Final = (CYST, FIBROADENOMA, CARCINOMA)
"""What remains of the shares is images without a lesion."""


def draw_tissue(rng: Generator, size: tuple[int, int]) -> Tissue:
    """Return random tissue of ``size`` (height, width) pixels, with at most one lesion."""
    echo_db, attenuation = _draw_layers(rng, size)
    _add_texture(rng, echo_db)
    _add_lobules(rng, echo_db)
    _add_dropouts(rng, attenuation)
    shares = [kind.share for kind in LESIONS]
    number = int(rng.choice(len(LESIONS) + 1, p=[*shares, 1 - sum(shares)]))
    if number == len(LESIONS):
        nothing = np.zeros(size, np.uint8)
        return Tissue(echo_db=echo_db, attenuation=attenuation, mask=nothing, label="normal")
    kind = LESIONS[number]
    inside = _draw_lesion(rng, size, kind)
    # A lesion keeps a trace of the texture around it, so that its inside is not flat.
    echo_db[inside] = rng.uniform(*kind.echo_db) + 0.3 * (echo_db - echo_db.mean())[inside]
    attenuation[inside] = rng.uniform(*kind.attenuation)
    mask = inside.astype(np.uint8)
    return Tissue(echo_db=echo_db, attenuation=attenuation, mask=mask, label=kind.label)


def blob(
    size: tuple[int, int],
    *,
    center: tuple[float, float],
    radii: tuple[float, float],
    tilt: float,
    wobble: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return the pixels inside an ellipse whose border is a Fourier series.

    Args:
        size: Height and width in pixels.
        center: Row and column.
        radii: Along the rows and along the columns, before the tilt.
        tilt: Radians.
        wobble: (n, 2) amplitude (share of the radius) and phase of the harmonics 2, 3, ...
    """
    rows, columns = np.ogrid[: size[0], : size[1]]
    down, right = rows - center[0], columns - center[1]
    u = (down * np.cos(tilt) + right * np.sin(tilt)) / radii[0]
    v = (right * np.cos(tilt) - down * np.sin(tilt)) / radii[1]
    angle = np.arctan2(u, v)
    border = np.ones(size)
    for harmonic, (amplitude, phase) in enumerate(wobble, start=2):
        border += amplitude * np.cos(harmonic * angle + phase)
    return np.asarray(np.hypot(u, v) < border)


def _draw_lesion(rng: Generator, size: tuple[int, int], kind: LesionKind) -> NDArray[np.bool_]:
    across = rng.uniform(0.07, 0.2) * min(size)
    radii = (across * rng.uniform(*kind.aspect), across)
    center = (rng.uniform(0.28, 0.68) * size[0], rng.uniform(0.2, 0.8) * size[1])
    return blob(
        size,
        center=center,
        radii=radii,
        tilt=rng.uniform(-0.35, 0.35),
        wobble=_wobble(rng, rng.uniform(*kind.roughness)),
    )


def _wobble(rng: Generator, roughness: float, harmonics: int = 9) -> NDArray[np.float64]:
    falling = 1 / np.sqrt(np.arange(1, harmonics + 1))
    amplitudes = roughness * falling * rng.uniform(0.5, 1.0, harmonics)
    return np.column_stack([amplitudes, rng.uniform(0, 2 * np.pi, harmonics)])


def _draw_layers(rng: Generator, size: tuple[int, int]) -> tuple[Field, Field]:
    rows = np.arange(size[0])[:, None]
    echo_db = np.zeros(size, np.float32)
    attenuation = np.zeros(size, np.float32)
    for layer in LAYERS:
        begin = rng.uniform(*layer.begins) * size[0] + _waves(rng, size)
        below = rows >= begin
        echo_db = np.where(below, np.float32(rng.uniform(*layer.echo_db)), echo_db)
        attenuation = np.where(below, np.float32(layer.attenuation), attenuation)
    return echo_db, attenuation


def _waves(rng: Generator, size: tuple[int, int]) -> Field:
    """Return how far a border between layers leaves its depth, in pixels, (W,)."""
    noise = gaussian_filter1d(rng.standard_normal(size[1]), size[1] / 8, mode="wrap")
    return np.asarray(noise / noise.std() * 0.02 * size[0], np.float32)


def _add_texture(rng: Generator, echo_db: Field) -> None:
    """Add patches, and bright bands that run across like fasciae and ligaments."""
    height, width = echo_db.shape
    patches = gaussian_filter(rng.standard_normal(echo_db.shape), (height / 24, width / 12))
    bands = gaussian_filter(rng.standard_normal(echo_db.shape), (height / 90, width / 8))
    echo_db += (rng.uniform(1.5, 3.5) * patches / patches.std()).astype(np.float32)
    echo_db += (rng.uniform(0.5, 2.5) * bands / bands.std()).astype(np.float32)


def _add_lobules(rng: Generator, echo_db: Field) -> None:
    """Add fat lobules: dark like a lesion, but milder, wide and flat, and not to be marked."""
    height, width = echo_db.shape
    for _ in range(rng.integers(1, 5)):
        across = rng.uniform(0.06, 0.16) * width
        radii = (across * rng.uniform(0.2, 0.45), across)
        center = (rng.uniform(0.15, 0.9) * height, rng.uniform(0, width))
        inside = blob(
            (height, width),
            center=center,
            radii=radii,
            tilt=rng.uniform(-0.3, 0.3),
            wobble=_wobble(rng, 0.06),
        )
        echo_db[inside] = np.minimum(echo_db[inside], np.float32(rng.uniform(-13, -7)))


def _add_dropouts(rng: Generator, attenuation: Field) -> None:
    """Add places near the skin that absorb more and darken whole lines: poor contact, ligaments."""
    height, width = attenuation.shape
    for _ in range(rng.integers(0, 4)):
        profile = np.exp(
            -0.5 * ((np.arange(width) - rng.uniform(0, width)) / rng.uniform(2, 7)) ** 2
        )
        top = int(rng.uniform(0.02, 0.3) * height)
        attenuation[top : top + height // 16] += (rng.uniform(0.5, 2.5) * profile).astype(
            np.float32
        )
