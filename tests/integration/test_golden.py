"""The golden set: written by a real runtime, read with suspicion, checked on the device."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError, ReleaseError
from asdic.contract.files import sha256_of
from asdic.contract.variant import (
    VARIANT_FILE,
    FileRef,
    GoldenSet,
    encode_variant,
    read_variant,
)
from asdic.device.runner import archive
from asdic.device.runner.golden import (
    GOLDEN_FILE,
    INCOMPARABLE,
    GoldenSample,
    check_golden,
    read_golden,
    record_golden,
    weakness,
    write_golden,
)
from asdic.device.runner.runner import Runner
from tests.support.models import labelled_discs, make_tiny_variant

SAMPLE = GoldenSample(
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.ones((2, 3), np.uint8),
    {"scope/logits:0": np.array([[0.5, -0.0]], np.float32)},
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny variant, not to be changed."""
    return make_tiny_variant(tmp_path_factory.mktemp("golden") / "variant")


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    """A tiny variant that a test may change."""
    return Path(shutil.copytree(good, tmp_path / "variant"))


def change_golden(folder: Path, **changes: object) -> None:
    """Write the golden set's description anew, with the file's present digest."""
    variant = read_variant(folder, check=False)
    path = folder / GOLDEN_FILE
    file = msgspec.structs.replace(
        variant.golden.file, digest=sha256_of(path), size_bytes=path.stat().st_size
    )
    golden = msgspec.structs.replace(variant.golden, **{"file": file} | changes)
    (folder / VARIANT_FILE).write_bytes(
        encode_variant(msgspec.structs.replace(variant, golden=golden))
    )


