"""A report as data, in words, and beside another."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json
from asdic.quantization import text
from asdic.quantization.difference import (
    Difference,
    Figure,
    describe,
    describe_layer,
    difference,
)
from asdic.quantization.gate import Verdict
from asdic.quantization.report import (
    Simulation,
    read_report,
    report_folders,
    report_pairs,
    report_schema,
)
from asdic.quantization.speed import Speed
from tests.support.report_schema import published
from tests.support.reports import ENVIRONMENT, FASTER, SLOWER, report_with, write_report

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


def write_json(folder: Path, **changes: object) -> Path:
    """Write a report's file with some fields replaced; None leaves one out."""
    values = {**json.loads(canonical_json(report_with())), **changes}
    path = folder / "report.json"
    path.write_text(json.dumps({name: one for name, one in values.items() if one is not None}))
    return path


def figure(found: Difference, name: str) -> Figure:
    return next(one for one in found.figures if one.name == name)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = report_with()
    assert read_report(write_report(tmp_path, report)) == report


def test_a_report_is_read_by_its_file_too(tmp_path: Path) -> None:
    assert read_report(write_json(tmp_path)) == report_with()


def test_a_report_of_an_older_asdic_is_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path, format=None)
    with pytest.raises(ConfigError, match=r"report.json is of an older asdic.*--force$"):
        read_report(path)


def test_a_report_of_a_newer_asdic_is_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path, format="asdic-report/2")
    with pytest.raises(ConfigError, match="has the format 'asdic-report/2'; this asdic reads"):
        read_report(path)


def test_a_damaged_report_says_where(tmp_path: Path) -> None:
    path = write_json(tmp_path, limit="much")
    with pytest.raises(ConfigError, match=r"report.json is damaged: .*limit"):
        read_report(path)


def test_the_reports_of_a_call_are_found(tmp_path: Path) -> None:
    folders = tuple(write_report(tmp_path / name) for name in ("arm", "x86"))
    assert report_folders(tmp_path) == folders


def test_a_folder_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no report.json in "):
        report_folders(tmp_path)


def test_reports_of_two_calls_are_paired_by_target(tmp_path: Path) -> None:
    for name in ("before/arm", "before/x86", "after/x86", "after/jetson"):
        write_report(tmp_path / name)
    pairs = report_pairs(tmp_path / "before", tmp_path / "after")
    assert pairs == ((tmp_path / "before/x86", tmp_path / "after/x86"),)


def test_two_reports_are_paired_whatever_their_targets(tmp_path: Path) -> None:
    arm, x86 = (write_report(tmp_path / name) for name in ("arm", "x86"))
    assert report_pairs(arm, x86) == ((arm, x86),)


def test_calls_without_a_common_target_are_refused(tmp_path: Path) -> None:
    for name in ("before/arm", "before/x86", "after/jetson"):
        write_report(tmp_path / name)
    with pytest.raises(ConfigError, match="have no target in common; name two variants"):
        report_pairs(tmp_path / "before", tmp_path / "after")


def test_the_published_schema_is_that_of_the_types() -> None:
    assert PUBLISHED.read_text() == published(), "run `make docs`"


def test_a_report_fits_the_published_schema() -> None:
    jsonschema.validate(json.loads(canonical_json(report_with())), report_schema())


def test_a_slower_int8_is_said_before_the_verdict() -> None:
    line = text.headline(report_with(speed=(FASTER, SLOWER)))
    assert line.startswith(
        "x86-openvino-int8: INT8 IS SLOWER than FP32, 1.40 times its time with 2 threads"
    )


def test_an_int8_that_may_be_as_fast_is_not_called_slower() -> None:
    unsure = msgspec.structs.replace(SLOWER, ratio_ci95=(0.99, 1.5))
    assert "SLOWER" not in text.headline(report_with(speed=(unsure,)))


def test_a_slower_int8_comes_before_a_failure_and_that_before_a_pass() -> None:
    reports = [
        report_with(target="passed"),
        report_with(target="failed", verdict=Verdict.FAIL),
        report_with(target="slower", speed=(SLOWER,)),
    ]
    order = [one.target for one in sorted(reports, key=text.urgency)]
    assert order == ["slower", "failed", "passed"]


def test_equal_tensors_are_called_equal() -> None:
    assert "equal" in text.accuracy_row(report_with(sqnr_db=None))


def test_where_a_target_does_not_run_the_command_to_measure_is_given() -> None:
    report = report_with(speed=None, measure_with="asdic bench jetson-orin-int8")
    assert text.cost_row(report)[-1] == "measure: asdic bench jetson-orin-int8"


def test_the_worst_part_is_named() -> None:
    assert "worst part: ward 7, 12 samples, +1.50 (+0.40 to +2.60)" in text.remarks([report_with()])


def test_a_recipe_that_could_not_be_carried_out_is_said_with_its_reason() -> None:
    lines = list(text.remarks([report_with()]))
    assert "static-wi8-ai8-average was tried and came to no memory" in lines


