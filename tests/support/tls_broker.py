"""Mosquitto with TLS, and the authority that vouches for it; or for somebody else."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import LinkError
from asdic.contract.mqtt import check_broker
from tests.conftest import missing
from tests.support.flash_yard import free_port
from tests.support.paper_box import wait_for

PAHO_LEAVES_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
"""paho leaves a socket whose handshake failed to Python's memory."""

_DAY = datetime.timedelta(days=1)
_NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs certificates.

    Args:
        name: How it is called.
        is_authority: False makes a certificate that may not sign others.
        born: From when on it is valid, for 30 days.
    """

    def __init__(
        self, name: str, *, is_authority: bool = True, born: datetime.datetime = _NOW - _DAY
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._born = born
        constraint = x509.BasicConstraints(ca=is_authority, path_length=None)
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(constraint, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        """Its own certificate."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """Its key, which nobody else may see."""
        return _key_pem(self._key)

    def certificate(self, host: str) -> tuple[str, str]:
        """Return a certificate for an address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        certificate = (
            self._builder(x509.Name([]), key)
            .add_extension(alternative, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode(), _key_pem(key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._born)
            .not_valid_after(self._born + 30 * _DAY)
        )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@dataclass
class TlsBroker:
    """A mosquitto on loopback.

    Attributes:
        folder: Where its files lie.
        port: Where it listens.
        plain_port: Where it listens without TLS, for who must not be let in there by mistake.
    """

    folder: Path
    port: int
    plain_port: int

    def address(self, authority: Authority) -> BrokerAddress:
        """Return its address, and who shall vouch for it."""
        return BrokerAddress(host="127.0.0.1", port=self.port, ca=authority.pem)

    @contextmanager
    def running(self, authority: Authority, *, host: str = "127.0.0.1") -> Iterator[None]:
        """Run it with a certificate of ``authority`` for ``host`` while the block runs."""
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            missing("mosquitto is not installed; install the Debian package mosquitto")
        certificate, key = authority.certificate(host)
        for name, text in (("cert.pem", certificate), ("key.pem", key), ("conf", self._conf())):
            (self.folder / name).write_text(text)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(program), "-c", str(self.folder / "conf")], stdout=log, stderr=log
            )
        try:
            wait_for(self._answers, "mosquitto answers")
            yield
        finally:
            process.terminate()
            process.wait(10.0)

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text()

    @property
    def attempts(self) -> int:
        """How many connections to its port with TLS were begun."""
        return self.log.count(f" on port {self.port}.")

    def _conf(self) -> str:
        lines = (
            "per_listener_settings false",
            "allow_anonymous true",
            "persistence false",
            "user root" if os.geteuid() == 0 else "",
            f"listener {self.port} 127.0.0.1",
            f"certfile {self.folder}/cert.pem",
            f"keyfile {self.folder}/key.pem",
            f"listener {self.plain_port} 127.0.0.1",
        )
        return "".join(f"{line}\n" for line in lines)

    def _answers(self) -> bool:
        try:
            check_broker(BrokerAddress(host="127.0.0.1", port=self.plain_port), timeout_s=1.0)
        except LinkError:
            return False
        return True


def tls_broker(folder: Path) -> TlsBroker:
    """Return a broker whose files lie in a new ``folder``."""
    folder.mkdir(parents=True)
    return TlsBroker(folder=folder, port=free_port(), plain_port=free_port())
