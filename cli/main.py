"""The command ``asdic``: a table of verbs, each loaded only when it is called."""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import Final

import click

from asdic.cli.console import LazyGroup, run

VERBS: Final = MappingProxyType(
    {
        "train": "asdic.cli.train:train",
        "quantize": "asdic.cli.quantize:quantize",
        "report": "asdic.cli.report:report",
        "bench": "asdic.cli.bench:bench",
        "frames": "asdic.cli.frames:frames",
        "firmware": "asdic.cli.firmware:firmware",
        "qualify": "asdic.cli.qualify:qualify",
        "pack": "asdic.cli.pack:pack",
        "sign": "asdic.cli.sign:sign",
        "inspect": "asdic.cli.inspect:inspect",
        "serve": "asdic.cli.serve:serve",
        "token": "asdic.cli.token:token",
        "flash": "asdic.cli.flash:flash",
        "unflash": "asdic.cli.unflash:unflash",
        "push": "asdic.cli.push:push",
        "export": "asdic.cli.export:export",
        "rollout": "asdic.cli.rollout:rollout",
        "rollback": "asdic.cli.rollback:rollback",
        "status": "asdic.cli.status:status",
        "demo": "asdic.cli.demo.verb:demo",
        "completion": "asdic.cli.completion:completion",
    }
)


@click.group(cls=LazyGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asdic")
def asdic() -> None:
    """Take a vision model to INT8 on a fleet of edge boxes, and prove it on each box.

    \b
    The way of a model:
      asdic train --data images/ --task segmentation --out runs/first
      asdic quantize runs/first --target x86-litert-int8 --out variants/
      asdic pack variants/ --version 1.0.0 --out releases/
      asdic sign releases/
      asdic serve --state fleet/
      asdic push 1.0.0 --to all
    """


def main() -> None:
    """Run the command; an expected failure is one line on stderr and exit code 1."""
    sys.exit(run(asdic, "asdic"))
