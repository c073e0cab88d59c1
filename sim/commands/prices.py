"""`scaling-sim prices`: the catalogue of offers, and a job priced at every offer."""

from __future__ import annotations

from pathlib import Path

import click

import sim
from sim.api.machines import prices_import, prices_job, prices_list
from sim.commands.asked import asks
from sim.commands.complete import GPUS, INPUTS, JOBS
from sim.commands.options import FORMS, Answer, F, answered, own_prices, sets
from sim.commands.output import emit, tell
from sim.errors import InputError

_lists, _prices, _imports = asks(prices_list), asks(prices_job), asks(prices_import)
_output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead."
)


_place = (
    _lists("region", help="Region, by its beginning. Repeatable."),
    _lists("residency", help="Where data may be: EU, US. Repeatable."),
    click.option("--currency", default="USD", metavar="EUR[=USD]",
                 help="Show prices in it, at the shipped dollar rate or at your own: EUR=1.10."),
)  # fmt: skip


def _placed(function: F) -> F:
    """Where offers are, and in which currency they are shown."""
    for option in reversed(_place):
        function = option(function)
    return function


@click.group("prices")
def command() -> None:
    """Offers, dated and with their source; your own price file over them."""


@command.command("list")
@_lists("gpu", default=None, shell_complete=GPUS, help="Only GPUs whose name contains this.")
@_lists("provider", help="Whose offers. Repeatable.")
@_lists("all_dates", help="Older prices of the same offer too.")
@_placed
@own_prices
@answered()
def list_(
    gpu: str | None, provider: tuple[str, ...], all_dates: bool, region: tuple[str, ...],
    residency: tuple[str, ...], currency: str, prices: Path | None,
) -> Answer:  # fmt: skip
    """List offers with price on every terms, region, age and source."""
    from sim.inputs.price import currency_of
    from sim.report.prices import offers_view

    shown = currency_of(currency)
    found = sim.prices_list(
        gpu=gpu or "", provider=provider, all_dates=all_dates, region=region,
        residency=residency, prices=prices,
    )  # fmt: skip
    return offers_view(found, shown)


@command.command("show")
@click.argument("instance")
@own_prices
@answered("json", *FORMS)
def show_(instance: str, prices: Path | None) -> Answer:
    """Show everything known about an INSTANCE, at every date."""
    from sim.report.prices import offers_view

    return offers_view(sim.prices_show(instance, prices=prices))


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--provider", required=True, help="As these files don't say it.")
@_imports("as_of", default=None, help="Date of the prices, YYYY-MM-DD; today by default.")
@_imports("residency", help="Of regions that are not known here.")
@_imports("currency", help="Of the file's prices: EUR, or EUR=1.10 dollars.")
@_output
def import_(
    file: Path, provider: str, as_of: str | None, residency: str, currency: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Write a file for --prices from a SkyPilot catalogue (vms.csv)."""
    from sim.inputs.price_files import to_csv

    found = sim.prices_import(
        file, provider, as_of=as_of or "", residency=residency, currency=currency
    )
    emit(to_csv(found.rows), output)
    for note in found.left_out:
        tell(f"left out: {note}")


@command.command("job")
@click.argument("inputs", nargs=-1, required=True, metavar="TOPOLOGY... WORKLOAD",
                shell_complete=INPUTS)  # fmt: skip
@click.option("--workload", "-w", "jobs", multiple=True, shell_complete=JOBS,
              help="The job, if not among the inputs.")  # fmt: skip
@_prices("spot", help="Spot capacity too, with its preemptions.")
@_prices("setup", help="Paid before the first step, such as 30 min.")
@_prices("provider", help="Whose offers. Repeatable.")
@_placed
@sets
@own_prices
@answered()
def job(
    inputs: tuple[str, ...], jobs: tuple[str, ...], spot: bool, setup: str | None,
    provider: tuple[str, ...], region: tuple[str, ...], residency: tuple[str, ...], currency: str,
    overrides: tuple[str, ...], prices: Path | None,
) -> Answer:  # fmt: skip
    """Price WORKLOAD on each TOPOLOGY at every offer of its GPU.

    Cheapest first, prices that nobody checked after those that are.
    """
    from sim.inputs.arguments import split_inputs
    from sim.inputs.price import currency_of, today
    from sim.report.prices import priced_view
    from sim.report.progress import progress_bar

    machines, found = split_inputs(inputs)
    wanted = [*found, *jobs]
    if len(wanted) != 1 or not machines:
        source, message = "prices job", "name one workload and at least one topology"
        raise InputError.single(source, message)
    shown = currency_of(currency)
    with progress_bar("simulations") as progress:
        priced = sim.prices_job(
            machines, wanted[0], spot=spot, setup=setup, provider=provider,
            region=region, residency=residency, overrides=overrides, prices=prices,
            progress=progress,
        )  # fmt: skip
    return priced_view(priced, today(), shown)
