"""What every verb needs to talk to people and to machines."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

from asdic.contract.errors import AsdicError, MissingPackageError


class LazyGroup(click.Group):
    """A group whose verbs are named in a table and imported when they are called."""

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table, which is the order of work."""
        return [*self._verbs, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb called ``cmd_name``, imported now."""
        if cmd_name not in self._verbs:
            return super().get_command(ctx, cmd_name)
        module, attribute = self._verbs[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def run(command: click.Command, name: str) -> int:
    """Run ``command`` and return its exit code: 0 done, 1 expected failure, 2 usage."""
    try:
        _invoke(command, name)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except AsdicError as error:
        click.echo(f"{name}: {error}", err=True)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"{name}: {where}{error.strerror or error}", err=True)
        return 1
    return 0


def _invoke(command: click.Command, name: str) -> None:
    try:
        command.main(prog_name=name, standalone_mode=False)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if (extra := _extra_with(package)) is None:
            raise
        raise MissingPackageError(package, extra) from error


def _extra_with(package: str) -> str | None:
    """Return an extra of asdic that brings ``package``, or None where none does."""
    pattern = re.compile(rf"{re.escape(package)}\b.*extra == [\"']([a-z-]+)[\"']", re.IGNORECASE)
    found = (pattern.match(line) for line in importlib.metadata.requires("asdic") or ())
    return next((match[1] for match in found if match), None)


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON for a machine (or a patient person)."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for a person; numbers are the caller's to format."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        raise MissingPackageError("rich", "fleet") from error
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)
