"""MCUboot images: made, read, verified, and refused where they are not what they say."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError
from asdic.contract.variant import FIRMWARE_LIMIT_BYTES, FrameFormat
from asdic.firmware_bridge.image import (
    BOARD,
    DIGEST,
    HEADER_BYTES,
    Dependency,
    FirmwareImageError,
    packed_frames,
    parse_image,
    payload_of,
)
from asdic.firmware_bridge.image_gate import check_fits
from asdic.firmware_bridge.image_keys import (
    KeyKind,
    check_private_key,
    check_signature,
    make_key,
    read_public_key,
)
from asdic.firmware_bridge.image_making import ImageSpec, make_image, make_model_image
from asdic.firmware_bridge.link import FirmwareInfo
from tests.support.firmware import MODEL, PROGRAM, firmware_image

FRAMES = FrameFormat(height=512, width=640, dtype="uint8", scale=1 / 255, channels="grey")
SPEC = ImageSpec(
    version="3.1.4+15",
    slot_bytes=64 << 10,
    board="nucleo_h743zi/stm32h743xx",
    security_counter=9,
    dependencies=(Dependency(image=0, version="1.4.0"),),
    frames=FRAMES,
)


@pytest.fixture(scope="module", params=list(KeyKind), ids=lambda kind: kind.value)
def key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "firmware.pem"
    make_key(path, request.param)
    return path


def public(key: Path) -> Path:
    return key.with_name("firmware.pub.pem")


def test_a_model_image_says_all_that_it_was_given(key: Path) -> None:
    data = make_model_image(MODEL, SPEC, key=key)
    found = parse_image(data)
    assert payload_of(data, found) == MODEL
    assert not found.is_bootable
    assert (found.version, found.board, found.security_counter) == ("3.1.4+15", SPEC.board, 9)
    assert (found.frames, found.dependencies) == (FRAMES, SPEC.dependencies)
    check_signature(data, read_public_key(public(key)))
    assert found.signature in {"ed25519", "ecdsa"}


def test_a_program_boots_and_its_room_for_a_header_is_used() -> None:
    spec = ImageSpec(version="1.0.0", slot_bytes=64 << 10, header_bytes=512)
    with_room = make_image(bytes(512) + PROGRAM, spec, key=None)
    without = make_image(PROGRAM, spec, key=None)
    assert len(with_room) == len(without)
    for data in (with_room, without):
        assert parse_image(data).is_bootable
        assert payload_of(data, parse_image(data)) == PROGRAM


def test_another_key_is_named(key: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "other.pem", KeyKind.ED25519)
    data = make_image(PROGRAM, SPEC, key=key)
    with pytest.raises(FirmwareImageError, match="signed with another key"):
        check_signature(data, read_public_key(tmp_path / "other.pub.pem"))


def test_a_wrong_signature_is_found(key: Path) -> None:
    data = bytearray(make_image(PROGRAM, SPEC, key=key))
    data[-9] ^= 1  # in the signature, which is the last TLV
    with pytest.raises(FirmwareImageError, match="signature of the image is wrong"):
        check_signature(bytes(data), read_public_key(public(key)))


def test_an_unsigned_image_is_not_signed(key: Path) -> None:
    with pytest.raises(FirmwareImageError, match="not signed"):
        check_signature(firmware_image(), read_public_key(public(key)))


def test_one_flipped_bit_of_what_is_signed_is_found() -> None:
    image = firmware_image()
    for at in range(HEADER_BYTES, len(image) - 40, 997):
        damaged = bytearray(image)
        damaged[at] ^= 0x10
        with pytest.raises(FirmwareImageError, match="damaged"):
            parse_image(bytes(damaged))


@pytest.mark.parametrize("left", [0, 3, 31, 32, 5_000, -41, -40, -1])
def test_a_cut_off_image_is_refused(left: int) -> None:
    with pytest.raises(FirmwareImageError, match=r"cut off|no MCUboot image"):
        parse_image(firmware_image()[:left])


def test_an_image_larger_than_any_slot_is_refused_before_it_is_read() -> None:
    with pytest.raises(FirmwareImageError, match="at most"):
        parse_image(firmware_image() + bytes(FIRMWARE_LIMIT_BYTES))


def test_an_image_with_another_hash_is_said_to_have_none_that_is_read() -> None:
    image = bytearray(firmware_image())
    assert image[-36] == DIGEST
    image[-36] = 0x12  # SHA-512
    with pytest.raises(FirmwareImageError, match="no SHA-256"):
        parse_image(bytes(image))


def test_an_encrypted_image_is_said_to_be() -> None:
    image = bytearray(firmware_image())
    image[16] |= 0x4
    with pytest.raises(FirmwareImageError, match="encrypted"):
        parse_image(bytes(image))


@given(data=st.data())
def test_no_change_of_an_image_escapes_or_ends_in_a_traceback(data: st.DataObject) -> None:
    image = bytearray(COMPLETE)
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_image(bytes(image))
    except FirmwareImageError:
        return
    # The digest does not cover the TLVs after it, and those say nothing of the image.
    assert msgspec.structs.replace(found, signature=None) == parse_image(COMPLETE)


@given(st.binary(max_size=400))
def test_no_header_ends_in_a_traceback(tail: bytes) -> None:
    with pytest.raises(FirmwareImageError):
        parse_image(COMPLETE[:8] + tail)


COMPLETE = make_model_image(MODEL[:64], SPEC, key=None)


def test_a_board_that_is_no_name_is_refused() -> None:
    image = COMPLETE.replace(b"nucleo", b"\x1b[31mo")
    at = image.index(b"\x1b[31mo")
    kind, _ = struct.unpack_from("<HH", image, at - 4)
    assert kind == BOARD
    with pytest.raises(FirmwareImageError):
        parse_image(image)


def test_frames_are_the_struct_of_the_firmware_side() -> None:
    assert struct.unpack("<IIIId", packed_frames(FRAMES)) == (512, 640, 1, 1, 1 / 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot_bytes": 4096}, "do not fit a slot"),
        ({"slot_bytes": 8 << 10}, "exceeds"),
        ({"slot_bytes": 65_001}, "multiple"),
        ({"slot_bytes": 0}, "cannot be"),
        ({"slot_bytes": 1 << 30}, "cannot be"),
        ({"header_bytes": 16}, "header"),
        ({"header_bytes": 40}, "not aligned"),
        ({"align": 3}, "writes"),
        ({"version": "3.1"}, "not a firmware version"),
        ({"version": "300.0.0"}, "not a firmware version"),
        ({"board": "a\nb"}, "board's name"),
        ({"dependencies": (Dependency(image=0, version="x"),)}, "not a firmware version"),
        ({"frames": FrameFormat(height=0, width=1)}, "height"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, FirmwareImageError), match=message):
        make_model_image(MODEL, msgspec.structs.replace(SPEC, **change), key=None)


def test_an_image_is_not_wrapped_again() -> None:
    with pytest.raises(FirmwareImageError, match="image already"):
        make_image(firmware_image(), SPEC, key=None)


def test_what_is_no_tflite_file_is_no_model() -> None:
    with pytest.raises(ConfigError, match="TFL3"):
        make_model_image(PROGRAM, SPEC, key=None)


def test_imgtool_itself_takes_the_image(key: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(make_model_image(MODEL, SPEC, key=key))
    from imgtool.main import verify

    verify.main(args=["--key", str(key), str(path)], standalone_mode=False)


# -- keys


def test_a_private_key_is_its_owners_alone(key: Path, tmp_path: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    open_to_all = tmp_path / "open.pem"
    open_to_all.write_bytes(key.read_bytes())
    open_to_all.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        make_image(PROGRAM, SPEC, key=open_to_all)


def test_a_key_is_never_replaced(key: Path) -> None:
    before = key.read_bytes()
    with pytest.raises(ConfigError, match="not replaced"):
        make_key(key, KeyKind.ED25519)
    assert key.read_bytes() == before


def test_a_key_is_not_made_among_sources(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(ConfigError, match="git work tree"):
        make_key(tmp_path / "deep" / "firmware.pem", KeyKind.ED25519)
    assert not (tmp_path / "deep").exists()


def test_a_private_key_is_not_taken_for_a_public_one(key: Path) -> None:
    with pytest.raises(ConfigError, match="private key"):
        read_public_key(key)
    public(key).chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key"):
        check_private_key(public(key))


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"\0" * 9000])
def test_what_is_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    for read in (read_public_key, check_private_key):
        with pytest.raises(ConfigError):
            read(path)


# -- the gate before an upload


def info(board: str = "simulated", version: str = "1.4.0") -> FirmwareInfo:
    return FirmwareInfo(
        board=board, version=version, slots=(), slot_bytes=64 << 10, can_test_boot=True
    )


def test_an_image_for_this_board_fits() -> None:
    check_fits(parse_image(firmware_image()), info())
    check_fits(parse_image(firmware_image(board=None)), info(), board="simulated")
    check_fits(parse_image(firmware_image(board="other")), info(board=""), any_board=True)


@pytest.mark.parametrize(
    ("image", "found", "said", "message"),
    [
        ("other", "simulated", None, "for the board 'other', and this is 'simulated'"),
        ("other", "simulated", "simulated", "'other', not 'simulated'"),
        (None, "simulated", None, "does not say for which board"),
        (None, "simulated", "other", "'other', and this is 'simulated'"),
        ("simulated", "", None, "does not say what it is"),
    ],
)
def test_an_image_for_another_board_does_not_fit(
    image: str | None, found: str, said: str | None, message: str
) -> None:
    with pytest.raises(FirmwareImageError, match=message):
        check_fits(parse_image(firmware_image(board=image)), info(board=found), board=said)


@pytest.mark.parametrize("version", ["1.3.9", ""])
def test_a_model_that_needs_newer_firmware_does_not_fit(version: str) -> None:
    model = parse_image(make_model_image(MODEL, SPEC, key=None))
    check_fits(model, info(SPEC.board or "", "1.4.0"), number=1)
    with pytest.raises(FirmwareImageError, match=r"needs firmware 1\.4\.0"):
        check_fits(model, info(SPEC.board or "", version), number=1)


def test_a_model_does_not_take_the_place_of_the_firmware() -> None:
    model = parse_image(make_model_image(MODEL, SPEC, key=None))
    with pytest.raises(FirmwareImageError, match="--number of its partition"):
        check_fits(model, info(SPEC.board or ""))


def test_an_image_larger_than_the_slot_does_not_fit() -> None:
    small = msgspec.structs.replace(info(), slot_bytes=1000)
    with pytest.raises(FirmwareImageError, match="a slot of simulated 1000"):
        check_fits(parse_image(firmware_image()), small)
