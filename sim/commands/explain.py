"""`scaling-sim explain`: a code in words; a fine-tuning method beside the full fine-tune."""

from __future__ import annotations

import click

from sim.commands.complete import CODES
from sim.commands.options import Answer, answered, job_or_none, sets
from sim.errors import InputError


@click.command("explain")
@click.argument("topology", metavar="CODE|TOPOLOGY", shell_complete=CODES)
@job_or_none
@sets
@answered()
def command(topology: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """What CODE of a fault or warning means; or why LoRA is (no) faster.

    With a TOPOLOGY and a WORKLOAD: the step part by part, by method.

    Example: explain flash3

    Example: explain dgx-h100 llama3-8b-lora
    """
    import sim

    if not workload:
        if overrides:
            message = "takes no --set, --calibration or --model-config: those are of a job"
            raise InputError.single(topology, message)
        code = sim.explain_code(topology)
        from sim.report.code import view as code_view

        return code_view(code)
    found = sim.explain(topology, workload, overrides=overrides)
    from sim.report.explain import view

    return view(found)
