"""What a flash needs and what stands against it: rules, without any box."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError
from asdic.fleet.flash.cargo import File, ReleaseCargo, Version
from asdic.fleet.flash.facts import Accelerator, Facts, Installed, Marker, Place
from asdic.fleet.flash.plan import Plan, layout_for, make_plan
from asdic.fleet.flash.situation import Situation
from asdic.fleet.flash.wish import Wish
from asdic.fleet.view import DeviceView

BROKER = BrokerAddress(host="192.0.2.7", port=1883)
AGENT = """
device = "box7"
target = "arm64-litert-int8"
[broker]
host = "192.0.2.7"
port = 1883
[tags]
ward = "icu"
"""
BOARD = "serial:///dev/ttyACM0"
BESIDE = f'{AGENT}[firmware]\nlink = "{BOARD}"\n'
MANIFEST = "sha256:" + "a" * 64
RELEASE = ReleaseCargo(version="1.0.0", manifest=MANIFEST, size_bytes=1 << 20)


def place(path: str = "/opt/asdic", **fields: Any) -> Place:
    return Place(
        **{
            "path": path,
            "free_bytes": 8 << 30,
            "read_only": False,
            "writable": True,
            "device": 1,
            **fields,
        }
    )


def facts(**fields: Any) -> Facts:
    return Facts(
        **{
            "architecture": "aarch64",
            "os": "Debian GNU/Linux 12",
            "libc": "glibc-2.36",
            "host": "Box7.example",
            "cpu_features": ("asimd",),
            "cpus": 4,
            "memory_bytes": 4 << 30,
            "available_bytes": 3 << 30,
            "python": "3.11.2",
            "executable": "/usr/bin/python3.11",
            "uid": 0,
            "user": "root",
            "sudo": "sudo is not installed",
            "time_s": 1000.0,
            "prefix": place(),
            "state": place("/var/lib/asdic"),
            "service_manager": "systemd",
            "runit_scan": "",
            "accelerator": Accelerator(),
            "broker": "",
            "installed": Installed(),
            **fields,
        }
    )


def version(tmp_path: Path, *names: str) -> Version:
    """Return a version of wheels that hold next to nothing."""
    files = []
    for name in names or ("asdic-0.1.0-py3-none-any.whl",):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x", b"x" * 1000)
        files.append(File(path=tmp_path / name, name=f"d/{name}", sha256="d" * 64, size_bytes=1200))
    return Version(
        asdic="0.1.0", python="3.11", wheels=tuple(files), pip=files[0], system_packages=False
    )


def device(**fields: Any) -> DeviceView:
    return DeviceView(
        **{
            "id": "box7",
            "target": "arm64-litert-int8",
            "runtime": "litert",
            "runtime_version": "2.3.0",
            "simulated": False,
            "release": "1.0.0",
            "manifest": MANIFEST,
            "state": "committed",
            "refusal": None,
            "report_number": 12,
            "online": True,
            "seen_s": 999.0,
            "refused_messages": 0,
            "tags": {"ward": "icu"},
            **fields,
        }
    )


def wish(**fields: Any) -> Wish:
    given = {"address": "admin@box7.example", "target": "arm64-litert-int8", **fields}
    return Wish(**given)


def plan(tmp_path: Path, **fields: Any) -> Plan:
    """Return the plan for a box, a bare one if nothing else is said."""
    situation = Situation(
        **{
            "wish": wish(release="1.0.0"),
            "facts": facts(),
            "version": version(tmp_path),
            "release": RELEASE,
            "known": None,
            "broker": BROKER,
            "now_s": 1000.0,
            **fields,
        }
    )
    return make_plan(
        situation,
        layout=layout_for(situation.wish, situation.facts, situation.version),
        service=service_of(situation),
        service_files={"/etc/systemd/system/asdic-agent.service": "unit"},
    )


def service_of(situation: Situation) -> str:
    wanted = situation.wish.service
    return situation.facts.service_manager if wanted == "auto" else wanted


def flashed(tmp_path: Path, **fields: Any) -> Installed:
    """Return what a finished flash leaves."""
    name = version(tmp_path).name
    return Installed(
        **{
            "current": name,
            "versions": {name: Marker(asdic="0.1.0", python="3.11", wheels={})},
            "folders": (name,),
            "activation": {"state": "confirmed", "version": name},
            "service_files": {"/etc/systemd/system/asdic-agent.service": "unit"},
            "agent_toml": AGENT,
            "agent_runs": True,
            "is_device": True,
            **fields,
        }
    )


def needs(made: Plan) -> set[str]:
    return {name for name, value in msgspec.structs.asdict(made.needs).items() if value}


def test_a_bare_box_needs_everything(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert needs(made) == {"build", "switch", "enrol", "install", "serve", "hear"}
    assert (made.device, made.problems, made.layout.user) == ("box7-example", (), "asdic")


def test_a_flashed_box_needs_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path, facts=facts(installed=flashed(tmp_path)), known=device())
    assert (needs(made), made.problems, made.is_done) == (set(), (), True)


@pytest.mark.parametrize(
    ("changed", "known", "wanted"),
    [
        ({"current": "0.0.9-000000000000"}, {}, {"switch"}),
        ({"versions": {}}, {}, {"build"}),
        ({"service_files": {}}, {}, {"serve"}),
        ({"agent_toml": AGENT.replace("1883", "1884")}, {}, {"enrol"}),
        ({"agent_toml": AGENT.replace("icu", "er")}, {}, set()),
        ({"incoming": ("release-1",)}, {}, {"tidy"}),
        ({"folders": ("0.0.8-000000000000",)}, {}, {"tidy"}),
        ({"activating": True}, {}, {"confirm"}),
        ({"activation": {"state": "waiting", "version": "x"}}, {}, {"confirm"}),
        ({}, {"online": False}, {"hear"}),
        ({}, {"manifest": "sha256:" + "b" * 64}, {"install"}),
        ({}, {"state": "failed"}, {"install"}),
    ],
)
def test_what_differs_is_what_is_done(
    tmp_path: Path, changed: dict[str, Any], known: dict[str, Any], wanted: set[str]
) -> None:
    installed = flashed(tmp_path, **changed)
    made = plan(tmp_path, facts=facts(installed=installed), known=device(**known))
    assert needs(made) == wanted


def test_new_tags_are_added_to_those_that_the_box_has(tmp_path: Path) -> None:
    situation = {"facts": facts(installed=flashed(tmp_path)), "known": device()}
    made = plan(tmp_path, wish=wish(tags={"site": "north"}), release=None, **situation)
    assert needs(made) == {"enrol"}


@pytest.mark.parametrize(
    ("agent_toml", "wanted", "needed"),
    [
        (AGENT, {"firmware": BOARD}, {"enrol"}),
        (BESIDE, {"firmware": BOARD}, set()),
        (BESIDE, {"firmware": "udp://192.0.2.9"}, {"enrol"}),
        (BESIDE, {"firmware": BOARD, "without_test_boot": "re-upload"}, {"enrol"}),
        (BESIDE, {"firmware": BOARD, "without_test_boot": "refuse"}, set()),
        (BESIDE, {}, set()),
    ],
)
def test_a_microcontroller_is_enrolled_with_its_box_and_stays(
    tmp_path: Path, agent_toml: str, wanted: dict[str, Any], needed: set[str]
) -> None:
    found = facts(
        installed=flashed(tmp_path, agent_toml=agent_toml),
        serial_ports={"/dev/ttyACM0": "dialout"},
    )
    made = plan(tmp_path, facts=found, known=device(), wish=wish(release="1.0.0", **wanted))
    assert (needs(made), made.problems) == (needed, ())


def test_who_enrols_reads_the_microcontrollers_address(tmp_path: Path) -> None:
    made = plan(tmp_path, wish=wish(firmware="udp://192.0.2.9"), release=None)
    enrolment = "enrol as box7-example, broker 192.0.2.7:1883, microcontroller at udp://192.0.2.9"
    assert enrolment in [step.todo for step in made.steps]


@pytest.mark.parametrize(
    ("installed", "wanted", "groups"),
    [
        (Installed(), {"firmware": BOARD}, ("dialout",)),
        (Installed(agent_toml=BESIDE), {}, ("dialout",)),
        (Installed(agent_toml=BESIDE), {"firmware": "udp://192.0.2.9"}, ()),
        (Installed(), {"firmware": BOARD, "target": "jetson-orin-int8"}, ("video", "dialout")),
        (Installed(), {}, ()),
    ],
)
def test_a_serial_link_brings_its_group(
    tmp_path: Path, installed: Installed, wanted: dict[str, Any], groups: tuple[str, ...]
) -> None:
    made = layout_for(wish(**wanted), facts(installed=installed), version(tmp_path))
    assert made.groups == groups


def test_who_logs_in_or_root_may_have_a_port_that_is_not_of_the_group(tmp_path: Path) -> None:
    ports = {"/dev/ttyACM0": "tty"}
    known_user = facts(uid=1000, user="admin", service_manager="none", serial_ports=ports)
    made = plan(tmp_path, facts=known_user, wish=wish(firmware=BOARD, service="none"))
    assert made.problems == ()
    made = plan(tmp_path, facts=facts(serial_ports=ports), wish=wish(firmware=BOARD, user="root"))
    assert made.problems == ()


def test_serial_ports_are_shown_where_there_are_any() -> None:
    shown = facts(serial_ports={"/dev/ttyACM0": "dialout", "/dev/ttyUSB0": "dialout"}).lines(0.0)
    assert ("serial", "/dev/ttyACM0, /dev/ttyUSB0") in shown
    assert "serial" not in dict(facts().lines(0.0))


@pytest.mark.parametrize(
    ("found", "wanted", "problem"),
    [
        ({"architecture": "x86_64"}, {}, "is for arm64, this box is x86_64"),
        ({"architecture": "armv7l"}, {}, "is for arm64, this box is armv7l"),
        ({"libc": ""}, {}, "the box has no glibc, the wheels need glibc"),
        ({"memory_bytes": 128 << 20}, {}, "128 MiB of memory, the agent and its runner need 256"),
        ({"prefix": place(read_only=True)}, {}, "read-only file system; name one on a data"),
        (
            {
                "service": "systemd",
                "service_places": {"systemd": place("/etc/systemd/system", read_only=True)},
            },
            {},
            "/etc/systemd/system is on a read-only file system; let it be written .*service-folder",
        ),
        (
            {
                "uid": 1000,
                "user": "admin",
                "service": "systemd",
                "service_places": {"systemd": place("/etc/systemd/system", writable=False)},
            },
            {},
            "admin may not write /etc/systemd/system, and sudo does not help .*--service none",
        ),
        ({"prefix": place(free_bytes=1 << 20)}, {}, "has 1 MiB free, this takes 4; make room"),
        (
            {"uid": 1000, "user": "admin", "prefix": place(writable=False)},
            {},
            "admin may not write /opt/asdic, and sudo does not help .*log in as root",
        ),
        ({"uid": 1000, "user": "admin"}, {"user": "asdic"}, "only root lets asdic run the agent"),
        ({"broker": "Connection refused"}, {}, "cannot reach the fleet's broker at 192.0.2.7:1883"),
        ({}, {"target": "jetson-orin-int8"}, "TensorRT is not installed on the box"),
        (
            {"accelerator": Accelerator(tensorrt="10.3.0")},
            {"target": "jetson-orin-int8"},
            "does not find TensorRT's binding; .* name the Python that has it with --python",
        ),
        ({"service_manager": "none"}, {"service": "systemd"}, "the box has no systemd"),
        ({"service_manager": "runit"}, {}, "runsvdir looks in no folder that is known"),
        ({"installed": Installed(agent_runs=True)}, {"service": "none"}, "stop it first"),
        ({"installed": Installed(agent_runs=True)}, {}, "that no service of ours has started"),
        (
            {"installed": Installed(service_files={"/etc/sv/asdic-agent/run": ""})},
            {},
            "has a runit service of asdic's; `asdic unflash` it",
        ),
        ({"installed": Installed(agent_toml=AGENT)}, {"device": "box8"}, "is 'box7' already"),
        (
            {"serial_ports": {"/dev/ttyUSB0": "dialout"}},
            {"firmware": BOARD},
            r"has no /dev/ttyACM0 \(it has /dev/ttyUSB0\); plug the microcontroller in, or name",
        ),
        (
            {"serial_ports": {"/dev/ttyACM0": "tty"}},
            {"firmware": BOARD},
            "/dev/ttyACM0 on the box belongs to the group tty, .* be in dialout; .* a udev rule",
        ),
        (
            {"installed": Installed(agent_toml=AGENT.replace("litert", "openvino"))},
            {},
            "is enrolled as arm64-openvino-int8; `asdic unflash` it",
        ),
    ],
)
def test_what_stands_against_it_is_said_with_what_to_do(
    tmp_path: Path, found: dict[str, Any], wanted: dict[str, Any], problem: str
) -> None:
    made = plan(tmp_path, facts=facts(**found), wish=wish(**wanted))
    assert len(made.problems) == 1
    with pytest.raises(ConfigError, match=problem):
        raise ConfigError(made.problems[0])


def test_wheels_say_which_glibc_they_need(tmp_path: Path) -> None:
    found = version(
        tmp_path,
        "a-1-cp311-abi3-manylinux_2_34_x86_64.whl",
        "b-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "c-1-py3-none-any.whl",
    )
    assert found.glibc == (2, 34)
    made = plan(tmp_path, facts=facts(libc="glibc-2.31"), version=found)
    assert "the box has glibc-2.31, the wheels need glibc 2.34" in made.problems[0]


def test_another_box_does_not_take_the_name_of_one_that_is_online(tmp_path: Path) -> None:
    made = plan(tmp_path, known=device(), wish=wish(device="box7"))
    assert made.problems == ("another box is online as 'box7'; choose another --device",)


def test_an_exam_is_not_disturbed_but_on_a_persons_word(tmp_path: Path) -> None:
    found = facts(installed=flashed(tmp_path, busy_s=600.0, current=""))
    made = plan(tmp_path, facts=found, known=device())
    assert "an exam is in progress on the box, for 10 min at most" in made.problems[0]
    assert plan(tmp_path, facts=found, known=device(), wish=wish(now=True)).problems == ()
    quiet = facts(installed=flashed(tmp_path, busy_s=600.0))
    assert plan(tmp_path, facts=quiet, known=device()).problems == ()


def test_a_clock_that_is_off_is_said_and_hinders_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path, facts=facts(time_s=1000.0 - 7200.0))
    assert (made.problems, made.warnings[0][:33]) == ((), "the box's clock is 2.0 h behind; ")


def test_a_jetson_on_the_bench_may_be_simulated_on_another_machine(tmp_path: Path) -> None:
    wanted = wish(target="jetson-orin-int8", simulate=True)
    assert plan(tmp_path, facts=facts(architecture="x86_64"), wish=wanted).problems == ()


def test_the_user_who_may_write_the_prefix_runs_the_agent(tmp_path: Path) -> None:
    found = facts(uid=1000, user="admin", service_manager="none")
    made = plan(tmp_path, facts=found, wish=wish(service="none"))
    assert (made.layout.user, made.problems) == ("admin", ())


def test_the_same_wheels_have_the_same_name_and_other_ones_another(tmp_path: Path) -> None:
    one = version(tmp_path)
    other = msgspec.structs.replace(one, python="3.12")
    assert one.name == version(tmp_path).name != other.name
