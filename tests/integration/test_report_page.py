"""The verb ``asdic report`` on files, and the page that it writes."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asdic.cli.report import report as report_verb
from asdic.contract.errors import ConfigError
from asdic.quantization.examples import Example
from asdic.quantization.gate import Verdict
from asdic.quantization.page import page, read_exhibit
from tests.support.reports import PICTURE, SLOWER, report_with, write_report

MARKUP = "<img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(report_verb, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture
def variants(tmp_path: Path) -> Path:
    """The folder of a call: a variant that passed, and one that failed and is slower."""
    write_report(tmp_path / "arm")
    failed = report_with(
        target="jetson-orin-int8",
        verdict=Verdict.FAIL,
        summary="fail: the drop is at least 1.20 points, 0.5 are allowed",
        speed=(SLOWER,),
    )
    write_report(tmp_path / "jetson", failed)
    return tmp_path


@pytest.fixture
def written(variants: Path) -> str:
    """The page about both."""
    invoke(variants, "--html", variants / "out.html")
    return (variants / "out.html").read_text()


def test_the_first_line_printed_says_that_int8_is_slower(variants: Path) -> None:
    first = invoke(variants).stdout.splitlines()[0]
    assert first.startswith("jetson-orin-int8: INT8 IS SLOWER than FP32")


def test_the_first_words_of_the_page_say_that_int8_is_slower(written: str) -> None:
    body = re.sub(r"<[^>]*>", " ", written.split("<body>")[1])
    assert body.split()[:5] == ["jetson-orin-int8:", "INT8", "IS", "SLOWER", "than"]


def test_the_page_asks_for_nothing_outside_itself(written: str) -> None:
    elements = Tags(written).found
    asked = [one[name] for _, one in elements for name in ("src", "href") if name in one]
    assert {str(one)[:5] for one in asked} <= {"data:", "#x86-", "#jets"}
    assert not {"link", "script", "iframe", "object"} & {tag for tag, _ in elements}
    assert "url(" not in written
    assert "://" not in written


def test_the_page_forbids_all_but_its_own_style_and_pictures(written: str) -> None:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    metas = [attributes for tag, attributes in Tags(written).found if tag == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in metas


def test_the_page_holds_the_pictures_themselves(variants: Path, written: str) -> None:
    picture = base64.b64encode((variants / "arm" / PICTURE).read_bytes()).decode()
    assert written.count(picture) == 2


def test_the_page_has_a_plot_for_each_drop_and_speed(written: str) -> None:
    labels = [str(one.get("aria-label")) for tag, one in Tags(written).found if tag == "svg"]
    assert labels.count("a drop of +0.20 (+0.10 to +0.40), 0.5 allowed") == 2
    assert "1.40 times its time with 2 threads (1.30 to 1.50)" in labels


def test_the_same_reports_make_the_same_page(variants: Path, written: str) -> None:
    invoke(variants, "--html", variants / "again.html")
    assert (variants / "again.html").read_text() == written


def test_what_a_report_says_stays_text(tmp_path: Path) -> None:
    example = Example(name=MARKUP, kind="worst", fp32=1.0, int8=1.0, sqnr_db=1.0)
    hostile = report_with(model=MARKUP, summary=MARKUP, remarks=(MARKUP,), examples=(example,))
    text = page([read_exhibit(write_report(tmp_path, hostile))])
    assert MARKUP not in text
    assert html.escape(MARKUP) in text


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "examples/..", "examples/a/b"])
def test_a_picture_outside_the_variant_is_not_read(tmp_path: Path, name: str) -> None:
    example = Example(name="a", kind="worst", fp32=1.0, int8=1.0, sqnr_db=1.0, picture=name)
    folder = write_report(tmp_path / "variant", report_with(examples=(example,)))
    with pytest.raises(ConfigError, match=r"names the picture .* outside examples/"):
        read_exhibit(folder)


def test_a_picture_that_is_gone_leaves_its_words(tmp_path: Path) -> None:
    folder = write_report(tmp_path)
    (folder / PICTURE).unlink()
    text = page([read_exhibit(folder)])
    assert "<b>worst</b> a.png" in text


def test_one_report_is_printed_for_a_machine(variants: Path) -> None:
    assert json.loads(invoke(variants / "arm", "--json").stdout)["format"] == "asdic-report/1"


def test_two_reports_are_compared_for_a_machine(variants: Path) -> None:
    result = invoke(variants / "arm", variants / "jetson", "--json")
    found = json.loads(result.stdout)
    assert [one["what"] for one in found["conditions"]] == ["target"]


def test_two_reports_are_compared_for_a_person(variants: Path) -> None:
    lines = invoke(variants / "arm", variants / "jetson").stdout.splitlines()
    assert lines[0].startswith("A  x86-openvino-int8: pass")
    assert lines[1].startswith("B  jetson-orin-int8: INT8 IS SLOWER")


def test_a_page_about_a_comparison_is_a_usage_error(variants: Path) -> None:
    result = invoke(variants / "arm", variants / "jetson", "--html", variants / "out.html")
    assert result.exit_code == 2
