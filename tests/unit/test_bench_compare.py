"""The verdict of a comparison, on restarts that were recorded on a real, busy machine.

``benchmarks/record_pairs.py`` recorded them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asdic.contract.bench import Against, ComparisonVerdict, Measured, Restart
from asdic.device.bench.compare import judge, turn_ratios
from asdic.device.bench.samples import unpack_ms
from tests.support.bench import series_of

DATA = Path(__file__).resolve().parent.parent / "data"
COMPARISONS = 100
OTHER = Measured(model="other", target="x86-litert-int8", task="segmentation", files=())


def recorded(name: str) -> list[Restart]:
    return msgspec.json.decode((DATA / name).read_bytes(), type=list[Restart])


def verdicts(restarts: list[Restart]) -> Counter[ComparisonVerdict]:
    """Return the verdicts of comparisons of five restarts each, drawn with fixed seeds."""
    found: Counter[ComparisonVerdict] = Counter()
    for seed in range(COMPARISONS):
        picks = np.random.default_rng(seed).choice(len(restarts), 5, replace=False)
        found[judge([restarts[pick] for pick in picks], other=OTHER, seed=seed).verdict] += 1
    return found


def slowed(restart: Restart, factor: float) -> Restart:
    """Return the restart as if a had taken ``factor`` times as long."""
    a = series_of(unpack_ms(restart.a) * factor).pack()
    return msgspec.structs.replace(restart, a=a, ratio=restart.ratio * factor)


def compared(*restarts: Restart) -> Against:
    return judge(restarts, other=OTHER)


def test_a_model_against_itself_shows_no_difference() -> None:
    found = verdicts(recorded("pairs-same.json"))
    assert found[ComparisonVerdict.NO_DIFFERENCE] >= 0.9 * COMPARISONS
    assert found[ComparisonVerdict.FASTER] + found[ComparisonVerdict.SLOWER] <= 5


def test_int8_is_found_faster_than_fp32_where_it_is() -> None:
    found = verdicts(recorded("pairs-int8-fp32.json"))
    assert found[ComparisonVerdict.FASTER] >= 0.95 * COMPARISONS


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.10, ComparisonVerdict.SLOWER), (1 / 1.10, ComparisonVerdict.FASTER)],
)
def test_a_known_difference_of_ten_percent_is_found(
    factor: float, verdict: ComparisonVerdict
) -> None:
    restarts = [slowed(restart, factor) for restart in recorded("pairs-same.json")]
    assert verdicts(restarts)[verdict] >= 0.95 * COMPARISONS


def test_swapping_both_turns_the_ratio_over() -> None:
    restarts = recorded("pairs-int8-fp32.json")[:5]
    forth = compared(*restarts)
    back = compared(
        *(Restart(first=one.first, ratio=1 / one.ratio, a=one.b, b=one.a) for one in restarts)
    )
    assert back.verdict is ComparisonVerdict.SLOWER
    assert back.ratio == pytest.approx(1 / forth.ratio)
    assert back.low == pytest.approx(1 / forth.high, rel=0.02)


def test_four_restarts_are_not_enough() -> None:
    found = compared(*recorded("pairs-int8-fp32.json")[:4])
    assert found.verdict is ComparisonVerdict.NOT_ENOUGH_DATA
    assert found.ratio is None
    assert "5 are needed" in found.reason


def test_no_restart_at_all_is_not_enough_data() -> None:
    found = compared()
    assert found.verdict is ComparisonVerdict.NOT_ENOUGH_DATA
    assert found.p50_a_ms is None


def test_restarts_that_contradict_one_another_are_not_enough() -> None:
    restarts = recorded("pairs-same.json")[:6]
    mixed = [slowed(one, 1.3 if number % 2 else 0.8) for number, one in enumerate(restarts)]
    assert compared(*mixed).verdict is ComparisonVerdict.NOT_ENOUGH_DATA


def test_a_machine_with_two_speeds_does_not_show_in_a_turns_ratio() -> None:
    speed = np.repeat([1.0, 2.0, 1.0, 2.0], 50)
    assert turn_ratios(0.9 * speed, speed) == pytest.approx(np.log(0.9))


def test_the_same_seed_gives_the_same_interval() -> None:
    restarts = recorded("pairs-same.json")[:5]
    assert compared(*restarts) == compared(*restarts)
