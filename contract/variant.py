"""A variant: what one target gets, as signed data.

A variant is a folder: ``variant.json``, the model's files and the golden set. In a release the
same bytes are blobs of an OCI image layout (``release.py``). The device, the quantizer and a
user's own program open it with the same ``Runner``, so what is judged is what flies.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json, check_digest, parse_json, read_bounded, safe_name
from asdic.contract.firmware import check_firmware_range, firmware_version, is_in_firmware_range
from asdic.contract.target import Runtime

VARIANT_FILE: Final = "variant.json"
VARIANT_FORMAT: Final = "asdic-variant/1"
VARIANT_LIMIT_BYTES: Final = 1 << 20
FIRMWARE_LIMIT_BYTES: Final = 16 << 20
BOARD_LIMIT: Final = 64
FRAME_DTYPES: Final = ("uint8", "uint16", "int16", "float32")
FRAME_CHANNELS: Final = ("grey", "rgb")
_IMAGE_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class FileRef(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the variant: its plain name, digest (``sha256:<hex>``) and length."""

    name: str
    digest: str
    size_bytes: int


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A named input or output as the caller sees it: fixed shape, real (dequantized) values."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class ImageInput(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """How an image becomes the tensor called ``tensor``.

    The image is converted to ``color``, resized to ``height`` x ``width`` (OpenCV, area when it
    shrinks and linear when it grows), then ``(pixel * scale - mean) / std``, then laid out.
    """

    tensor: str
    height: int
    width: int
    color: Literal["grey", "rgb"] = "grey"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"


class ArrayInput(msgspec.Struct, frozen=True, kw_only=True, tag="array"):
    """An array that is passed as it is to the tensor called ``tensor``."""

    tensor: str


class MaskOutput(msgspec.Struct, frozen=True, kw_only=True, tag="mask"):
    """How the tensor called ``tensor`` becomes a mask of class numbers, uint8, in image size.

    ``sigmoid``: one channel of logits, a pixel is 1 where the probability exceeds ``threshold``.
    ``softmax``: one channel a class; with two classes a pixel is 1 where the probability of
    class 1 exceeds ``threshold``, with more it is the most likely class.
    """

    tensor: str
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    threshold: float = 0.5
    layout: Literal["nchw", "nhwc"] = "nchw"


class ClassOutput(msgspec.Struct, frozen=True, kw_only=True, tag="class"):
    """The tensor called ``tensor`` holds one score a class; ``labels`` names them."""

    tensor: str
    labels: tuple[str, ...] = ()


class ArrayOutput(msgspec.Struct, frozen=True, kw_only=True, tag="array"):
    """The tensor called ``tensor`` is handed over as it is."""

    tensor: str


InputRule: TypeAlias = ImageInput | ArrayInput
OutputRule: TypeAlias = MaskOutput | ClassOutput | ArrayOutput


class GoldenSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the device must reproduce before the model goes live.

    ``file`` is an .npz with, for sample i, ``input_<i>`` (the image or array as it comes in; with
    several inputs ``input_<i>_<tensor>``), ``reference_<i>`` (its mask or class number) and, for
    the first ``recorded`` samples, ``output_<i>_<tensor>`` as float32: what this very file
    answered on ``recorded_on``.
    On the device each output may differ by ``tolerance`` at most (0: equal bit for bit), and the
    mean of ``metric`` (in points, 0 to 100) over all ``labelled`` samples must reach ``limit``.
    A loss below ``detectable_loss`` points cannot be told from chance with so few samples.
    ``points`` holds what each labelled sample had when the set was recorded, so that a mean does
    not hide the one kind of input that fails; a set from before it was kept has none.
    """

    file: FileRef
    recorded: int
    recorded_on: str
    tolerance: float
    labelled: int
    metric: str
    expected: float
    limit: float
    detectable_loss: float
    points: tuple[float, ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the candidate may take on the device. ``None`` means: not limited by this release.

    ``slowdown`` is how many times as slow as the current model it may be, by the lower end of the
    measured ratio's 95 % interval: a noisy box refuses nobody by chance.
    """

    load_s: float = 60.0
    memory_bytes: int = 2 << 30
    latency_ms: float | None = None
    slowdown: float = 2.0


class FrameFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The frames that the firmware must deliver: shape in pixels, dtype, scale, channel order."""

    height: int
    width: int
    dtype: str = "uint8"
    scale: float = 1.0
    channels: str = "grey"


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What must be on the device: oldest runtime version, and what delivers the frames.

    ``firmware`` is the range of versions that the microcontroller must run (``>=1.4.0,<2.0.0``),
    ``board`` what it calls itself, ``frames`` what the box's frame ring must carry. What is None
    is not asked for.
    """

    runtime_version: str | None = None
    firmware: str | None = None
    frames: FrameFormat | None = None
    board: str | None = None


class FirmwarePart(msgspec.Struct, frozen=True, kw_only=True):
    """The microcontroller's half of a release: an MCUboot image that goes live with the model.

    ``board`` is what the microcontroller calls itself, ``version`` the image's own. ``digest`` is
    the SHA-256 (64 hex digits) by which the bootloader knows the image, of its header and content;
    that of the whole file is in ``file``.
    """

    file: FileRef
    board: str
    version: str
    digest: str


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """What one target gets. The first of ``files`` is the one that the runtime opens."""

    format: str = VARIANT_FORMAT
    model: str
    target: str
    runtime: Runtime
    runtime_version: str
    task: str
    files: tuple[FileRef, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[InputRule, ...]
    postprocessing: tuple[OutputRule, ...]
    recipe: str
    golden: GoldenSet | None = None
    limits: Limits = Limits()
    requires: Requirements = Requirements()
    firmware: FirmwarePart | None = None

    @property
    def all_files(self) -> tuple[FileRef, ...]:
        """The model's files, the golden set and the firmware image."""
        beside = (part.file for part in (self.golden, self.firmware) if part is not None)
        return (*self.files, *beside)


def parse_variant(data: bytes, *, what: str = VARIANT_FILE) -> Variant:
    """Return the variant that ``data`` describes.

    Raises:
        ConfigError: It is not a variant description, or one of a format that we do not know.
        DigestError: A file name could leave the folder.
    """
    variant = parse_json(data, Variant, what=what)
    if variant.format != VARIANT_FORMAT:
        raise ConfigError(
            f"{what} has format {variant.format!r}, this asdic reads {VARIANT_FORMAT!r}"
        )
    if not variant.files:
        raise ConfigError(f"{what} names no model file")
    for file in variant.all_files:
        safe_name(file.name)
    check_requirements(variant, what=what)
    return variant


def check_requirements(variant: Variant, *, what: str = VARIANT_FILE) -> None:
    """Check that what a variant needs of the microcontroller can be read, and is no contradiction.

    Raises:
        ConfigError: It cannot, or the firmware that it brings is not what it needs.
    """
    needs, part = variant.requires, variant.firmware
    check_needs(needs, what=what)
    if part is None:
        return
    _check_board(part.board, what)
    firmware_version(part.version)
    if not _IMAGE_DIGEST.fullmatch(part.digest):
        raise ConfigError(f"{what}: the firmware's digest is no SHA-256 of 64 hex digits")
    if not 0 < part.file.size_bytes <= FIRMWARE_LIMIT_BYTES:
        raise ConfigError(
            f"{what}: a firmware image of {part.file.size_bytes} bytes is outside what asdic "
            f"accepts, 1 to {FIRMWARE_LIMIT_BYTES}"
        )
    if needs.board not in {None, part.board}:
        raise ConfigError(
            f"{what} needs the board {needs.board!r}, and brings firmware for {part.board!r}"
        )
    if needs.firmware is not None and not is_in_firmware_range(part.version, needs.firmware):
        raise ConfigError(
            f"{what} needs firmware {needs.firmware}, and brings firmware {part.version}"
        )


def check_needs(needs: Requirements, *, what: str) -> None:
    """Check that a need can be understood where it will be asked.

    Raises:
        ConfigError: It cannot.
    """
    if needs.firmware is not None:
        check_firmware_range(needs.firmware)
    if needs.board is not None:
        _check_board(needs.board, what)
    if needs.frames is not None:
        _check_frames(needs.frames, what)


def _check_frames(frames: FrameFormat, what: str) -> None:
    is_known = frames.dtype in FRAME_DTYPES and frames.channels in FRAME_CHANNELS
    is_sized = frames.height > 0 and frames.width > 0
    if not (is_known and is_sized and 0 < frames.scale < math.inf):
        raise ConfigError(
            f"{what}: frames of {frames.height} x {frames.width} {frames.dtype} {frames.channels}, "
            f"scale {frames.scale}, cannot be; a dtype is one of {', '.join(FRAME_DTYPES)}, "
            f"channels one of {', '.join(FRAME_CHANNELS)}, and the numbers are positive"
        )


def _check_board(board: str, what: str) -> None:
    if not 0 < len(board) <= BOARD_LIMIT or not board.isprintable():
        raise ConfigError(f"{what}: {board!r} is not a board's name (1 to {BOARD_LIMIT} letters)")


def read_variant(folder: Path, *, check: bool = True) -> Variant:
    """Return the variant in ``folder`` after checking the digest of each of its files.

    Raises:
        ConfigError: There is no readable variant in the folder.
        DigestError: A file differs from its description.
    """
    path = folder / VARIANT_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no variant ({VARIANT_FILE} is missing)")
    variant = parse_variant(read_bounded(path, VARIANT_LIMIT_BYTES), what=str(path))
    if check:
        for file in variant.all_files:
            check_digest(folder / file.name, digest=file.digest, size_bytes=file.size_bytes)
    return variant


def encode_variant(variant: Variant) -> bytes:
    """Return the bytes of ``variant.json``: equal variants, equal bytes.

    What younger asdics have added is left out where it is None, so that a variant of before keeps
    its digest.
    """
    fields = msgspec.to_builtins(variant)
    for holder, name in ((fields, "firmware"), (fields["requires"], "board")):
        if holder[name] is None:
            del holder[name]
    return canonical_json(fields)
