"""Results: schema, raw samples, signatures, differences, limits and the page."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.cli.bench import bench
from asdic.cli.qualify import WAIVABLE as SHOWN
from asdic.contract.bench import (
    BenchReport,
    PackedSamples,
    ThrottlingVerdict,
    bench_schema,
    parse_bench,
)
from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.trust import public_hex
from asdic.contract.variant import FileRef, Limits, read_variant
from asdic.device.bench.diff import FIGURES, diff, parse_budget
from asdic.device.bench.intervals import estimate
from asdic.device.bench.plot import page
from asdic.device.bench.qualify import WAIVABLE, limits_from, qualify
from asdic.device.bench.samples import unpack_ms
from asdic.device.bench.signing import SignedResult, read_result, sign_result
from tests.conftest import REPOSITORY
from tests.support.bench import make_result
from tests.support.bench_schema import published
from tests.support.models import make_tiny_variant

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LATENCIES = np.random.default_rng(1).lognormal(np.log(5.0), 0.1, 3_000)


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_variant(tmp_path_factory.mktemp("variant") / "tiny")


def files_of(variant: Path) -> tuple[FileRef, ...]:
    return read_variant(variant).files


def result_of(variant: Path, **changes: object) -> BenchReport:
    return make_result(LATENCIES, files=files_of(variant), **changes)  # type: ignore[arg-type]


def trusted(report: BenchReport) -> list[tuple[str, SignedResult]]:
    return [("lab1.json", SignedResult(report=report, signer=public_hex(KEY)))]


# The schema and the samples


def test_the_published_schema_is_that_of_the_types() -> None:
    text = (REPOSITORY / "docs" / "bench.schema.json").read_text()
    assert text == published(), "run `make docs`"


def test_the_schema_is_one_and_accepts_a_result() -> None:
    schema = bench_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(canonical_json(make_result(LATENCIES))), schema)


def test_the_schema_refuses_what_is_no_result() -> None:
    damaged = json.loads(canonical_json(make_result(LATENCIES)))
    del damaged["runs"][0]["burst"]["latency"]["samples"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, bench_schema())


def test_every_percentile_can_be_computed_again_from_the_samples() -> None:
    burst = make_result(LATENCIES).runs[0].burst
    assert burst is not None
    samples_ms = unpack_ms(burst.latency.samples)
    for one in burst.latency.percentiles:
        assert estimate(samples_ms, one.q) == one


@pytest.mark.parametrize(
    "packed",
    [
        PackedSamples(count=2, unit_ns=1, every=1, data="####"),
        PackedSamples(count=2, unit_ns=1, every=1, data="AAAA"),
        PackedSamples(count=1 << 40, unit_ns=1, every=1, data=""),
        PackedSamples(count=-1, unit_ns=1, every=1, data=""),
    ],
)
def test_damaged_samples_are_refused(packed: PackedSamples) -> None:
    with pytest.raises(ConfigError):
        unpack_ms(packed)


def test_fewer_samples_than_promised_are_refused() -> None:
    burst = make_result(LATENCIES).runs[0].burst
    assert burst is not None
    with pytest.raises(ConfigError, match="are there"):
        unpack_ms(msgspec.structs.replace(burst.latency.samples, count=3_001))


def test_a_result_of_another_format_is_refused() -> None:
    other = msgspec.structs.replace(make_result(LATENCIES), format="asdic-bench/9")
    with pytest.raises(ConfigError, match="asdic-bench/9"):
        parse_bench(canonical_json(other))


# Signatures


def test_a_signed_result_is_believed_with_its_key(tmp_path: Path) -> None:
    report = make_result(LATENCIES)
    (tmp_path / "a.json").write_bytes(sign_result(report, KEY))
    found = read_result(tmp_path / "a.json", trusted=[public_hex(KEY)])
    assert found.report == report
    assert found.signer == public_hex(KEY)


def test_a_result_signed_by_another_key_is_read_but_not_believed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(sign_result(make_result(LATENCIES), KEY))
    other = public_hex(Ed25519PrivateKey.generate())
    found = read_result(tmp_path / "a.json", trusted=[other])
    assert found.signer is None
    assert len(found.claimed_keys) == 1


def test_a_result_changed_after_signing_is_not_believed(tmp_path: Path) -> None:
    envelope = json.loads(sign_result(make_result(LATENCIES), KEY))
    envelope["payload"] = json.loads(sign_result(make_result(LATENCIES / 2), KEY))["payload"]
    (tmp_path / "a.json").write_text(json.dumps(envelope))
    assert read_result(tmp_path / "a.json", trusted=[public_hex(KEY)]).signer is None


# Differences


def changes_of(factor: float, *budgets: str) -> dict[str, bool | None]:
    found = diff(
        make_result(LATENCIES), make_result(LATENCIES * factor), [*map(parse_budget, budgets)]
    )
    return {change.figure: change.regressed for change in found}


def test_a_figure_within_its_budget_has_not_regressed() -> None:
    assert changes_of(1.04, "p99=+5%")["p99"] is False
    assert changes_of(1.04)["p99"] is None


def test_a_figure_over_its_budget_has_regressed() -> None:
    found = changes_of(1.06, "p99=+5%", "throughput=-5%")
    assert (found["p99"], found["throughput"]) == (True, True)


def test_a_figure_that_is_gone_has_regressed() -> None:
    few = make_result(LATENCIES[:100])
    found = diff(make_result(LATENCIES), few, [parse_budget("p99=+50%")])
    assert {one.figure: one.regressed for one in found}["p99"] is True


def test_an_absolute_budget_is_in_the_figures_own_unit() -> None:
    before, after = make_result(LATENCIES, points=90.0), make_result(LATENCIES, points=89.4)
    for text, regressed in (("accuracy=-0.5", True), ("accuracy=-1", False)):
        found = diff(before, after, [parse_budget(text)])
        assert {one.figure: one.regressed for one in found}["accuracy"] is regressed


@pytest.mark.parametrize("text", ["p99", "p98=+5%", "p99=-5%", "throughput=+5%", "p99=5x"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_budget(text)


def test_results_for_other_targets_are_not_compared() -> None:
    other = make_result(LATENCIES, target="x86-litert-int8")
    with pytest.raises(ConfigError, match="cannot be compared"):
        diff(make_result(LATENCIES), other, [])


def test_every_figure_is_in_the_difference_of_a_whole_result() -> None:
    assert set(changes_of(1.0)) >= {"p50", "p99", "throughput", "load", "memory", "accuracy"}
    assert set(changes_of(1.0)) <= set(FIGURES)


@pytest.mark.parametrize(("factor", "code"), [(1.02, 0), (1.2, 1)])
def test_the_command_fails_on_a_regression(tmp_path: Path, factor: float, code: int) -> None:
    for name, times in (("a", LATENCIES), ("b", LATENCIES * factor)):
        (tmp_path / f"{name}.json").write_bytes(canonical_json(make_result(times)))
    done = CliRunner().invoke(
        bench, ["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--budget", "p99=+5%"]
    )
    assert (1 if isinstance(done.exception, ReleaseError) else done.exit_code) == code
    assert "p99" in done.stdout


# Limits


def test_qualifying_writes_the_limits_into_the_variant(variant: Path) -> None:
    limits = qualify(variant, trusted(result_of(variant)), headroom=0.25)
    p50 = result_of(variant).runs[0].burst.latency.at(0.5)  # type: ignore[union-attr]
    assert limits.latency_ms == pytest.approx(p50.high_ms * 1.25, rel=0.1)  # type: ignore[operator]
    assert limits.latency_ms > p50.high_ms * 1.25  # type: ignore[operator]
    assert limits.load_s == 2.5
    assert limits.memory_bytes == 250 << 20
    assert read_variant(variant).limits == limits


def test_qualifying_again_changes_nothing(variant: Path) -> None:
    qualify(variant, trusted(result_of(variant)))
    before = (variant / "variant.json").read_bytes()
    qualify(variant, trusted(result_of(variant)))
    assert (variant / "variant.json").read_bytes() == before


def test_the_slowest_box_decides() -> None:
    slow, fast = make_result(LATENCIES * 3), make_result(LATENCIES)
    both = limits_from([fast, slow], Limits(slowdown=2.0), headroom=0.0)
    assert both.latency_ms == limits_from([slow], Limits(), headroom=0.0).latency_ms
    assert both.slowdown == 2.0


OBJECTIONS = (
    ({"quiet": False}, "noisy", "not quiet"),
    ({"throttling": ThrottlingVerdict.SUSPECTED}, "throttled", "suspected"),
    ({"simulated": True}, "stand-in", "stood in"),
    ({"interrupted": "burst"}, None, "incomplete"),
    ({"points": 10.0}, None, "golden check failed"),
    ({"target": "x86-litert-int8"}, None, "is for x86-litert-int8"),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "waiver", "words"), OBJECTIONS)
def test_a_result_that_proves_too_little_does_not_count(
    variant: Path, changes: dict[str, object], waiver: str | None, words: str
) -> None:
    results = trusted(result_of(variant, **changes))
    with pytest.raises(ReleaseError, match=words):
        qualify(variant, results)
    if waiver is None:
        with pytest.raises(ReleaseError, match=words):
            qualify(variant, results, allow=WAIVABLE)
    else:
        qualify(variant, results, allow=[waiver])


def test_an_unsigned_result_does_not_count_unless_told(variant: Path) -> None:
    unsigned = [("a.json", SignedResult(report=result_of(variant), signer=None))]
    with pytest.raises(ReleaseError, match="not signed"):
        qualify(variant, unsigned)
    qualify(variant, unsigned, allow=["unsigned"])


def test_a_result_of_another_model_does_not_count(variant: Path) -> None:
    other = (FileRef(name="model.xml", digest="sha256:" + "0" * 64, size_bytes=1),)
    with pytest.raises(ReleaseError, match="another model"):
        qualify(variant, trusted(make_result(LATENCIES, files=other)), allow=WAIVABLE)


def test_the_command_names_every_waiver() -> None:
    assert SHOWN == WAIVABLE


# The page


def test_the_page_stands_by_itself_and_shows_latency_and_distribution() -> None:
    text = page(make_result(LATENCIES))
    assert text.count("<svg") == 2
    assert "<script" not in text
    assert "http" not in text
    assert "p99" in text


def test_the_page_escapes_what_a_result_says() -> None:
    report = make_result(LATENCIES)
    measured = msgspec.structs.replace(report.measured, model="<b>bold</b>")
    assert "<b>" not in page(msgspec.structs.replace(report, measured=measured))
