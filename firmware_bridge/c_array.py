"""A model as C source, for firmware that links it in: the same bytes, aligned and constant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import write_file
from asdic.contract.variant import FIRMWARE_LIMIT_BYTES, FrameFormat
from asdic.firmware_bridge.ring_layout import CHANNELS, DTYPES, check_format

ALIGNMENT_BYTES: Final = 16
_PER_LINE: Final = 16
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_KEYWORDS: Final = (
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while asm bool catch class delete explicit export false friend "
    "mutable namespace new operator private protected public template this throw true try typename "
    "using virtual"
)


class CSource(msgspec.Struct, frozen=True, kw_only=True):
    """The two files and their texts."""

    name: str
    header: str
    source: str


def c_source(data: bytes, name: str, *, frames: FrameFormat | None = None) -> CSource:
    """Return a file as a C array called ``name``, with ``name_bytes`` for its length.

    Args:
        data: The file.
        name: A C identifier.
        frames: The frames that the model was made for; the header then has them as macros.

    Raises:
        ConfigError: It is no name in C and C++, or the file is empty or too large.
    """
    if not _NAME.fullmatch(name) or name in _KEYWORDS.split():
        raise ConfigError(f"{name!r} is not a name in C; use letters, digits and _")
    if not 0 < len(data) <= FIRMWARE_LIMIT_BYTES:
        raise ConfigError(
            f"a C array has 1 to {FIRMWARE_LIMIT_BYTES} bytes, and the file {len(data)}"
        )
    about = f"/* {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}. Made by asdic. */"
    macros = "".join(f"{line}\n" for line in _macros(name.upper(), frames))
    header = (
        f"{about}\n#ifndef {name.upper()}_H\n#define {name.upper()}_H\n\n#include <stddef.h>\n\n"
        f'{macros}#ifdef __cplusplus\nextern "C" {{\n#endif\n\n'
        f"extern const unsigned char {name}[{len(data)}];\n"
        f"extern const size_t {name}_bytes;\n\n"
        f"#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
    )
    lines = ",\n".join(_lines(data))
    source = (
        f'{about}\n#include "{name}.h"\n\n'
        f"#ifdef __cplusplus\nalignas({ALIGNMENT_BYTES})\n#else\n_Alignas({ALIGNMENT_BYTES})\n"
        f"#endif\nconst unsigned char {name}[{len(data)}] = {{\n{lines}\n}};\n"
        f"const size_t {name}_bytes = {len(data)};\n"
    )
    return CSource(name=name, header=header, source=source)


def write_c_source(folder: Path, source: CSource) -> tuple[Path, Path]:
    """Write the header and the source into ``folder`` and return their paths."""
    header, body = folder / f"{source.name}.h", folder / f"{source.name}.c"
    write_file(header, source.header.encode())
    write_file(body, source.source.encode())
    return header, body


def _lines(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), _PER_LINE):
        yield "  " + ", ".join(f"0x{byte:02x}" for byte in data[at : at + _PER_LINE])


def _macros(prefix: str, frames: FrameFormat | None) -> Iterator[str]:
    if frames is None:
        return
    check_format(frames)
    yield "/* The frames that the model was made for; numbers as in asdic_frames.h. */"
    yield f"#define {prefix}_FRAME_HEIGHT {frames.height}"
    yield f"#define {prefix}_FRAME_WIDTH {frames.width}"
    yield f"#define {prefix}_FRAME_DTYPE {DTYPES[frames.dtype]} /* {frames.dtype} */"
    yield f"#define {prefix}_FRAME_CHANNELS {CHANNELS[frames.channels]} /* {frames.channels} */"
    yield f"#define {prefix}_FRAME_SCALE {frames.scale!r}"
    yield ""
