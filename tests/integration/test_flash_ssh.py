"""A session over a real sshd: whose key is pinned, what a command may do, and what passes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from asdic.contract.errors import ConfigError, InstallError, LinkError
from asdic.fleet.flash.host_keys import HostKeyError, KnownHosts
from asdic.fleet.flash.relay import relay
from asdic.fleet.flash.remote import Remote, find_python
from asdic.fleet.flash.ssh import SshSession
from tests.support.flash_yard import Door, make_key, open_door


@dataclass
class Visitor:
    """Somebody at the door of an sshd, whose files of host keys start empty."""

    door: Door
    own: Path
    users: Path

    @property
    def fingerprint(self) -> str:
        return self.door.fingerprint

    @property
    def name(self) -> str:
        host, _, port = self.door.address.rpartition("@")[2].partition(":")
        return f"[{host}]:{port}"

    def open(self, accepted: str | None = None, *, identity: Path | None = None) -> SshSession:
        return SshSession.open(
            self.door.address,
            hosts=KnownHosts(self.own, self.users),
            accepted=accepted,
            identity=str(identity or self.door.identity),
        )


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("sshd") / "ssh") as door:
        yield door


@pytest.fixture
def visitor(sshd: Door, tmp_path: Path) -> Visitor:
    return Visitor(sshd, own=tmp_path / "own", users=tmp_path / "users")


@pytest.fixture
def session(visitor: Visitor) -> Iterator[SshSession]:
    session = visitor.open(visitor.fingerprint)
    yield session
    session.close()


def stranger(folder: Path) -> tuple[Path, str]:
    """Return another key, and its public part."""
    path = make_key(folder / "stranger")
    kind, key = path.with_suffix(".pub").read_text().split()[:2]
    return path, f"{kind} {key}"


def test_an_unknown_host_key_is_refused_with_its_fingerprint(visitor: Visitor) -> None:
    with pytest.raises(HostKeyError) as refused:
        visitor.open()
    assert f"--accept-host-key {visitor.fingerprint}" in str(refused.value)
    assert not visitor.own.exists()


def test_an_accepted_host_key_is_pinned_and_then_known(visitor: Visitor) -> None:
    visitor.open(visitor.fingerprint).close()
    assert visitor.own.read_text().startswith(f"{visitor.name} ssh-ed25519 ")
    visitor.open().close()


def test_another_fingerprint_accepts_nothing(visitor: Visitor) -> None:
    with pytest.raises(HostKeyError, match="is not known"):
        visitor.open("SHA256:" + "A" * 43)
    assert not visitor.own.exists()


def test_a_changed_host_key_is_refused_until_the_new_one_is_accepted(
    visitor: Visitor, tmp_path: Path
) -> None:
    _, public = stranger(tmp_path)
    visitor.own.write_text(f"other.example {public}\n{visitor.name} {public}\n")
    with pytest.raises(HostKeyError, match="has CHANGED"):
        visitor.open()
    visitor.open(visitor.fingerprint).close()
    visitor.open().close()
    assert f"other.example {public}\n" in visitor.own.read_text()
    assert f"{visitor.name} {public}" not in visitor.own.read_text()


def test_the_users_own_known_hosts_count(visitor: Visitor) -> None:
    visitor.open(visitor.fingerprint).close()
    visitor.own.rename(visitor.users)
    visitor.open().close()


def test_a_key_that_the_box_does_not_know_is_not_let_in(visitor: Visitor, tmp_path: Path) -> None:
    path, _ = stranger(tmp_path)
    with pytest.raises(ConfigError, match="accepts none of our keys; install one"):
        visitor.open(visitor.fingerprint, identity=path)


def test_a_box_that_is_not_there_is_told_from_one_that_refuses(visitor: Visitor) -> None:
    visitor.door = replace(visitor.door, address="admin@127.0.0.1:9")
    with pytest.raises(LinkError, match="does not answer"):
        visitor.open()


def test_words_are_words_whatever_is_in_them(session: SshSession) -> None:
    word = "a b $HOME `id` ; 'q' \"d\" \\ *"
    answer = session.run(["printf", "%s", word], timeout_s=20)
    assert (answer.code, answer.out.decode()) == (0, word)


def test_a_command_gets_all_of_stdin_and_both_outputs_come_back(session: SshSession) -> None:
    data = b"x" * 3_000_000
    answer = session.run(["sh", "-c", "cat | tee /dev/stderr; exit 7"], stdin=[data], timeout_s=60)
    assert (answer.code, answer.out == data, answer.err == data) == (7, True, True)


def test_a_command_that_does_not_read_its_stdin_is_no_broken_connection(
    session: SshSession,
) -> None:
    answer = session.run(["false"], stdin=[b"x" * 8_000_000], timeout_s=20)
    assert answer.code == 1


def test_a_command_that_does_not_end_is_given_up(session: SshSession) -> None:
    begun_s = time.monotonic()
    with pytest.raises(LinkError, match="took longer than 1 s"):
        session.run(["sleep", "60"], timeout_s=1.0)
    assert time.monotonic() - begun_s < 20


def test_an_endless_answer_is_given_up(session: SshSession) -> None:
    with pytest.raises(LinkError, match="it said more than"):
        session.run(["cat", "/dev/zero"], timeout_s=60)


def test_a_step_that_fails_on_the_box_is_told_in_its_words(session: SshSession) -> None:
    remote = Remote(session, sys.executable)
    arguments = {"step": "build", "prefix": "/proc/nowhere", "version": "1-0123456789ab"}
    with pytest.raises(InstallError, match=r"^root@.*: /proc/nowhere: No such file or directory$"):
        remote.call("stage", arguments)


def test_a_box_without_a_fitting_python_says_what_it_has(
    session: SshSession, tmp_path: Path
) -> None:
    old = tmp_path / "python3.6"
    old.write_text("#!/bin/sh\necho /usr/bin/python3.6 3.6\n")
    old.chmod(0o755)
    with pytest.raises(ConfigError, match=r"needs Python 3.10 to 3.13 .*/usr/bin/python3.6 3.6"):
        find_python(session, str(old))


def test_an_sshd_that_forwards_nothing_is_told_with_the_other_way(tmp_path: Path) -> None:
    with open_door(tmp_path / "ssh", AllowTcpForwarding="no") as door:
        visitor = Visitor(door, own=tmp_path / "own", users=tmp_path / "users")
        session = visitor.open(door.fingerprint)
        with pytest.raises(LinkError, match=r"forwards no port .* say with --server"):
            session.tunnel(relay).__enter__()
        session.close()


def test_only_an_enrolment_passes_through_the_connection(session: SshSession) -> None:
    with session.tunnel(partial(relay, server="http://127.0.0.1:9")) as port:
        url = f"http://127.0.0.1:{port}/api/v1"
        assert httpx.get(f"{url}/overview").status_code == 403
        assert httpx.post(f"{url}/tokens", content=b"{}").status_code == 403
        assert httpx.post(f"{url}/enrol", content=b"{}").status_code == 502
