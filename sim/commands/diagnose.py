"""`scaling-sim diagnose`: why is a real run slower, or faster, than its machine should be."""

from __future__ import annotations

import click

import sim
from sim.api.measurements import diagnose as diagnose_run
from sim.commands.asked import asks
from sim.commands.complete import MACHINES
from sim.commands.options import Answer, answered, job, refuse, sets
from sim.errors import InputError
from sim.page.asked import Asked

_asks = asks(diagnose_run)


@click.command("diagnose")
@click.argument("topology", shell_complete=MACHINES)
@job
@_asks("measured", default=None, metavar="KEY=VALUE",
       help="tokens_per_s_per_gpu=1000, tokens_per_s=64000, step_time_s=12.5, 12.5s/it, "
              "mfu=41%, samples_per_s=8")  # fmt: skip
@_asks("log", type=str, metavar="FILE",
       help="A trainer's log: its figure, and what else it says; - if pasted.")  # fmt: skip
@click.option("--confusion", is_flag=True,
              help="Which causes can be told apart on this job, and how often stated odds come "
              "true, instead of a diagnosis.")  # fmt: skip
@_asks("also", metavar="'KEY=VALUE SET...'",
       help='Another run of the job, e.g. "tokens_per_s_per_gpu=12000 nodes=1"; '
              "the cause must explain it too.")  # fmt: skip
@_asks("baseline", metavar="'KEY=VALUE SET...'",
       help='A run taken as it is, e.g. "tokens_per_s_per_gpu=12000 nodes=1": only what '
              "--measured lacks beside it needs explaining.")  # fmt: skip
@sets
@answered(page=True)
def command(
    topology: str, workload: str, measured: str | None, log: str | None, confusion: bool,
    also: tuple[str, ...], baseline: str | None, overrides: tuple[str, ...],
) -> Answer:  # fmt: skip
    """Compare a measured run of WORKLOAD on TOPOLOGY with what it should give, and rank causes.

    Example: diagnose dgx-h100 llama3-8b-sft --set nodes=8 --measured tokens_per_s_per_gpu=1000
    """
    from sim.report import confusion as confused
    from sim.report import diagnose
    from sim.report.progress import progress_bar

    if confusion:
        refuse(["measured", "log", "baseline"], "of a diagnosis; leave out --confusion")
        return confused.view(sim.confusion(topology, workload, also=also, overrides=overrides))
    if measured is None and log is None:
        source, message = "diagnose", "give --measured KEY=VALUE, or --log FILE"
        raise InputError.single(source, message)
    with progress_bar("causes") as progress:
        found = sim.diagnose(
            topology, workload, measured=measured or "", log=log, also=also, baseline=baseline,
            overrides=overrides, progress=progress,
        )  # fmt: skip
    return diagnose.view(found), [Asked(topology, workload, overrides)]
