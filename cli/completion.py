"""Shell completion for both commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from asdic.contract.errors import ConfigError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of all three commands for SHELL.

    \b
    Examples:
      asdic completion bash > ~/.local/share/bash-completion/completions/asdic
      asdic completion fish > ~/.config/fish/completions/asdic.fish
      eval "$(asdic completion zsh)"
    """
    from asdic.cli.agent import agent
    from asdic.cli.main import asdic
    from asdic.cli.runner import runner

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"click knows no completion for {shell}")
    for name, command in (("asdic", asdic), ("asdic-agent", agent), ("asdic-runner", runner)):
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        click.echo(kind(command, {}, name, variable).source())
