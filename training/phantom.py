"""Synthetic B-mode images with exact lesion masks, so that the whole way can be shown without data.

The recipe is the linear model of pulse-echo imaging: a field of scatterers, weighted by the
tissue's echogenicity, is convolved with the pulse of the transducer and detected.

- Scatterers are white Gaussian noise, the limit of many in a resolution cell. The envelope is
  then Rayleigh distributed: mean/std is sqrt(pi / (4 - pi)) = 1.91. C. B. Burckhardt, IEEE Trans.
  Sonics Ultrason. 25(1):1-6, 1978; R. F. Wagner et al., ibid. 30(3):156-163, 1983.
- The point-spread function is separable in depth and width: J. C. Bamber and R. J. Dickinson,
  Phys. Med. Biol. 25(3):463-479, 1980. It stands for the field integral that Field II evaluates
  (J. A. Jensen, Med. Biol. Eng. Comput. 34(Suppl. 1):351-353, 1996). Along depth it is a carrier
  under a Gaussian, across it a Gaussian with a focus, wider above and below.
- Attenuation is summed along each line and compensated as if all tissue had the average value:
  the enhancement behind a cyst and the shadow behind a carcinoma follow from that alone.
- The envelope is the magnitude of the analytic signal, compressed logarithmically.

The pictures resemble breast ultrasound; they are no clinical model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import msgspec
import numpy as np
import scipy.fft
from numpy.random import Generator, SeedSequence
from scipy.ndimage import gaussian_filter1d
from scipy.signal import fftconvolve, hilbert

from asdic.contract.errors import ConfigError
from asdic.contract.files import new_folder, parse_json, read_bounded
from asdic.training.data import LABELS_FILE, Dataset, read_dataset
from asdic.training.pixels import Pixels
from asdic.training.tissue import Field, Tissue, draw_tissue

PIXEL_MM: Final = 0.3
OVERSAMPLING: Final = 8
"""Radio-frequency samples a pixel along depth: four a period of the echo."""

CARRIER_MHZ: Final = 5.0
SPEED_MM_US: Final = 1.54
PULSE_FWHM_MM: Final = 0.5
BEAM_FWHM_MM: Final = 0.7
DEPTH_OF_FIELD_MM: Final = 14.0
COMPENSATED: Final = 0.5
"""Attenuation that the time-gain compensation assumes everywhere, one way, dB/cm/MHz."""

RECIPE_VERSION: Final = 1
RECIPE_FILE: Final = "phantoms.json"
SIDES: Final = (32, 1024)
COUNT_LIMIT: Final = 100_000
_FWHM_PER_SIGMA: Final = 2.3548

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """The settings that differ from picture to picture.

    ``noise_db`` is the receiver's noise at the surface against bright tissue, ``white_db`` the
    level that is shown white, ``range_db`` how far below it black begins.
    """

    focus_mm: float = 20.0
    noise_db: float = -60.0
    white_db: float = 10.0
    range_db: float = 55.0


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder of phantoms was made from; equal recipes make equal bytes."""

    version: int = RECIPE_VERSION
    count: int
    seed: int
    size: tuple[int, int]
    calib_percent: int


def make_phantoms(
    folder: Path,
    *,
    count: int,
    seed: int,
    size: tuple[int, int] = (128, 128),
    calib_percent: int = 30,
    progress: Progress | None = None,
) -> Dataset:
    """Return ``count`` synthetic images with masks in ``folder``, made now or found there.

    The folder has the layout of a real data set: ``images/``, ``masks/`` and ``labels.csv``.
    Image i depends on ``seed``, ``size`` and i alone. A folder of other phantoms is replaced.

    Args:
        folder: Where the images go.
        count: How many, up to ``COUNT_LIMIT``.
        seed: Of everything that is random.
        size: Height and width in pixels, each within ``SIDES``.
        calib_percent: How many of the images only judge, spread evenly.
        progress: Called with the images done and ``count``.

    Raises:
        ConfigError: A number is out of range, or the folder holds something else.
    """
    recipe = Recipe(count=count, seed=seed, size=size, calib_percent=calib_percent)
    _check(recipe)
    if folder.exists() and _recipe_in(folder) == recipe:
        return read_dataset(folder)
    with new_folder(folder, replace=True) as temporary:
        _write_images(temporary, recipe, progress)
        (temporary / RECIPE_FILE).write_bytes(msgspec.json.encode(recipe))
    return read_dataset(folder)


def draw_phantom(seed: SeedSequence, size: tuple[int, int]) -> tuple[Pixels, Tissue]:
    """Return one image, uint8 (H, W), and the tissue that it shows."""
    rng = np.random.default_rng(seed)
    tissue = draw_tissue(rng, size)
    scanner = Scanner(
        focus_mm=rng.uniform(0.3, 0.8) * size[0] * PIXEL_MM,
        noise_db=rng.uniform(-62, -48),
        white_db=rng.uniform(5, 16),
        range_db=rng.uniform(48, 62),
    )
    return compress(envelope(rng, tissue, scanner), scanner), tissue


