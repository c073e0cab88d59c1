"""`scaling-sim completion`: completion of verbs, options and names in a shell."""

from __future__ import annotations

import click

from sim.commands.output import say


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    Example: completion bash > ~/.local/share/bash-completion/completions/scaling-sim
    """
    from click.shell_completion import ShellComplete, get_completion_class

    whole = click.get_current_context().find_root().command
    chosen = get_completion_class(shell)
    assert chosen is not None
    asked = chosen(whole, {}, "scaling-sim", "_SCALING_SIM_COMPLETE")
    try:
        script = asked.source()
    except OSError:  # no process could be started to ask bash for its version
        script = ShellComplete.source(asked)
    say(script)