def check(folder: Path):
    with Runner.open(folder, threads=1) as runner:
        return check_golden(runner, folder)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_archive(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_samples_come_back_as_they_were_written(tmp_path):
    several = GoldenSample({"a": np.zeros(2), "b/c": np.ones((1, 2), np.int8)}, np.array(3))
    write_golden(tmp_path / GOLDEN_FILE, [SAMPLE, several])
    first, second = read_golden(tmp_path / GOLDEN_FILE)
    np.testing.assert_array_equal(first.inputs, SAMPLE.inputs)
    assert first.inputs.dtype == np.uint8
    np.testing.assert_array_equal(first.reference, SAMPLE.reference)
    assert {name: array.tolist() for name, array in first.outputs.items()} == {
        "scope/logits:0": [[0.5, 0.0]]
    }
    assert set(second.inputs) == {"a", "b/c"}
    assert second.inputs["b/c"].dtype == np.int8
    assert second.reference == 3
    assert second.outputs == {}


def test_equal_samples_are_equal_bytes(tmp_path):
    first = write_golden(tmp_path / "1" / GOLDEN_FILE, [SAMPLE])
    second = write_golden(tmp_path / "2" / GOLDEN_FILE, [SAMPLE])
    assert first == second
    with zipfile.ZipFile(tmp_path / "1" / GOLDEN_FILE) as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_output_that_is_not_a_number_is_not_recorded(tmp_path):
    bad = GoldenSample(SAMPLE.inputs, SAMPLE.reference, {"x": np.array([np.nan], np.float32)})
    with pytest.raises(ReleaseError, match="'x' of golden sample 0 is not finite"):
        write_golden(tmp_path / GOLDEN_FILE, [bad])
    assert not (tmp_path / GOLDEN_FILE).exists()


def test_python_objects_are_not_recorded(tmp_path):
    bad = GoldenSample(np.array([{}], object), SAMPLE.reference)
    with pytest.raises(DataError, match="Python objects"):
        write_golden(tmp_path / GOLDEN_FILE, [bad])


def test_the_same_model_on_the_same_machine_passes_exactly(good):
    result = check(good)
    assert result.passed
    assert result.reason == ""
    assert result.worst_difference == 0.0
    assert result.outputs_checked == 8
    assert len(result.per_sample) == 32
    assert result.measured == read_variant(good).golden.expected


def test_other_weights_fail_though_the_masks_are_as_good(tmp_path):
    folder = make_tiny_variant(tmp_path / "variant", offset=0.01, golden_offset=0.0)
    result = check(folder)
    assert not result.passed
    assert result.measured > result.limit
    assert result.worst_difference == pytest.approx(0.01, abs=1e-4)
    assert "differs by 0.01" in result.reason
    assert "openvino" in result.reason


def test_a_difference_within_the_tolerance_passes(tmp_path):
    folder = make_tiny_variant(tmp_path / "variant", offset=0.01, golden_offset=0.0)
    change_golden(folder, tolerance=0.02)
    assert check(folder).passed


def test_a_metric_below_its_limit_fails(copy):
    change_golden(copy, limit=99.0)
    result = check(copy)
    assert not result.passed
    assert "dice is 95" in result.reason
    assert "the limit is 99.00" in result.reason


def test_an_answer_of_nan_fails(tmp_path):
    folder = make_tiny_variant(tmp_path / "variant", offset=float("nan"), golden_offset=0.0)
    result = check(folder)
    assert not result.passed
    assert "holds NaN" in result.reason
    assert result.worst_difference == INCOMPARABLE
    assert b"null" not in msgspec.json.encode(result)


def test_an_output_of_another_shape_fails(copy):
    samples = list(read_golden(copy / GOLDEN_FILE))
    cut = {"logits": samples[0].outputs["logits"][:, :, :4]}
    samples[0] = GoldenSample(samples[0].inputs, samples[0].reference, cut)
    write_golden(copy / GOLDEN_FILE, samples)
    change_golden(copy)
    assert check(copy).worst_difference == INCOMPARABLE


def test_a_golden_input_that_is_no_image_fails_the_check(copy):
    samples = list(read_golden(copy / GOLDEN_FILE))
    samples[9] = GoldenSample(np.zeros(3, np.uint8), samples[9].reference)
    write_golden(copy / GOLDEN_FILE, samples)
    change_golden(copy)
    assert "an image has shape" in check(copy).reason


def test_a_set_that_holds_less_than_promised_is_refused(copy):
    write_golden(copy / GOLDEN_FILE, read_golden(copy / GOLDEN_FILE)[:-1])
    change_golden(copy)
    with pytest.raises(ReleaseError, match="31 labelled inputs, 8 and 32 are promised"):
        check(copy)


def test_a_set_that_promises_too_little_is_refused(copy):
    change_golden(copy, labelled=31)
    with pytest.raises(ReleaseError, match="a device asks for 1 and 32"):
        check(copy)


def test_a_variant_without_a_golden_set_is_refused(copy):
    variant = msgspec.structs.replace(read_variant(copy), golden=None)
    (copy / VARIANT_FILE).write_bytes(encode_variant(variant))
    with pytest.raises(ConfigError, match="no golden set"):
        check(copy)


def test_an_unknown_metric_is_refused(copy):
    change_golden(copy, metric="beauty")
    with pytest.raises(ConfigError, match="'beauty'"):
        check(copy)


def test_too_few_inputs_make_no_golden_set(good, tmp_path):
    with Runner.open(good, threads=1) as runner, pytest.raises(DataError, match="at least 32"):
        record_golden(
            runner, tmp_path, labelled_discs(31), metric="dice", allowed_drop=1.0, detectable=1.0
        )
    assert not (tmp_path / GOLDEN_FILE).exists()


@pytest.mark.parametrize(
    "members",
    [
        {"input_0.npy": npy(SAMPLE.inputs)},
        {"reference_0.npy": npy(SAMPLE.reference)},
        {"input_1.npy": npy(SAMPLE.inputs), "reference_1.npy": npy(SAMPLE.reference)},
        {"../input_0.npy": npy(SAMPLE.inputs)},
        {"input_9999.npy": npy(SAMPLE.inputs)},
        {"output_0.npy": npy(SAMPLE.inputs)},
        {"input_0.npy": b"no array"},
        {"input_0.npy": npy(SAMPLE.inputs)[:-1]},
        {"input_0.npy": npy(np.array([{}], object))},
        {"input_0.npy": b"\x93NUMPY\x07\x00" + bytes(80)},
    ],
)
def test_what_is_no_golden_set_is_refused(tmp_path, members):
    path = write_archive(tmp_path / GOLDEN_FILE, members)
    with pytest.raises(ReleaseError, match=r"golden\.npz"):
        read_golden(path)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04" + bytes(200)])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / GOLDEN_FILE).write_bytes(data)
    with pytest.raises(ReleaseError, match="is damaged"):
        read_golden(tmp_path / GOLDEN_FILE)


def test_a_golden_set_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"golden\.npz: No such file"):
        read_golden(tmp_path / GOLDEN_FILE)


def test_every_truncation_is_refused(good, tmp_path):
    data = (good / GOLDEN_FILE).read_bytes()
    path = tmp_path / GOLDEN_FILE
    for length in range(0, len(data), 997):
        path.write_bytes(data[:length])
        with pytest.raises(ReleaseError):
            read_golden(path)


