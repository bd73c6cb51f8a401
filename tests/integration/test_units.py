"""What starts the agent, judged by systemd's own tools and run by real shells."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

import pytest

from asdic.contract.target import TARGETS
from asdic.fleet.flash.layout import Layout
from asdic.fleet.flash.on_box.service import exposure_of, remarks_of
from asdic.fleet.flash.units import runit_files, systemd_unit
from tests.conftest import missing

ODD: Final = ("--frames", "/srv/a folder/50%/$HOME")
GROUPS: Final = MappingProxyType(
    {"x86-openvino-gpu-int8": ("render", "dialout"), "jetson-orin-int8": ("video",)}
)
NEEDED_BY_TRIALS: Final = {
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    *("unshare", "prctl", "setrlimit", "prlimit64", "sched_setscheduler", "sched_setaffinity"),
    *("setuid", "setgid", "setgroups", "setpriority"),
}
"""What ``device/update/trial.py`` calls to confine a candidate."""

EXPOSURE_LIMIT: Final = 2.7
"""Of 10, by systemd 252: a Jetson's, with its devices; a unit with User= alone has 9.2."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An installation whose agent is a program that says how it was started."""
    agent = tmp_path / "opt" / "current" / "bin" / "asdic-agent"
    agent.parent.mkdir(parents=True)
    agent.write_text('#!/bin/sh\numask\nid -un\nprintf "%s\\n" "$@"\n')
    agent.chmod(0o755)
    return Layout(
        prefix=PurePosixPath(tmp_path / "opt"),
        version="0.1.0-0123456789ab",
        state=PurePosixPath("/var/lib/asdic"),
        user=getpass.getuser(),
        target="x86-litert-int8",
    )


def changed(layout: Layout, **fields: Any) -> Layout:
    names = Layout.__struct_fields__
    return Layout(**{**{name: getattr(layout, name) for name in names}, **fields})


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed; install the Debian package systemd")
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


def written(folder: Path, text: str) -> Path:
    path = folder / "asdic-agent.service"
    path.write_text(text)
    return path


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting:
            found.setdefault(name, []).append(value)
    return found


# systemd


@pytest.mark.parametrize("target", TARGETS)
def test_systemd_finds_nothing_to_complain_of(layout: Layout, tmp_path: Path, target: str) -> None:
    of_target = changed(layout, target=target, groups=GROUPS.get(target, ()), run_options=ODD)
    done = analyze("verify", "--man=no", written(tmp_path, systemd_unit(of_target)))
    assert (done.returncode, done.stderr) == (0, "")


def test_it_would_complain_of_a_setting_that_it_does_not_know(
    layout: Layout, tmp_path: Path
) -> None:
    text = systemd_unit(layout).replace("ProtectSystem", "ProtectSytsem")
    done = analyze("verify", "--man=no", written(tmp_path, text))
    (remark,) = remarks_of(done.stderr)
    assert "ProtectSytsem" in remark


@pytest.mark.parametrize("target", TARGETS)
def test_little_of_the_system_is_exposed(layout: Layout, tmp_path: Path, target: str) -> None:
    of_target = changed(layout, target=target, user="asdic", groups=GROUPS.get(target, ()))
    path = written(tmp_path, systemd_unit(of_target))
    done = analyze("security", "--offline=true", path)
    found = exposure_of(done.stdout)
    assert found, done.stderr
    assert found["exposure"] <= EXPOSURE_LIMIT, done.stdout


def test_a_trial_may_still_confine_itself(layout: Layout) -> None:
    unit = settings(systemd_unit(layout))
    allowed = set(_calls(unit["SystemCallFilter"][0].split()))
    assert allowed >= NEEDED_BY_TRIALS
    assert {"user", "net"} <= set(unit["RestrictNamespaces"][0].split())
    assert "reboot" not in allowed
    assert "mount" not in allowed


def _calls(words: Iterable[str]) -> Iterable[str]:
    """Yield the system calls of a filter, its groups resolved by systemd."""
    for word in words:
        if not word.startswith("@"):
            yield word
            continue
        done = analyze("syscall-filter", word)
        lines = (line.strip() for line in done.stdout.splitlines()[1:])
        yield from _calls(line for line in lines if line and not line.startswith("#"))


def test_a_box_without_a_gpu_shows_no_devices(layout: Layout) -> None:
    assert settings(systemd_unit(layout))["PrivateDevices"] == ["yes"]


def test_a_gpu_box_shows_its_gpu_and_its_serial_ports_alone(layout: Layout) -> None:
    of_gpu = changed(layout, target="x86-openvino-gpu-int8", groups=("render", "dialout"))
    unit = settings(systemd_unit(of_gpu))
    assert {"char-drm rw", "char-ttyACM rw", "char-ttyUSB rw"} <= set(unit["DeviceAllow"])
    assert unit["DevicePolicy"] == ["closed"]
    assert unit["SupplementaryGroups"] == ["render dialout"]


