"""The report's page in a real browser, from a file and without a network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from asdic.quantization.page import page, read_exhibit
from tests.support.browser import browse
from tests.support.reports import PICTURE_BGR, write_report

pytestmark = pytest.mark.slow

NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
PASS_BGR = (0x4A, 0x80, 0x14)
"""The colour of what passed, from templates/report.css."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The address of a page about one report."""
    path = tmp_path / "out.html"
    path.write_text(page([read_exhibit(write_report(tmp_path / "variant"))]))
    return path.as_uri()


def has_color(screenshot: Path, bgr: tuple[int, int, int]) -> bool:
    picture = cv2.imread(str(screenshot))
    assert picture is not None
    return bool((np.abs(picture.astype(int) - bgr).max(axis=2) <= 2).any())


def test_the_report_opens_from_a_file_without_a_complaint(url: str, tmp_path: Path) -> None:
    result = browse(url, tmp_path / "profile", NO_NETWORK, "--dump-dom", "--enable-logging=stderr")
    assert [line for line in result.stderr.splitlines() if ":CONSOLE" in line] == []
    assert "x86-openvino-int8: pass" in result.stdout


def test_its_own_rules_let_the_pictures_and_plots_be_seen(url: str, tmp_path: Path) -> None:
    screenshot = tmp_path / "page.png"
    size = "--window-size=1000,2400"
    browse(url, tmp_path / "profile", NO_NETWORK, size, f"--screenshot={screenshot}")
    assert has_color(screenshot, PICTURE_BGR)
    assert has_color(screenshot, PASS_BGR)
