"""Shell completion for both commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from asdic.contract.errors import ConfigError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Examples:
      asdic completion bash > ~/.local/share/bash-completion/completions/asdic
      asdic completion fish > ~/.config/fish/completions/asdic.fish
    """
    from asdic.cli.main import asdic

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"click knows no completion for {shell}")
    click.echo(kind(asdic, {}, "asdic", "_ASDIC_COMPLETE").source())