def test_a_jetson_keeps_its_devices(layout: Layout) -> None:
    unit = settings(systemd_unit(changed(layout, target="jetson-orin-int8")))
    assert unit["PrivateDevices"] == ["no"]
    # It implies a DeviceAllow, which shuts all other devices.
    assert "ProtectClock" not in unit


def test_only_the_state_folder_may_be_written(layout: Layout) -> None:
    unit = settings(systemd_unit(layout))
    assert (unit["ProtectSystem"], unit["ReadWritePaths"]) == (["strict"], ["/var/lib/asdic"])


@pytest.mark.parametrize(
    ("prefix", "expected"), [("/opt/asdic", "yes"), ("/home/admin/asdic", "read-only")]
)
def test_homes_are_seen_only_where_something_of_ours_is_in_one(
    layout: Layout, prefix: str, expected: str
) -> None:
    unit = settings(systemd_unit(changed(layout, prefix=PurePosixPath(prefix))))
    assert unit["ProtectHome"] == [expected]


# Memory that is written and then run

INFER: Final = """
import ctypes, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit("cannot")
import numpy as np
from pathlib import Path
from asdic.contract.target import Runtime
from asdic.device.runner.engine import open_engine
with_engine = open_engine(Runtime(sys.argv[1]), [Path(name) for name in sys.argv[2:]], threads=1)
spec = with_engine.inputs[0]
with_engine.run({spec.name: np.zeros(spec.shape, np.float32)})
print("inferred")
"""


def infer_without_writable_code(runtime: str, *model: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", INFER, runtime, *model], capture_output=True, text=True, check=False
    )
    if done.stderr.strip() == "cannot":
        missing("this kernel has no PR_SET_MDWE (Linux 6.3)")
    return done


def test_litert_infers_without_memory_that_is_written_and_run(
    layout: Layout, shared_data: Path
) -> None:
    assert settings(systemd_unit(layout))["MemoryDenyWriteExecute"] == ["yes"]
    done = infer_without_writable_code("litert", shared_data / "models" / "kws_int8.tflite")
    assert done.stdout.strip() == "inferred", done.stderr


def test_openvino_compiles_its_kernels_and_needs_such_memory(
    layout: Layout, tmp_path: Path
) -> None:
    import openvino
    from openvino import opset13

    unit = settings(systemd_unit(changed(layout, target="x86-openvino-int8")))
    assert unit["MemoryDenyWriteExecute"] == ["no"]
    frames = opset13.parameter([1, 3, 16, 16], name="frames")
    weights = opset13.constant([[[[1.0]]] * 3] * 4, dtype="float32")
    ones, none = [1, 1], [0, 0]
    answer = opset13.convolution(frames, weights, ones, none, none, ones)
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model([answer], [frames]), path)
    done = infer_without_writable_code("openvino", path, path.with_suffix(".bin"))
    assert "inferred" not in done.stdout
    assert "can't protect" in done.stderr


# runit


def write_service(layout: Layout, folder: Path) -> Path:
    for name, text in runit_files(layout).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return folder


def test_runits_script_becomes_the_agent_with_every_word_as_it_is(
    layout: Layout, tmp_path: Path
) -> None:
    if os.geteuid() == 0 and shutil.which("chpst") is None:
        missing("chpst is not installed; install the Debian package runit")
    service = write_service(changed(layout, run_options=ODD), tmp_path / "service")
    done = subprocess.run([service / "run"], capture_output=True, text=True, check=False)
    umask, user, *words = done.stdout.splitlines()
    assert (umask, user) == ("0022", getpass.getuser()), done.stderr
    assert words == ["run", "--state", "/var/lib/asdic", *ODD]


def test_a_service_that_ended_well_need_not_rest(layout: Layout, tmp_path: Path) -> None:
    service = write_service(layout, tmp_path / "service")
    done = subprocess.run([service / "finish", "0", "0"], timeout=4, check=False)
    assert done.returncode == 0


def test_further_groups_come_beside_the_users_own(layout: Layout) -> None:
    text = runit_files(changed(layout, user="asdic", groups=("video", "render")))["run"]
    assert 'chpst -u "asdic:$(id -gn asdic):video:render" ' in text


def test_a_log_is_kept_in_the_state_folder(layout: Layout, tmp_path: Path) -> None:
    if shutil.which("svlogd") is None:
        missing("svlogd is not installed; install the Debian package runit")
    state = tmp_path / "state with a space"
    service = write_service(changed(layout, state=PurePosixPath(state)), tmp_path / "service")
    done = subprocess.run(
        [service / "log" / "run"], input="a line\n", text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert (state / "log" / "service" / "current").read_text().endswith(" a line\n")