def test_the_calibrations_worth_is_said() -> None:
    words = "the ranges are stable after 40 of 64 samples; 0.1 % of what judges lies outside"
    assert any(line.startswith(words) for line in text.remarks([report_with()]))


def _simulation(*, drop: float, ci95: tuple[float, float], sqnr_db: float) -> Simulation:
    """Return a simulation beside kernels that came to 38 dB."""
    return Simulation(
        judged_by="float",
        samples=64,
        drop=drop,
        ci95=ci95,
        sqnr_db=sqnr_db,
        kernels_drop=0.3,
        kernels_ci95=(0.2, 0.5),
        kernels_sqnr_db=38.0,
    )


def test_what_the_kernels_lost_is_not_blamed_on_quantization() -> None:
    simulation = _simulation(drop=0.1, ci95=(0.0, 0.2), sqnr_db=50.0)
    lines = text.remarks([report_with(simulation=simulation)])
    assert any("the difference is the kernels', not quantization's" in line for line in lines)


def test_kernels_that_agree_with_the_simulation_are_not_mentioned() -> None:
    simulation = _simulation(drop=0.2, ci95=(0.1, 0.4), sqnr_db=38.5)
    lines = text.remarks([report_with(simulation=simulation)])
    assert not any("kernels" in line for line in lines)


def test_layers_are_compared_by_name_the_worst_first() -> None:
    layers = report_with().layers
    worse = msgspec.structs.replace(layers[1], sqnr_db=20.0)
    found = difference(report_with(), report_with(layers=(layers[0], worse)))
    assert [(one.name, one.change) for one in found.layers] == [("last", -10.0), ("first", 0.0)]


def test_a_layer_that_one_report_lacks_says_so() -> None:
    found = difference(report_with(), report_with(layers=report_with().layers[:1]))
    gone = next(one for one in found.layers if one.name == "last")
    assert describe_layer(gone) == ("last", "30.0 dB, float", "no such layer", "")


def test_what_became_of_the_samples_is_said() -> None:
    words = "64 calibrate, 40 judge, 2 with nothing in them, which do not calibrate"
    assert f"110 samples: {words}" in text.remarks([report_with()])


def test_what_holds_for_all_targets_is_said_once() -> None:
    lines = list(text.remarks([report_with(target="one"), report_with(target="other")]))
    assert lines.count("a remark") == 1


def test_what_holds_for_one_target_names_it() -> None:
    other = report_with(target="other", remarks=("another",))
    assert "other: another" in text.remarks([report_with(), other])


def test_equal_reports_have_no_conditions_that_differ() -> None:
    found = difference(report_with(), report_with())
    assert found.conditions == ()
    assert not any(one.change for one in found.figures)


def test_another_version_of_a_tool_is_named() -> None:
    tools = {"nncf": "3.5.0", "torch": "2.13.0"}
    newer = msgspec.structs.replace(ENVIRONMENT, tools=tools)
    (condition,) = difference(report_with(), report_with(environment=newer)).conditions
    assert (condition.what, condition.before, condition.after) == ("nncf", "3.4.0", "3.5.0")


@pytest.mark.parametrize(
    ("field", "what"),
    [("model_digest", "model"), ("data_digest", "data"), ("recipe", "recipe")],
)
def test_what_went_in_differently_is_named(field: str, what: str) -> None:
    (condition,) = difference(report_with(), report_with(**{field: "other"})).conditions
    assert condition.what == what


def test_a_smaller_drop_is_better() -> None:
    found = figure(difference(report_with(), report_with(drop=0.1)), "drop, dice")
    assert (found.better, found.certain) == (True, False)


def test_intervals_that_are_apart_are_certain() -> None:
    worse = report_with(drop=2.0, ci95=(1.5, 2.5))
    found = figure(difference(report_with(), worse), "drop, dice")
    assert (found.better, found.certain) == (False, True)


def test_points_of_different_metrics_are_not_compared() -> None:
    found = figure(difference(report_with(), report_with(metric="iou", drop=9.0)), "drop")
    assert (found.change, found.better, found.certain) == (None, None, None)


def test_times_are_compared_where_both_were_measured() -> None:
    found = difference(report_with(speed=(FASTER, SLOWER)), report_with(speed=(SLOWER,)))
    assert [one.name for one in found.figures if "thread" in one.name] == [
        "INT8 with 2 threads",
        "INT8 : FP32 with 2 threads",
    ]


def test_an_unchanged_figure_is_called_the_same() -> None:
    found = difference(report_with(), report_with())
    assert {describe(one)[-1] for one in found.figures} == {"same"}


def test_a_change_within_the_noise_says_so() -> None:
    slower = Speed(threads=1, int8_ms_p50=2.1, fp32_ms_p50=4.0, ratio=0.52, ratio_ci95=(0.5, 0.55))
    found = difference(report_with(), report_with(speed=(slower,)))
    assert describe(figure(found, "INT8 : FP32 with 1 thread"))[-1].endswith(
        "worse (intervals overlap)"
    )
