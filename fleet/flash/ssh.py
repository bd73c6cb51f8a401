"""A session over SSH: fabric connects, with keys or an agent, to a host whose key is pinned."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import paramiko
from fabric import Connection

from asdic.contract.errors import AsdicError, ConfigError, LinkError
from asdic.fleet.flash.host_keys import HostKeyError, KnownHosts, PinnedKeys, changed, fingerprint
from asdic.fleet.flash.session import OUTPUT_LIMIT_BYTES, Answer, Serve

CONNECT_S: Final = 20
KEEPALIVE_S: Final = 10
TUNNEL_S: Final = 60.0
_PIECE_BYTES: Final = 32 << 10
_POLL_S: Final = 0.2


class SshSession:
    """A connection to ``address`` (``user@host`` or ``user@host:port``)."""

    def __init__(self, address: str, connection: Any) -> None:
        self.name = address
        self._connection = connection

    @classmethod
    def open(
        cls,
        address: str,
        *,
        hosts: KnownHosts,
        accepted: str | None = None,
        identity: str | None = None,
    ) -> SshSession:
        """Connect; the user's ssh_config is honoured, jump hosts included.

        Args:
            address: As ``admin@box7.example:2222``.
            hosts: The pinned host keys.
            accepted: Fingerprint of the one new key that a person accepts.
            identity: File of the private key.  [default: the agent's and those in ~/.ssh]

        Raises:
            HostKeyError: The box's key is unknown or has changed.
            ConfigError: The box does not let us in.
            LinkError: It does not answer.
        """
        keys: dict[str, Any] = {} if identity is None else {"key_filename": identity}
        try:
            connection = Connection(address, connect_timeout=CONNECT_S, connect_kwargs=keys)
        except ValueError as error:
            raise ConfigError(
                f"{address!r} is no address; write user@host or user@host:port"
            ) from error
        _secure(connection, hosts, accepted)
        try:
            _connect(connection, hosts, accepted)
        except AsdicError:
            connection.close()
            raise
        connection.transport.set_keepalive(KEEPALIVE_S)
        return cls(address, connection)

    def run(self, words: Sequence[str], *, stdin: Iterable[bytes] = (), timeout_s: float) -> Answer:
        """Run a command; see ``Session.run``."""
        deadline_s = time.monotonic() + timeout_s
        try:
            channel = self._connection.transport.open_session(timeout=CONNECT_S)
        except (paramiko.SSHException, OSError, EOFError, AttributeError) as error:
            raise LinkError(f"{self.name}: the connection is gone ({_reason(error)})") from error
        with channel:
            try:
                channel.exec_command(shlex.join(words))
                return _conversation(channel, stdin, deadline_s)
            except TimeoutError as error:
                raise LinkError(
                    f"{self.name}: `{words[0]}` took longer than {timeout_s:.0f} s"
                ) from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise LinkError(
                    f"{self.name}: the connection broke ({_reason(error)}); run the same command "
                    "again, it goes on where it stopped"
                ) from error

    @contextmanager
    def tunnel(self, serve: Serve) -> Iterator[int]:
        """Let the box reach us; see ``Session.tunnel``."""
        transport = self._connection.transport

        def arrived(channel: Any, _origin: object, _server: object) -> None:
            threading.Thread(target=_served, args=(channel, serve), daemon=True).start()

        try:
            remote = transport.request_port_forward("127.0.0.1", 0, arrived)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not transport.is_active():
                raise LinkError(
                    f"{self.name}: the connection is gone ({_reason(error)})"
                ) from error
            raise LinkError(
                f"{self.name}: its sshd forwards no port ({_reason(error)}); allow "
                "AllowTcpForwarding, or say with --server at which address the box reaches the "
                "manager"
            ) from error
        try:
            yield remote
        finally:
            with suppress(paramiko.SSHException, OSError, EOFError):
                transport.cancel_port_forward("127.0.0.1", remote)

    def close(self) -> None:
        """Hang up."""
        with suppress(paramiko.SSHException, OSError, EOFError):
            self._connection.close()


def _secure(connection: Any, hosts: KnownHosts, accepted: str | None) -> None:
    """Pin the host keys of a connection and of each jump host before it.

    Fabric's own policy, which adds any key, never gets a say.
    """
    while isinstance(connection, Connection):
        name = host_name(connection.host, connection.port)
        for key in hosts.keys_of(name):
            connection.client.get_host_keys().add(name, key.get_name(), key)
        connection.client.set_missing_host_key_policy(PinnedKeys(hosts, accepted))
        connection = connection.gateway


def _connect(connection: Any, hosts: KnownHosts, accepted: str | None) -> None:
    where = connection.host
    try:
        connection.open()
    except paramiko.BadHostKeyException as error:
        name = _name_in(connection, error.hostname)
        if fingerprint(error.key) != accepted:
            raise changed(name, error.key, error.expected_key) from error
        hosts.pin(name, error.key)
        connection.client.get_host_keys().clear()
        _secure(connection, hosts, accepted)
        _connect(connection, hosts, None)
    except HostKeyError:
        raise
    except paramiko.PasswordRequiredException as error:
        raise ConfigError(
            f"{where}: the private key has a passphrase; put it into the agent with ssh-add"
        ) from error
    except paramiko.AuthenticationException as error:
        raise ConfigError(
            f"{connection.user}@{where} accepts none of our keys; install one with ssh-copy-id, "
            "or name it with --identity"
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise LinkError(f"{where}:{connection.port} does not answer: {_reason(error)}") from error


def _name_in(connection: Any, host: str) -> str:
    """Return how a known_hosts file names the host, or the jump host, called ``host``."""
    while isinstance(connection.gateway, Connection) and connection.host != host:
        connection = connection.gateway
    return host_name(connection.host, connection.port)


def host_name(host: str, port: int) -> str:
    """Return how a known_hosts file names a host."""
    return host if port == 22 else f"[{host}]:{port}"


def _conversation(channel: Any, stdin: Iterable[bytes], deadline_s: float) -> Answer:
    """Write stdin and read both outputs until the command ends.

    Raises:
        TimeoutError: The deadline has passed.
        OSError: The connection broke, or the command says more than is read.
    """
    channel.settimeout(_POLL_S)
    out, err = bytearray(), bytearray()
    readers = [
        threading.Thread(target=_read, args=(channel.recv, out), daemon=True),
        threading.Thread(target=_read, args=(channel.recv_stderr, err), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        _write(channel, stdin, deadline_s)
        while not channel.exit_status_ready() or any(one.is_alive() for one in readers):
            if channel.closed and not channel.exit_status_ready():
                raise EOFError("no exit code came")
            if len(out) + len(err) > OUTPUT_LIMIT_BYTES:
                raise OSError(f"it said more than {OUTPUT_LIMIT_BYTES} bytes")
            _check_time(deadline_s)
            channel.status_event.wait(_POLL_S)
            for reader in readers:
                reader.join(_POLL_S)
    finally:
        channel.close()
    code = channel.recv_exit_status()
    if code < 0:
        raise EOFError("no exit code came")
    return Answer(code=code, out=bytes(out), err=bytes(err))


def _write(channel: Any, stdin: Iterable[bytes], deadline_s: float) -> None:
    """Write all of stdin; a command that has ended does not want the rest."""
    for piece in stdin:
        rest = memoryview(piece)
        while rest:
            _check_time(deadline_s)
            try:
                rest = rest[channel.send(rest[:_PIECE_BYTES]) :]
            except TimeoutError:
                continue
            except OSError:
                if channel.exit_status_ready() or channel.eof_received:
                    return
                raise
    channel.shutdown_write()


def _read(receive: Any, into: bytearray) -> None:
    while len(into) <= OUTPUT_LIMIT_BYTES:
        try:
            piece = receive(_PIECE_BYTES)
        except TimeoutError:
            continue
        except (OSError, EOFError):
            return
        if not piece:
            return
        into += piece


def _check_time(deadline_s: float) -> None:
    if time.monotonic() > deadline_s:
        raise TimeoutError


def _served(channel: Any, serve: Serve) -> None:
    # Where the connection broke, closing the channel fails as well.
    with suppress(OSError, EOFError, paramiko.SSHException), channel:
        channel.settimeout(TUNNEL_S)
        serve(channel)


def _reason(error: BaseException) -> str:
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return "; ".join(sorted(set(map(_reason, error.errors.values()))))
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
