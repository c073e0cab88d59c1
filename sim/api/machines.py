"""Machines, their networks, and what they are offered for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.api.arguments import Overrides, Varied, axes, path, settings, several
from sim.errors import InputError

_SIZES = "sizes"
if TYPE_CHECKING:
    from sim.fabric.describe import MachineDescription
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.inputs.offers import Offers
    from sim.interop.topology import ImportedTopology
    from sim.step.variation import Progress
    from sim.study.collectives import CollectiveSweep, CollectiveVariants
    from sim.study.pricing import PricedJobs


def topo_show(
    topology: Argument, *, overrides: Overrides = (), calibration: File | Calibration | None = None
) -> MachineDescription:
    """Tree, path classes, links, bisection and rank classes of a machine.

    Parameters
    ----------
    topology, overrides, calibration
        As for `simulate`.

    Raises
    ------
    InputError
        Faults of the machine, or too many GPUs to show them link by link.
    """
    from sim.fabric.describe import describe_machine, shown
    from sim.inputs.loader import load_topology

    return describe_machine(shown(load_topology(topology, settings(overrides, calibration))))


def topo_import(
    file: File,
    *,
    gpu: str | None = None,
    nic: str | None = None,
    name: str | None = None,
    all_nics: bool = False,
    matrix: bool = False,
) -> ImportedTopology:
    """Topology YAML from `nvidia-smi topo -m` output or an NCCL topology XML.

    Parameters
    ----------
    file : path
        What to read.
    gpu : str, optional
        Catalogue name of its GPUs; without it as the file names it (nvidia-smi's list or table
        beside the matrix), or the one chip with as many NVLinks as it shows.
    nic : str, optional
        Rate of a NIC with its unit; NICs are left out without.
    name : str, optional
        Of the topology; the file's by default.
    all_nics : bool
        Keep NICs that no GPU is beside.
    matrix : bool
        The file is nvidia-smi's: refused where it is not.
    """
    from sim.interop.topology import import_topology

    return import_topology(Path(file), gpu, nic, name, all_nics, matrix)


def collective(
    topology: Argument,
    *,
    op: str = "all_gather",
    sizes: str | Sequence[int] = "1K:8G",
    ranks: int | None = None,
    nccl: str = "2.21",
    algorithm: str | None = None,
    protocol: str | None = None,
    nccl_path: str = "plain",
    vary: Varied = (),
    zipped: bool = False,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
) -> CollectiveSweep | CollectiveVariants:
    """What the network gives: the table that nccl-tests prints.

    Parameters
    ----------
    topology, overrides, calibration
        As for `simulate`.
    op : str
        ``all_gather``, ``reduce_scatter``, ``all_reduce``, ``broadcast``, ``all_to_all`` or
        ``send_recv``, or as NCCL and nccl-tests call it (``AllGather``, ``all_gather_perf``).
    sizes : str or sequence of int
        Total bytes: a range in powers of two, a comma list (K = 1024), or numbers. [B]
    ranks : int, optional
        Only the first so many GPUs.
    nccl, algorithm, protocol : str
        NCCL's version, and what to use instead of its choice.
    nccl_path : str
        What the program registers its buffers for, as ``stack.nccl_path``: ``plain``,
        ``registered``, ``symmetric`` or ``copy-engine``.
    vary : iterable of ``KEY=A,B,C``, or mapping
        A row for each value of keys of the topology.
    zipped : bool
        The varied keys move together.
    progress : callable, optional
        Called with machines done and all there are, where something is varied.

    Returns
    -------
    CollectiveSweep or CollectiveVariants
        The second where something is varied.
    """
    from sim.cost.nccl.communicator import collective_named
    from sim.fabric.fabric import compile_fabric
    from sim.inputs.loader import load_topology
    from sim.study.axes import from_options
    from sim.study.collectives import (
        Collective,
        collective_sweep,
        collective_variants,
        parse_sizes,
    )

    wanted = parse_sizes(sizes) if isinstance(sizes, str) else tuple(sizes)
    if not wanted or min(wanted) < 1:
        message = f"{list(wanted)} is no list of sizes; write such as [1 << 20] or '1M-1G'"
        raise InputError.single(_SIZES, message)
    meant = collective_named(op) or op
    asked = Collective(meant, wanted, ranks, nccl, algorithm, protocol, nccl_path)
    sets = settings(overrides, calibration)
    texts = axes(vary)
    if texts or zipped:
        return collective_variants(topology, from_options(texts, zipped), sets, asked, progress)
    return collective_sweep(compile_fabric(load_topology(topology, sets)), asked)


def prices_list(
    *, gpu: str = "", provider: Sequence[str] = (), all_dates: bool = False,
    region: Sequence[str] = (), residency: Sequence[str] = (), prices: File | None = None,
) -> Offers:  # fmt: skip
    """Offers with price, region, age and source.

    Parameters
    ----------
    gpu : str
        Only GPUs whose name contains this.
    all_dates : bool
        Older prices of the same offer too.
    provider, region, residency : str or sequence of str
        Alternatives; a region by its beginning.
    prices : path, optional
        A price file of one's own; its rows replace the shipped ones.
    """
    from sim.inputs.offers import list_offers

    return list_offers(
        path(prices), gpu=gpu, provider=tuple(provider), all_dates=all_dates, region=tuple(region),
        residency=tuple(residency),
    )  # fmt: skip


def prices_show(instance: str, *, prices: File | None = None) -> Offers:
    """Everything known about an instance, at every date.

    Parameters
    ----------
    instance : str
        Part of provider, instance or region.
    prices : path, optional
        As for `prices_list`.

    Raises
    ------
    InputError
        There is no such offer.
    """
    from sim.inputs.offers import list_offers

    found = list_offers(path(prices), name=instance, all_dates=True)
    if not found.rows:
        raise InputError.single(instance, "no offer of that name; see scaling-sim prices list")
    return found


def prices_job(
    topologies: Argument | Sequence[Argument],
    workload: Argument,
    *,
    spot: bool = False,
    setup: str | None = None,
    provider: Sequence[str] = (),
    region: Sequence[str] = (),
    residency: Sequence[str] = (),
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    prices: File | None = None,
    progress: Progress | None = None,
) -> PricedJobs:
    """A job priced on each machine at every offer of its GPU, cheapest first.

    Parameters
    ----------
    topologies : one or several machines
        Each is simulated once.
    workload, overrides, calibration
        As for `simulate`; the job must have a length.
    spot : bool
        Spot capacity too, with its preemptions.
    setup : str, optional
        Paid before the first step, with its unit: ``30 min``; the topology's ``offer.setup`` by
        default.
    provider, region, residency : str or sequence of str
        Alternatives; a region by its beginning.
    prices : path, optional
        As for `prices_list`.
    progress : callable, optional
        Called with simulations done and all there are.
    """
    from sim.inputs.offers import catalogue, filtered, newest, unknown_places
    from sim.study.pricing import price_everywhere
    from sim.study.target import setup_s

    known = newest(catalogue(path(prices)))
    places = {
        "provider": tuple(provider), "region": tuple(region), "residency": tuple(residency),
    }  # fmt: skip
    faults = unknown_places(known, **places)
    if faults:
        raise InputError(faults)
    rows = filtered(known, **places)
    return price_everywhere(
        several(topologies), workload, rows,
        overrides=settings(overrides, calibration), spot=spot,
        setup_s=None if setup is None else setup_s(setup), progress=progress, elsewhere=known,
    )  # fmt: skip


def prices_import(
    file: File, provider: str, *, as_of: str = "", residency: str = "", currency: str = "USD"
) -> Offers:
    """Offers of a SkyPilot catalogue (vms.csv).

    Parameters
    ----------
    file : path
        The CSV.
    provider : str
        As it does not say it.
    as_of : str
        Date of the prices, YYYY-MM-DD; today by default.
    residency : str
        Of regions that are not known here; of the others it is filled in.
    currency : str
        Of the file's prices: ``EUR``, or ``EUR=1.10`` dollars.
    """
    from sim.inputs.offer_import import import_offers

    return import_offers(Path(file), provider, as_of, residency=residency, currency=currency)
