"""When a reader looks for the next frame."""

from __future__ import annotations

import pytest

from asdic.firmware_bridge.rhythm import LONGEST_NAP_NS, NAP_NS, Rhythm

MS = 1_000_000


def rhythm(*times_ns: int) -> Rhythm:
    made = Rhythm()
    for number, time_ns in enumerate(times_ns):
        made.heard(number, time_ns)
    return made


def test_a_reader_sleeps_until_shortly_before_a_frame_is_due():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    rest_ns = steady.rest_ns(491 * MS)
    assert 8.5 * MS < rest_ns < 9 * MS


def test_around_its_time_a_reader_only_naps():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    assert {steady.rest_ns(at) for at in (499_900_000, 500_000_000, 500_100_000)} == {NAP_NS}


def test_naps_grow_with_the_delay_and_have_an_end():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    assert 0.1 * MS < steady.rest_ns(501 * MS + 500_000) < 0.25 * MS
    assert steady.rest_ns(9_999 * MS) == LONGEST_NAP_NS


def test_jitter_widens_the_time_of_naps():
    jittery = rhythm(*(n * 10 * MS + (n % 2) * MS // 2 for n in range(50)))
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    # Both 0.8 ms before the next one is due.
    assert jittery.rest_ns(499_700_000) == NAP_NS
    assert steady.rest_ns(499_200_000) > MS // 4


def test_a_frame_that_was_not_seen_does_not_change_the_rhythm():
    made = rhythm(*(n * 10 * MS for n in range(50)))
    made.heard(53, 530 * MS)
    assert 8.5 * MS < made.rest_ns(531 * MS) < 9 * MS


def test_a_pause_is_not_taken_for_the_rhythm():
    made = rhythm(*(n * 10 * MS for n in range(50)))
    made.heard(50, 60_000 * MS)
    assert made.rest_ns(60_001 * MS) < MS
    made.heard(51, 60_010 * MS)
    assert 0 < made.rest_ns(60_011 * MS) < 10 * MS


def test_a_faster_rhythm_is_learned_at_once():
    made = rhythm(*(n * 1_000 * MS for n in range(5)))
    made.heard(5, 4_010 * MS)
    assert made.rest_ns(4_011 * MS) < 10 * MS


def test_what_the_machine_sleeps_too_long_is_slept_less():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    before_ns = steady.rest_ns(491 * MS)
    for _ in range(50):
        steady.slept(8 * MS, 8 * MS + 150_000)
    assert before_ns - steady.rest_ns(491 * MS) == pytest.approx(150_000, rel=0.1)


def test_naps_say_nothing_of_how_late_a_sleep_ends():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    before_ns = steady.rest_ns(491 * MS)
    steady.slept(NAP_NS, 5 * MS)
    assert steady.rest_ns(491 * MS) == before_ns


def test_a_machine_that_sleeps_very_late_does_not_make_a_reader_look_for_ever():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    for _ in range(50):
        steady.slept(8 * MS, 80 * MS)
    assert steady.rest_ns(491 * MS) > 7 * MS
