"""The command completion: commands, options and values in the shell by Tab."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from lrbench_caffe.cli.help import command

SHELLS = ("bash", "zsh", "fish")


@command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes lrbench in a shell.

    For bash, add this line to ~/.bashrc: eval "$(lrbench completion bash)". For zsh, the same with
    zsh in ~/.zshrc. For fish: lrbench completion fish > ~/.config/fish/completions/lrbench.fish
    """
    shell_class = get_completion_class(shell)
    assert shell_class is not None, "click supports all SHELLS"
    root = context.find_root()
    script = shell_class(root.command, {}, "lrbench", "_LRBENCH_COMPLETE")
    # Not source(): for bash it first checks the version of the bash beside Python, which may be
    # another one than the user's.
    click.echo(script.source_template % script.source_vars())
