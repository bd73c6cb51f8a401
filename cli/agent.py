"""The command ``asdic-agent``: what runs on the box, as a table of verbs."""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import Final

import click

from asdic.cli.console import LazyGroup, run

VERBS: Final = MappingProxyType(
    {
        "enrol": "asdic.cli.agent_enrol:enrol",
        "run": "asdic.cli.agent_run:run",
        "install": "asdic.cli.agent_install:install",
        "rollback": "asdic.cli.agent_rollback:rollback",
        "status": "asdic.cli.agent_status:status",
        "doctor": "asdic.cli.agent_doctor:doctor",
        "bench": "asdic.cli.agent_bench:bench",
    }
)


@click.group(cls=LazyGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asdic")
def agent() -> None:
    """Keep this box on the release that its fleet manager signed for it, or on the one before.

    \b
    The life of a box:
      asdic-agent enrol --server http://127.0.0.1:8470 --token ID.SECRET --state box1
      asdic-agent run --state box1
      asdic-agent status --state box1
      asdic-agent doctor --state box1
      asdic-agent install /media/usb/releases --state box1
      asdic-agent rollback --state box1
    """


def main() -> None:
    """Run the command; an expected failure is one line on stderr and exit code 1."""
    sys.exit(run(agent, "asdic-agent"))


if __name__ == "__main__":
    main()
