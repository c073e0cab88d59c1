"""What was meant by a command line that click refuses."""

from __future__ import annotations

from pathlib import Path

import click

from sim.errors import InputError
from sim.files import is_there


def hint(error: click.ClickException) -> str:
    """A sentence that says what to write instead; "" where nothing is known."""
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        return _without_machine(error)
    return _key(error) if isinstance(error, click.NoSuchOption) else ""


def _without_machine(error: click.MissingParameter) -> str:
    """The only name there is may be a job's; or a machine's, which does nothing by itself."""
    from sim.inputs import catalogue
    from sim.inputs.counted import machine

    context = error.ctx
    name = context.params.get("topology") if context is not None else None
    if context is None or not isinstance(name, str):
        return ""
    if catalogue.find("workloads", name) is not None:
        both = f"{context.info_name} dgx-h100 {name}"
        return f"{name} is a job; name the machine that it runs on first, as in {both}"
    if catalogue.find("topologies", name) is not None or machine(name) is not None:
        quoted = f'"{name}"' if " " in name else name
        both = f"{context.command_path} {quoted} llama3-8b-sft"
        return (
            f"{quoted} is a machine; name a job too, as in {both} (list workloads has all, "
            "--set model=NAME puts another model in, a trainer's file is a job as well)"
        )
    return _of_a_file(context, name)


def _of_a_file(context: click.Context, name: str) -> str:
    """What goes with the only file there is; "" where there is no such file, or it has faults."""
    from sim.inputs.arguments import split_inputs

    try:
        _, jobs = split_inputs([name])
    except InputError:
        return ""
    path, verb = Path(name), context.info_name
    if not is_there(path):
        return ""
    if jobs:
        return (
            f"{name} is a job; name the machine that it runs on first, as in {verb} dgx-h100 "
            f"{name} (list machines has all; any is written as well, as in {verb} "
            f'"8x A100 80GB" {name})'
        )
    return f"{name} is a machine; name a job too, as in {verb} {name} llama3-8b-sft"


def _key(error: click.NoSuchOption) -> str:
    """An option may be a key of the files."""
    from sim.inputs.overrides import key_named

    key = key_named(error.option_name.lstrip("-").replace("-", "_"))
    return f"{key} is a key of the files: write --set {key}=..." if key else ""
