"""What was meant by a command line that click refuses."""

from __future__ import annotations

import click


def hint(error: click.ClickException) -> str:
    """A sentence that says what to write instead; "" where nothing is known."""
    if isinstance(error, click.MissingParameter):
        return _without_machine(error)
    return _key(error) if isinstance(error, click.NoSuchOption) else ""


def _without_machine(error: click.MissingParameter) -> str:
    """The only name there is may be a job's."""
    from sim.inputs import catalogue

    context = error.ctx
    name = context.params.get("topology") if context is not None else None
    if context is None or not isinstance(name, str) or catalogue.find("workloads", name) is None:
        return ""
    machine = f"{context.info_name} dgx-h100 {name}"
    return f"{name} is a job; name the machine that it runs on first, as in {machine}"


def _key(error: click.NoSuchOption) -> str:
    """An option may be a key of the files."""
    from sim.inputs.overrides import key_named

    key = key_named(error.option_name.lstrip("-").replace("-", "_"))
    return f"{key} is a key of the files: write --set {key}=..." if key else ""
