"""Samples that a person's own function gives."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import DataError
from asdic.training.loader import is_loader, load_samples
from asdic.training.samples import ArraySample
from asdic.training.sources import read_samples

Write = Callable[[str], str]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module where the person stands, and return the name of its loader."""
    name = f"samples_{tmp_path.name}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source: str) -> str:
        lines = "import numpy as np\nfrom asdic.training.samples import ArraySample\n"
        (tmp_path / f"{name}.py").write_text(lines + textwrap.dedent(source))
        return f"{name}:load"

    yield write
    sys.modules.pop(name, None)


def test_pairs_mappings_samples_and_bare_arrays_are_samples(written: Write) -> None:
    loader = written("""
        def load():
            x = np.arange(3.0)
            return [
                (x, np.int64(4)),
                {"inputs": {"a": x}, "reference": "cyst", "group": 7, "facts": {"site": 1}},
                ArraySample(inputs=x, split="calib", name="third"),
                x,
            ]
    """)
    samples, looks = load_samples(loader)
    assert [one.read_reference("classification") for one in samples] == [4, "cyst", None, None]
    assert (samples[1].group, dict(samples[1].facts)) == ("7", {"site": "1"})
    assert (samples[2].split, samples[2].name, samples[3].name) == ("calib", "third", "3")
    assert looks[0].digest == looks[3].digest != looks[1].digest


def test_an_iterator_is_held(written: Write) -> None:
    samples, _ = load_samples(written("def load():\n    yield from ([np.eye(2)] * 3)\n"))
    assert len(samples) == 3
    assert isinstance(samples[0], ArraySample)


def test_a_data_set_is_asked_again_and_not_held(written: Write) -> None:
    loader = written("""
        class Volumes:
            asked = 0
            def __len__(self):
                return 4
            def __getitem__(self, number):
                Volumes.asked += 1
                return np.full((2, 2), number + 0.5) * np.eye(2), number
        def load():
            return Volumes()
    """)
    samples, looks = load_samples(loader)
    assert not any(isinstance(one, ArraySample) for one in samples)
    assert samples[3].read_inputs()[""][0, 0] == 3.5
    assert samples[3].read_reference("classification") == 3
    assert not any(look.problem for look in looks)


def test_a_data_set_that_is_random_is_found_out(written: Write) -> None:
    loader = written("""
        class Noise:
            def __len__(self):
                return 1
            def __getitem__(self, number):
                return np.random.default_rng().random((4, 4))
        load = Noise
    """)
    (sample,), _ = load_samples(loader)
    with pytest.raises(DataError, match=r"sample 0 is another one .* must not be random"):
        sample.read_inputs()


def test_a_sample_that_fails_can_be_left_out(written: Write) -> None:
    loader = written("""
        class Files:
            def __len__(self):
                return 40
            def __getitem__(self, number):
                if number == 7:
                    raise OSError("no such file")
                return np.random.default_rng(number).random((4, 4))
        load = Files
    """)
    with pytest.raises(DataError, match=r"1 of 40 samples .* sample 7, failed: OSError: no such"):
        read_samples(loader, inputs=["x"])
    found = read_samples(loader, inputs=["x"], skip_unreadable=True)
    assert (len(found.samples), len(found.unreadable)) == (39, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("load = 3\n", "load failed: TypeError: 'int' object is not callable"),
        ("def load():\n    raise KeyError('scan')\n", "load failed: KeyError: 'scan'"),
        ("def load():\n    return {}\n", "load returned dict, not samples"),
        ("def load():\n    return None\n", "load returned NoneType, not samples"),
        ("def other(): pass\n", "there is no 'load' in samples_"),
        ("import nowhere_at_all\n", "load cannot be imported: No module named 'nowhere_at_all'"),
        ("1 / 0\n", "load failed: ZeroDivisionError"),
        ("def load():\n    yield 1 / 0\n", "load failed: ZeroDivisionError"),
        ("def load():\n    return [{'input': 1}]\n", "sample 0, has the unknown field input; a"),
        ("def load():\n    return [{'reference': 1}]\n", "sample 0, is no sample: .*'inputs'"),
        ("def load():\n    return ['a']\n", "sample 0: an input is an array of numbers, not <U1"),
        ("def load():\n    return [{'inputs': 1, 'split': 'x'}]\n", "has split 'x', expected"),
        ("def load():\n    return [np.array([np.inf])]\n", "sample 0 holds NaN or infinity"),
    ],
)
def test_what_is_wrong_with_a_loader_is_one_clear_line(
    written: Write, source: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_samples(written(source))
    assert "\n" not in str(caught.value)


def test_no_samples_are_refused(written: Write) -> None:
    with pytest.raises(DataError, match="gives 0 samples"):
        read_samples(written("def load():\n    return []\n"), inputs=["x"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("nets.samples:load", True), ("samples:load", True), ("a/b:c", False), ("C:\\x", False)],
)
def test_a_loader_is_told_from_a_path(text: str, expected: bool) -> None:
    assert is_loader(text) is expected


def test_a_sample_in_memory_gives_its_arrays() -> None:
    assert ArraySample(inputs=np.eye(2)).read_inputs().keys() == {""}
