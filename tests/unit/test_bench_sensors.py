"""Sensors below a root of the test's own: found, read, lost, and judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from asdic.contract.bench import Reading, Sustained, ThrottlingVerdict
from asdic.device.bench.preflight import disturbances, inspect_machine
from asdic.device.bench.sensors import find_sensors
from asdic.device.bench.telemetry import READINGS_LIMIT, Recorder
from asdic.device.bench.throttling import judge_throttling
from tests.support.bench import TestClock

CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"
RAIL = "sys/class/hwmon/hwmon3"
TREE = {
    f"{THERMAL}/thermal_zone0/type": "x86_pkg_temp",
    f"{THERMAL}/thermal_zone0/temp": "45000",
    f"{THERMAL}/cooling_device0/type": "Processor",
    f"{THERMAL}/cooling_device0/cur_state": "0",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "2400000",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "3000000",
    f"{CPU}/cpufreq/policy0/scaling_governor": "ondemand",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "4",
    f"{CPU}/intel_pstate/no_turbo": "0",
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000",
    f"{RAIL}/name": "ina3221",
    f"{RAIL}/in1_label": "VDD_IN",
    f"{RAIL}/in1_input": "5000",
    f"{RAIL}/curr1_input": "1000",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50000",
    "var/lib/nvpmodel/status": "pmode:0002",
    "proc/loadavg": "3.50 2.00 1.00 1/100 1234",
    "proc/pressure/cpu": "some avg10=12.00 avg60=1.00 avg300=0.10 total=1",
    "proc/self/cgroup": "0::/box",
    "sys/fs/cgroup/box/cpu.max": "50000 100000",
    "sys/fs/cgroup/memory.max": "1073741824",
    "proc/meminfo": "MemTotal:        4096 kB",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: A Processor\n",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_every_sensor_is_found_and_read_in_its_unit(root: Path) -> None:
    found = {sensor.name: sensor.read() for sensor in find_sensors(root)}
    assert found == {
        "temperature_c:thermal_zone0.x86_pkg_temp": 45.0,
        "cooling_state:cooling_device0.Processor": 0.0,
        "cpu_mhz:policy0": 2400.0,
        "cpu_limit_mhz:policy0": 3000.0,
        "core_throttled:cpu0": 3.0,
        "package_throttled:cpu0": 4.0,
        "energy_j:intel-rapl:0.package-0": 1.0,
        "power_w:hwmon3.VDD_IN": 5.0,
        "device_mhz:17000000.gpu": 918.0,
        "device_limit_mhz:17000000.gpu": 918.0,
        "pi_throttled": float(0x50000),
    }


def test_a_machine_without_sensors_has_none(tmp_path: Path) -> None:
    assert find_sensors(tmp_path) == ()


def test_vcgencmd_is_asked_where_the_kernel_has_no_file(tmp_path: Path) -> None:
    write(tmp_path, "usr/bin/vcgencmd", '#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x4')
    (tmp_path / "usr/bin/vcgencmd").chmod(0o755)
    assert {sensor.name: sensor.read() for sensor in find_sensors(tmp_path)} == {
        "pi_throttled": 4.0
    }


def test_a_sensor_that_says_nonsense_is_absent(root: Path) -> None:
    write(root, f"{THERMAL}/thermal_zone0/temp", "hot")
    names = {sensor.name for sensor in find_sensors(root)}
    assert "temperature_c:thermal_zone0.x86_pkg_temp" not in names


def test_a_sensor_that_vanishes_in_mid_run_is_named_and_left_out(root: Path) -> None:
    clock = TestClock()
    recorder = Recorder(find_sensors(root), clock)
    recorder.read()
    (root / THERMAL / "thermal_zone0/temp").unlink()
    clock.time_ns += 10**9
    recorder.read()
    name = "temperature_c:thermal_zone0.x86_pkg_temp"
    assert recorder.telemetry.vanished == (name,)
    assert name in recorder.readings[0].values
    assert name not in recorder.readings[1].values


def test_energy_is_a_counters_difference_and_a_powers_integral(root: Path) -> None:
    clock = TestClock()
    recorder = Recorder(find_sensors(root), clock)
    recorder.enter("burst")
    for second in range(1, 5):
        clock.time_ns += 10**9
        write(
            root, "sys/class/powercap/intel-rapl:0/energy_uj", str(1_000_000 + second * 7_000_000)
        )
        recorder.look()
    found = {one.scope: one for one in recorder.energy("burst", inferences=100)}
    assert found["package-0"].joules == pytest.approx(28.0)
    assert found["package-0"].joules_per_inference == pytest.approx(0.28)
    assert found["VDD_IN"].joules == pytest.approx(20.0)
    assert found["VDD_IN"].rate_hz == pytest.approx(1.0)


def test_a_counter_that_overflows_loses_one_interval_and_not_the_sum(root: Path) -> None:
    clock = TestClock()
    recorder = Recorder(find_sensors(root), clock)
    recorder.enter("burst")
    for microjoules in (3_000_000, 500_000, 2_500_000):
        clock.time_ns += 10**9
        write(root, "sys/class/powercap/intel-rapl:0/energy_uj", str(microjoules))
        recorder.look()
    found = next(one for one in recorder.energy("burst", 1) if one.scope == "package-0")
    assert (found.joules, found.seconds) == (pytest.approx(4.0), pytest.approx(2.0))


def test_without_an_energy_sensor_there_is_no_energy(tmp_path: Path) -> None:
    recorder = Recorder(find_sensors(tmp_path), TestClock())
    recorder.enter("burst")
    assert list(recorder.energy("burst", 1)) == []


def test_readings_of_a_long_run_are_thinned(root: Path) -> None:
    clock = TestClock()
    recorder = Recorder(find_sensors(root), clock)
    for _ in range(5 * READINGS_LIMIT):
        clock.time_ns += 10**9
        recorder.look()
    assert READINGS_LIMIT / 2 <= len(recorder.readings) <= READINGS_LIMIT


def test_a_time_of_day_that_is_set_is_noted_and_changes_nothing_else() -> None:
    clock = TestClock()
    recorder = Recorder((), clock)
    clock.time_ns += 10**9
    clock.set_by_ns += 3_600 * 10**9
    recorder.look()
    clock.time_ns += 10**9
    recorder.look()
    assert recorder.steps_s == (3600.0,)


CALM = {"core_throttled:cpu0": 3.0, "cooling_state:cooling_device0.Processor": 0.0}
VERDICTS = (
    ("calm", CALM, CALM, ThrottlingVerdict.NONE),
    ("a counter rose", CALM, {**CALM, "core_throttled:cpu0": 5.0}, ThrottlingVerdict.CONFIRMED),
    ("the kernel cooled", CALM, {**CALM, "cooling_state:cooling_device0.Processor": 2.0},
     ThrottlingVerdict.CONFIRMED),
    ("a fan is no throttling", {**CALM, "cooling_state:cooling_device1.pwm-fan": 0.0},
     {**CALM, "cooling_state:cooling_device1.pwm-fan": 3.0}, ThrottlingVerdict.NONE),
    ("the Pi throttles now", {"pi_throttled": 0.0}, {"pi_throttled": 4.0},
     ThrottlingVerdict.CONFIRMED),
    ("the Pi did in between", {"pi_throttled": 0.0}, {"pi_throttled": float(1 << 18)},
     ThrottlingVerdict.CONFIRMED),
    ("the Pi did before the run", {"pi_throttled": float(1 << 18)},
     {"pi_throttled": float(1 << 18)}, ThrottlingVerdict.NONE),
    ("the limit was lowered", {"cpu_limit_mhz:policy0": 3000.0}, {"cpu_limit_mhz:policy0": 2000.0},
     ThrottlingVerdict.SUSPECTED),
    ("the clock fell", {"cpu_mhz:policy0": 3000.0}, {"cpu_mhz:policy0": 2000.0},
     ThrottlingVerdict.SUSPECTED),
    ("only a temperature", {"temperature_c:t": 40.0}, {"temperature_c:t": 50.0},
     ThrottlingVerdict.UNKNOWN),
    ("no sensor", {}, {}, ThrottlingVerdict.UNKNOWN),
    ("the sensor vanished", CALM, {}, ThrottlingVerdict.UNKNOWN),
)  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "verdict"), VERDICTS)
def test_the_verdict_on_throttling(
    name: str, before: dict[str, float], after: dict[str, float], verdict: ThrottlingVerdict
) -> None:
    readings = [
        Reading(at_s=0.0, phase="burst", values=before),
        Reading(at_s=1.0, phase="burst", values=after),
    ]
    assert judge_throttling(readings).verdict is verdict


@pytest.mark.parametrize(
    ("window_s", "verdict"),
    [(60.0, ThrottlingVerdict.SUSPECTED), (1.0, ThrottlingVerdict.UNKNOWN)],
)
def test_a_long_run_that_gets_slower_is_suspected_without_any_sensor(
    window_s: float, verdict: ThrottlingVerdict
) -> None:
    run = Sustained(
        seconds=600.0,
        fps=None,
        window_s=window_s,
        first_ms=5.0,
        last_ms=7.0,
        ratio=1.4,
        latency=None,
    )
    assert judge_throttling([], [run]).verdict is verdict


def test_the_machine_is_described_before_the_start(root: Path) -> None:
    machine = inspect_machine(root)
    assert machine.processor == "A Processor"
    assert machine.governors == ("ondemand",)
    assert machine.turbo is True
    assert machine.power_mode == "pmode:0002"
    assert machine.load == 3.5
    assert machine.processor_quota == 0.5
    assert machine.memory_limit_bytes == 1 << 30
    assert machine.memory_bytes == 4 << 20


def test_what_disturbs_is_said_in_sentences(root: Path) -> None:
    said = " / ".join(disturbances(inspect_machine(root)))
    for words in ("load was 3.50", "12 % of the last", "governor ondemand", "grants 0.5 of"):
        assert words in said


def test_a_machine_that_tells_nothing_is_null_and_not_zero(tmp_path: Path) -> None:
    machine = inspect_machine(tmp_path)
    assert machine.load is None
    assert machine.memory_limit_bytes is None
    assert machine.governors == ()
    assert list(disturbances(machine)) == []
