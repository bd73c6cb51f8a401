"""Sealed files: what was written, or a clear line, and nothing in between."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import ConfigError
from asdic.device.update.sealed import (
    SCHEMA,
    NewerSchemaError,
    read_sealed,
    seal,
    seal_line,
    unseal_line,
)

LIMIT_BYTES = 4096


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be kept; text with what JSON has to escape, and what it does not."""

    schema: int = SCHEMA
    text: str = 'a "line"\nand ünother'
    number: int = 1 << 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "note.json"


def test_what_was_sealed_is_read_as_it_was(path: Path) -> None:
    path.write_bytes(seal(Note()))
    assert read_sealed(path, Note, LIMIT_BYTES) == Note()


def test_a_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    whole = seal(Note())
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ConfigError):
                read_sealed(path, Note, LIMIT_BYTES)


def test_a_file_cut_short_anywhere_is_noticed(path: Path) -> None:
    whole = seal(Note())
    content = len(whole.partition(b"\n")[0])
    # Cut off right after its brace it looks like one of schema 1, and all of it is there.
    for size in {*range(len(whole) - 1)} - {content, content + 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError):
            read_sealed(path, Note, LIMIT_BYTES)


@pytest.mark.parametrize("data", [b"", b"\n", bytes(512), b"\n\n\n", b"}", b"\xff\xfe"])
def test_rubbish_is_one_clear_line(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"note\.json") as caught:
        read_sealed(path, Note, LIMIT_BYTES)
    assert "\n" not in str(caught.value)


def test_a_file_of_schema_1_had_no_seal(path: Path) -> None:
    path.write_bytes(b'{"text":"before seals","number":3}')
    assert read_sealed(path, Note, LIMIT_BYTES).text == "before seals"


@pytest.mark.parametrize("seals", [seal, msgspec.json.encode], ids=["sealed", "bare"])
def test_a_newer_schema_is_refused_with_what_to_do(path: Path, seals: object) -> None:
    assert callable(seals)
    path.write_bytes(seals(Note(schema=SCHEMA + 1)))
    with pytest.raises(NewerSchemaError) as caught:
        read_sealed(path, Note, LIMIT_BYTES)
    assert str(caught.value) == (
        f"{path} is of schema {SCHEMA + 1}, this agent knows {SCHEMA}; install the newer agent "
        "again. The model that runs stays"
    )


def test_a_newer_schema_is_refused_whatever_else_it_says(path: Path) -> None:
    path.write_bytes(seal_line(b'{"schema":99,"text":["not","a","text"]}'))
    with pytest.raises(NewerSchemaError):
        read_sealed(path, Note, LIMIT_BYTES)


def test_a_damaged_file_does_not_pass_for_a_newer_one(path: Path) -> None:
    path.write_bytes(seal(Note(schema=SCHEMA)).replace(b'"schema":2', b'"schema":3'))
    with pytest.raises(ConfigError, match="is damaged: its digest is not that of its content"):
        read_sealed(path, Note, LIMIT_BYTES)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"note\.json"):
        read_sealed(path, Note, LIMIT_BYTES)


def test_a_file_larger_than_its_limit_is_not_read(path: Path) -> None:
    path.write_bytes(seal(Note(text=LIMIT_BYTES * "x")))
    with pytest.raises(ConfigError, match=str(LIMIT_BYTES)):
        read_sealed(path, Note, LIMIT_BYTES)


@pytest.mark.parametrize("content", [b"{}", b'{"a":1}\n', b"{\n}", b"{}\n" + 64 * b"0"])
def test_any_content_comes_out_of_its_seal(content: bytes) -> None:
    assert unseal_line(seal_line(content), what="it") == content
