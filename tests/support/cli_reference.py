"""The command reference in docs/cli.md, made from the commands' own help.

``python -m tests.support.cli_reference docs/cli.md`` writes it; a test compares it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from asdic.cli.agent import agent
from asdic.cli.main import asdic
from asdic.cli.runner import runner

HEADER = """# Commands

Generated from `--help` by `make docs`; a test keeps it in step.
"""


def reference() -> str:
    """Return the text of docs/cli.md."""
    roots = (("asdic", asdic), ("asdic-agent", agent), ("asdic-runner", runner))
    sections = [section for name, root in roots for section in _sections(name, root, None)]
    return HEADER + "\n" + "\n".join(sections)


def _sections(name: str, command: click.Command, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=88, max_content_width=88
    )
    title = context.command_path
    yield f"## {title}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            found = command.get_command(context, verb)
            if found is not None and not found.hidden:
                yield from _sections(verb, found, context)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