def envelope(rng: Generator, tissue: Tissue, scanner: Scanner) -> Field:
    """Return the detected echo of ``tissue``, float32 (H, W); bright tissue has a mean power of 1.

    It is sampled once a pixel, not averaged, so that its statistics stay those of speckle.
    """
    echo_db = np.repeat(tissue.echo_db, OVERSAMPLING, axis=0)
    depth_mm = np.arange(len(echo_db), dtype=np.float32)[:, None] * np.float32(
        PIXEL_MM / OVERSAMPLING
    )
    scatterers = _white(rng, echo_db.shape) * _amplitude(echo_db)
    echo = _blur_across(scatterers, depth_mm, scanner.focus_mm)
    echo *= _amplitude(np.repeat(_loss_db(tissue.attenuation), OVERSAMPLING, axis=0))
    compensation_db = np.float32(2 * COMPENSATED * CARRIER_MHZ / 10) * depth_mm
    echo += _white(rng, echo.shape) * _amplitude(scanner.noise_db + compensation_db)
    signal = fftconvolve(echo, _pulse()[:, None], mode="same", axes=0)
    detected = np.abs(hilbert(signal, N=scipy.fft.next_fast_len(len(signal)), axis=0))
    middle = OVERSAMPLING // 2
    return detected[middle : len(signal) : OVERSAMPLING].astype(np.float32)


def compress(detected: Field, scanner: Scanner) -> Pixels:
    """Return the picture of an envelope: decibels on a scale of 256 grey levels, (H, W)."""
    level_db = 20 * np.log10(np.maximum(detected, 1e-6))
    grey = (level_db - scanner.white_db) / scanner.range_db + 1
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)


def _white(rng: Generator, shape: tuple[int, ...]) -> Field:
    return rng.standard_normal(shape, np.float32)


def _amplitude(level_db: Field) -> Field:
    return np.asarray(np.power(10, level_db / 20), np.float32)


def _loss_db(attenuation: Field) -> Field:
    """Return what compensation leaves of the loss on the way in and out: 0 in average tissue."""
    excess = np.cumsum(attenuation - COMPENSATED, axis=0) * (PIXEL_MM / 10)
    # The beam is wider than a line, so a shadow has soft flanks.
    return np.asarray(gaussian_filter1d(-2 * CARRIER_MHZ * excess, 1.5, axis=1), np.float32)


def _blur_across(field: Field, depth_mm: Field, focus_mm: float) -> Field:
    """Convolve each row with the beam at its depth; the energy of white noise stays as it is."""
    spread = np.sqrt(1 + ((depth_mm - focus_mm) / DEPTH_OF_FIELD_MM) ** 2)
    sigma = BEAM_FWHM_MM / _FWHM_PER_SIGMA / PIXEL_MM * spread
    width = field.shape[1]
    frequency = scipy.fft.rfftfreq(2 * width).astype(np.float32)
    response = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    response /= np.sqrt(np.mean(response**2, axis=1, keepdims=True))
    # Mirrored at the sides: a circular convolution would mix left with right.
    mirrored = np.concatenate([field, field[:, ::-1]], axis=1)
    blurred = scipy.fft.irfft(scipy.fft.rfft(mirrored, axis=1) * response, n=2 * width, axis=1)
    return np.ascontiguousarray(blurred[:, :width], np.float32)


def _pulse() -> Field:
    """Return the echo of one scatterer along depth, with an energy of a half.

    The envelope of white noise that went through it has a mean power of 1.
    """
    sigma_mm = PULSE_FWHM_MM / _FWHM_PER_SIGMA
    reach = int(np.ceil(4 * sigma_mm / PIXEL_MM * OVERSAMPLING))
    depth_mm = np.arange(-reach, reach + 1) * (PIXEL_MM / OVERSAMPLING)
    carrier = np.cos(2 * np.pi * CARRIER_MHZ * 2 * depth_mm / SPEED_MM_US)
    pulse = carrier * np.exp(-0.5 * (depth_mm / sigma_mm) ** 2)
    return np.asarray(pulse / np.sqrt(2 * np.sum(pulse**2)), np.float32)


def _check(recipe: Recipe) -> None:
    if not 1 <= recipe.count <= COUNT_LIMIT:
        raise ConfigError(f"{recipe.count} phantoms are not possible, 1 to {COUNT_LIMIT} are")
    if recipe.seed < 0:
        raise ConfigError(f"a seed is 0 or larger, not {recipe.seed}")
    if not all(SIDES[0] <= side <= SIDES[1] for side in recipe.size):
        raise ConfigError(
            f"phantoms have {SIDES[0]} to {SIDES[1]} pixels a side, not {recipe.size}"
        )
    if not 0 <= recipe.calib_percent <= 100:
        raise ConfigError(f"calib_percent is 0 to 100, not {recipe.calib_percent}")


def _recipe_in(folder: Path) -> Recipe:
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds something else than phantoms; choose another folder")
    return parse_json(read_bounded(path, 1 << 16), Recipe, what=str(path))


def _write_images(folder: Path, recipe: Recipe, progress: Progress | None) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = ["file,mask,label,lesion_fraction,split,dup_group"]
    for number, seed in enumerate(SeedSequence(recipe.seed).spawn(recipe.count)):
        image, tissue = draw_phantom(seed, recipe.size)
        name = f"{number:05d}.png"
        _write_png(folder / "images" / name, image)
        _write_png(folder / "masks" / name, tissue.mask * np.uint8(255))
        split = _split_of(number, recipe.calib_percent)
        fraction = f"{tissue.mask.mean():.5f}"
        rows.append(f"images/{name},masks/{name},{tissue.label},{fraction},{split},{number}")
        if progress:
            progress(number + 1, recipe.count)
    (folder / LABELS_FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")


def _split_of(number: int, calib_percent: int) -> str:
    """Return ``calib`` for every so many-th image, so that any beginning has the right share."""
    steps = (number + 1) * calib_percent // 100 - number * calib_percent // 100
    return "calib" if steps else "train"


def _write_png(path: Path, pixels: Pixels) -> None:
    _, data = cv2.imencode(".png", pixels)
    path.write_bytes(data.tobytes())