def test_a_flipped_byte_gives_the_same_arrays_or_an_error(tmp_path):
    path = tmp_path / GOLDEN_FILE
    write_golden(path, [SAMPLE])
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            samples = read_golden(path)
        except ReleaseError:
            continue
        np.testing.assert_array_equal(samples[0].inputs, SAMPLE.inputs)


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path):
    bomb = npy(np.zeros(archive.MEMBER_LIMIT_BYTES, np.uint8))
    path = write_archive(
        tmp_path / GOLDEN_FILE, {"input_0.npy": bomb}, compression=zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ReleaseError, match="would unpack to 1 members"):
        read_golden(path)


def test_a_bomb_that_lies_about_its_size_is_cut_off(tmp_path):
    bomb = npy(np.zeros(4 << 20, np.uint8))
    path = write_archive(
        tmp_path / GOLDEN_FILE, {"input_0.npy": bomb}, compression=zipfile.ZIP_DEFLATED
    )
    size = len(bomb).to_bytes(4, "little")
    assert path.read_bytes().count(size) == 2
    path.write_bytes(path.read_bytes().replace(size, (500).to_bytes(4, "little")))
    with pytest.raises(ReleaseError, match="is damaged"):
        read_golden(path)


def test_a_header_that_promises_a_terabyte_is_not_believed(tmp_path):
    header = npy(np.zeros((1, 10), np.uint8)).replace(
        b"(1, 10), }" + b" " * 8, b"(999999999, 10), }"
    )
    assert b"(999999999, 10)" in header
    path = write_archive(tmp_path / GOLDEN_FILE, {"input_0.npy": header})
    with pytest.raises(ReleaseError, match="does not hold"):
        read_golden(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_unpacks_without_bounds_is_refused(tmp_path, method):
    path = write_archive(
        tmp_path / GOLDEN_FILE, {"input_0.npy": npy(SAMPLE.inputs)}, compression=method
    )
    with pytest.raises(ReleaseError, match="deflate"):
        read_golden(path)


def test_a_set_keeps_what_each_input_had(good):
    golden = read_variant(good).golden
    assert golden.points == check(good).per_sample


def make_one_input_worse(folder: Path) -> None:
    """Let the last labelled input, whose outputs are not recorded, ask for the contrary."""
    samples = list(read_golden(folder / GOLDEN_FILE))
    samples[31] = GoldenSample(samples[31].inputs, 1 - samples[31].reference)
    write_golden(folder / GOLDEN_FILE, samples)


def test_one_input_that_is_lost_fails_although_the_mean_holds(copy):
    make_one_input_worse(copy)
    change_golden(copy, limit=90.0, tolerance=1.0)
    result = check(copy)
    assert result.measured > 90.0
    assert re.match(r"golden input 31: dice is .* and one input may lose 25", result.reason)


def test_on_an_engine_that_repeats_its_bits_an_input_may_lose_nothing(copy):
    points = read_variant(copy).golden.points
    change_golden(copy, limit=90.0, points=(points[0] + 0.01, *points[1:]))
    assert "golden input 0: " in check(copy).reason
    change_golden(copy, tolerance=1.0)
    assert check(copy).passed


def test_a_set_from_before_points_were_kept_is_judged_by_its_mean(copy):
    make_one_input_worse(copy)
    change_golden(copy, limit=90.0, points=())
    assert b"points" not in (copy / VARIANT_FILE).read_bytes()
    assert check(copy).passed


def test_points_for_another_number_of_inputs_are_refused(copy):
    change_golden(copy, points=(100.0,))
    with pytest.raises(ReleaseError, match="the points of 1 of 32 inputs"):
        check(copy)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ((0, 1), "class 0: 0 of 2 golden inputs are still right that were when recorded"),
        ((0,), ""),
        ((2, 4), ""),
    ],
    ids=["a whole class", "half of one", "one each of two"],
)
def test_a_class_that_is_lost_fails_although_the_mean_holds(lost, reason):
    samples = tuple(GoldenSample(np.zeros(1), np.array(number // 2)) for number in range(32))
    now = [0.0 if number in lost else 100.0 for number in range(32)]
    golden = GoldenSet(
        file=FileRef(name=GOLDEN_FILE, digest="", size_bytes=0),
        recorded=8,
        recorded_on="here",
        tolerance=0.5,
        labelled=32,
        metric="top1",
        expected=100.0,
        limit=90.0,
        detectable_loss=9.0,
        points=(100.0,) * 32,
    )
    assert weakness(golden, now, samples) == reason
