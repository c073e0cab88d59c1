"""Offers read from other people's catalogues: SkyPilot's ``vms.csv``."""

from __future__ import annotations

from pathlib import Path

from sim.errors import Fault
from sim.inputs.offers import Offers
from sim.inputs.price import PriceRow, currency_of, today, whereabouts
from sim.inputs.price_files import PriceCells, read_rows
from sim.quantities import counted

_SKYPILOT = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region")
_SKYPILOT_GPUS = {
    "a100-80gb": "a100-sxm-80gb", "a100-80gb-sxm": "a100-sxm-80gb", "a100": "a100-sxm-40gb",
    "h100": "h100-sxm-80gb", "h100-sxm": "h100-sxm-80gb", "h100-mega": "h100-sxm-80gb",
    "h200": "h200-sxm-141gb", "h200-sxm": "h200-sxm-141gb", "b200": "b200-sxm-180gb",
    "b300": "b300-sxm-288gb", "gb200": "gb200-186gb", "l40s": "l40s-pcie-48gb",
    "l4": "l4-pcie-24gb", "a10g": "a10g-pcie-24gb", "v100": "v100-sxm-16gb",
    "v100-32gb": "v100-sxm-32gb", "rtx4090": "rtx-4090-24gb",
}  # fmt: skip


def import_offers(
    path: Path, provider: str, as_of: str = "", *, residency: str = "", currency: str = "USD"
) -> Offers:
    """Offers of a SkyPilot catalogue (``vms.csv``), and which of its rows were left out.

    Parameters
    ----------
    path : Path
        The CSV.
    provider : str
        As the file does not say it.
    as_of : str
        Date of the prices; today by default.
    residency : str
        Of regions of which `whereabouts` knows none.
    currency : str
        Of the prices, as for `currency_of`.
    """
    rate = currency_of(currency).usd
    day = today()
    as_of = as_of or day.isoformat()
    cited = f"{path.name} (SkyPilot catalogue)"
    left_out: dict[str, int] = {}
    dear: dict[str, int] = {}

    def parse(
        source: str, line: int, record: dict[str, str | None], faults: list[Fault]
    ) -> PriceRow | None:
        cells = PriceCells(source, line, record, faults)
        name = cells.text("AcceleratorName").lower()
        if not name:
            return None
        instance = cells.text("InstanceType")
        gpu = _SKYPILOT_GPUS.get(name)
        if gpu == "h100-sxm-80gb" and "pcie" in instance.lower():
            gpu = "h100-pcie-80gb"
        if gpu is None:
            left_out[name] = left_out.get(name, 0) + 1
            return None
        count, price = cells.number("AcceleratorCount"), cells.optional("Price")
        spot = cells.optional("SpotPrice")
        if count is None or price is None:
            return None
        if spot and spot > price:  # a price file may not say so
            dear[name] = dear.get(name, 0) + 1
            spot = None
        region = cells.text("Region")
        country, place = whereabouts(provider, region)
        each = rate / count
        return PriceRow(
            provider, instance, gpu, int(count), price * each, spot * each if spot else None,
            region, place or residency, as_of, cited, country,
            confidence="listed",
        )  # fmt: skip

    rows = read_rows(path, parse, _SKYPILOT)
    notes = [
        f"{counted(n, 'row')} of {name}: no such GPU here" for name, n in sorted(left_out.items())
    ]
    why = "above the price on demand"
    notes += [f"{counted(n, 'spot price')} of {name}: {why}" for name, n in sorted(dear.items())]
    return Offers(tuple(rows), day, tuple(notes))
