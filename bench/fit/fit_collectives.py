"""Fit sim/data/constants/network_timing.toml on the published collectives; `--check` only prints.

    python bench/fit/fit_collectives.py            fit, write the constants, print the errors
    python bench/fit/fit_collectives.py --cross    leave out one machine at a time and refit; a link
                                                   or NIC known from it alone borrows a relative's

Robust least squares on the logarithm of time. The choice of algorithm, protocol and route is the
model's own and fixed; only the constants of timing.py move, within physical bounds. Constants are
by generation of link and kind of NIC. Three rounds: links in the node, PCIe and host memory,
networks.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from bench.network_scaling import MACHINES
from bench.network_scaling import measured as scaling
from sim.calibration.validate_collectives import Measurement, fabric_of, measurements, systems
from sim.cost.collectives import DEFAULT_NCCL, _switch_delay, plan_collective
from sim.cost.communicators import communicator
from sim.cost.nccl import timing
from sim.cost.nccl.communicator import constants
from sim.fabric import compile_fabric
from sim.fabric.shape import PCIE
from sim.inputs.loader import load_topology

ROOT = Path(__file__).parents[2]
FILE = ROOT / "sim/data/constants/network_timing.toml"
MOST_HOP = 12.0  # [us]
EDGE = (0.0, 0.9)
TRANSFER = (0.4, 1.0)
SHORT = 16 * 2**20  # only messages below say anything about the latency of a launch and a hop
LINK_BOUNDS = {
    "base_us": ((2.0, 30.0), (8.0, 40.0), (5.0, 40.0)),
    "hop_us": None,  # from what NCCL itself reckons: `hop_bounds`
    "efficiency": ((0.2, 0.6), (0.5, 0.94), (0.5, 1.0)),
    "ramp_us": (0.0, 300.0),
    "ramp_time_us": (100.0, 2500.0),
    "spread_us": (0.0, 10.0),
    "edge": EDGE,
    "nvls_base_us": (5.0, 60.0),
    "nvls_efficiency": (0.6, 0.95),
    "nvls_ramp_us": (0.0, 300.0),
    "nvls_ramp_time_us": (50.0, 1500.0),
}
MOST_NET_HOP = 90.0
LL128_HOP = (4.0, 30.0)
NET_BOUNDS = {
    "hop_us": None,
    "efficiency": ((0.05, 0.6), (0.3, 0.94), (0.6, 1.0)),
    "ramp_us": (0.0, 800.0),
    "ramp_time_us": (50.0, 1000.0),
}

# who lends constants to a row without figures, when machines are left out
RELATIVES = {
    "nvlink3": "nvlink4", "nvlink4": "nvlink5", "nvlink5": "nvlink4", "pcie4": "pcie5",
    "pcie5": "pcie4", "shm4": "shm5", "shm5": "shm4", "efa1": "efa4", "efa4": "efa",
    "efa": "efa4", "tcpx": "efa", "rdma": "efa", "slingshot": "rdma",
}  # fmt: skip


class Row:
    """One figure with all that does not depend on the constants."""

    def __init__(self, measured, fabric=None, algorithm=None, protocol=None) -> None:
        ranks = tuple(range(measured.ranks))
        if fabric is None:
            fabric = fabric_of(measured.system)
            algorithm = systems()[measured.system].get("algorithm")
        cost = plan_collective(
            fabric, measured.op, ranks, measured.size, measured.nccl,
            algorithm=algorithm, protocol=protocol,
        )  # fmt: skip
        self.measured, self.seconds = measured, measured.time_s
        self.comm = communicator(fabric, ranks, measured.nccl)
        self.algorithm, self.protocol = cost.algorithm, cost.protocol
        self.rate, self.bound = cost.limit_bytes_per_s, cost.network_bound
        self.delay = _switch_delay(fabric, ranks, self.comm, measured.op, cost.algorithm)
        self.transfer = None  # how its tightest link is used, where that is PCIe
        if self.comm.link != "nvlink" and fabric.kind[cost.limit_resource] == PCIE:
            self.transfer = "staged" if self.comm.link == "shm" else "p2p"
        link = timing.link_key(self.comm, constants("network_timing"))
        self.parts = {link}
        if self.comm.nodes > 1:
            self.parts = {timing.network_key(self.comm, constants("network_timing"))}

    def predict(self, table) -> float:
        m = self.measured
        choice = m.op, self.algorithm, self.protocol, m.size
        rate = self.rate
        if self.transfer is not None:
            shipped = constants("network_timing")["transfers"][self.transfer]
            rate *= table["transfers"][self.transfer] / shipped
        return self.delay + sum(timing.duration(self.comm, *choice, rate, self.bound, table))

    @property
    def weight(self) -> float:
        """Large messages over whole nodes matter most, launch latency least."""
        size, whole = self.measured.size, 2.0 if self.measured.ranks >= 8 else 1.0
        return whole * (0.5 if size < 2**16 else (3.0 if size >= 2**28 else 1.0))


class Scaled:
    """A share of the NICs' rate over nodes, by NCCL's own choice: mean of our two machines."""

    weight, parts = 2.0, frozenset({"rdma"})

    def __init__(self, size, nodes, share) -> None:
        self.seconds = 1.0 / share  # what is compared is a time for each byte of NIC rate
        self.rows = []
        for machine, rate in MACHINES.items():
            fabric = compile_fabric(load_topology(machine, [f"nodes={nodes}"]))
            ranks = fabric.n_ranks
            found = Row(Measurement(machine, "all_gather", ranks, size, 1.0, DEFAULT_NCCL), fabric)
            self.rows.append((found, size * (ranks - 1) / ranks / rate))

    def predict(self, table):
        shares = [ideal / row.predict(table) for row, ideal in self.rows]
        return len(shares) / sum(shares)


class Border:
    """Bytes up to which AWS's tuner takes LL128: there both choices take equal time."""

    def __init__(self, machine, op, nodes, size, low, high) -> None:
        fabric = compile_fabric(load_topology(machine, [f"nodes={nodes}"]))
        told = Measurement(machine, op, fabric.n_ranks, size, 1.0, "2.23")
        self.low, self.high = Row(told, fabric, *low), Row(told, fabric, *high)
        self.parts, self.seconds, self.weight = self.low.parts, 1.0, 2.0

    def predict(self, table):
        return self.low.predict(table) / self.high.predict(table)


def borders():
    """Of the regions in nccl_tuner.toml, where the plugin's own source says them."""
    ring = ("ring", "ll128"), ("ring", "simple")
    found = []
    for nodes, size in ((2, 237e6), (8, 956e6), (48, 7.2e9)):
        found.append(Border("aws-p5en", "all_gather", nodes, size, *ring))
    return found


def cells(table, key, bounds):
    """Addresses of the constants that `bounds` names."""
    found = []
    for name, limit in bounds.items():
        if name not in table[key[0]][key[1]]:
            continue
        if limit is None:
            limit = hop_bounds(key)
        if isinstance(limit[0], tuple):
            # what Simple reaches of PCIe and of host memory all generations share: `transfers`
            # and its hops there are NCCL's own
            one = key[1].startswith(("pcie", "shm")) and name in ("efficiency", "hop_us")
            found += [((*key, name, i), p) for i, p in enumerate(limit[:2] if one else limit)]
        else:
            found.append(((*key, name), limit))
    return found


def hop_bounds(key):
    """No protocol is quicker over a hop than NCCL's own table, of rings, has it."""
    ring = constants("nccl_tuner")["algorithms"]["ring"]
    if key[0] == "network":
        return tuple((least, MOST_NET_HOP) for least in ring["network_hop_us"])
    kind = "nvlink" if key[1].startswith("nvlink") else "pcie"
    return tuple((least, MOST_HOP) for least in ring[f"{kind}_hop_us"])


def put(table, address, value):
    for part in address[:-1]:
        table = table[part]
    table[address[-1]] = float(value)


def get(table, address):
    for part in address:
        table = table[part]
    return table


def solve(table, rows, addresses, by_machine=False):
    """Move the constants at `addresses` to fit `rows`; `by_machine`, all machines count alike."""
    if not rows:
        return
    low = np.array([pair[0] for _, pair in addresses])
    high = np.array([pair[1] for _, pair in addresses])
    start = np.clip([get(table, a) for a, _ in addresses], low + 1e-6, high - 1e-6)
    target = np.log([row.seconds for row in rows])
    weight = np.array([row.weight for row in rows])
    if by_machine:
        count = Counter(row.measured.system for row in rows)
        weight /= np.sqrt([count[row.measured.system] for row in rows])

    def residual(values):
        for (address, _), value in zip(addresses, values, strict=True):
            put(table, address, value)
        return weight * (np.log([row.predict(table) for row in rows]) - target)

    scale = np.maximum(np.abs(start), 0.1)
    found = least_squares(
        residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale=scale, max_nfev=25
    )
    residual(found.x)


def shares():
    """Shares of the NICs' rate over nodes, every one."""
    return [Scaled(s, n, v) for s, row in scaling().items() for n, v in row.items()]


def fit(rows, table, scaled):
    """All rounds; returns the fitted table."""
    table = copy.deepcopy(table)
    links = sorted({part for row in rows for part in row.parts if row.comm.nodes == 1})
    host = [r for r in rows if r.comm.link != "nvlink" and r.comm.nodes == 1]
    for _ in range(4):
        solve(table, host, shared(table, host), by_machine=True)
        for link in links:
            mine = [r for r in rows if link in r.parts]
            solve(table, mine, informed(cells(table, ("links", link), LINK_BOUNDS), mine))
        nvlink = [r for r in rows if r.comm.nodes == 1 and r.comm.link == "nvlink"]
        edges = [(("edge", op), EDGE) for op in ("all_gather", "reduce_scatter", "all_reduce")]
        solve(table, nvlink, edges)
    chained = [r for r in rows if r.algorithm == "nvls_tree" and not r.bound]
    table["nvls_tree"]["share"] = 0.95 if chained else 1.0
    solve(table, chained, [(("nvls_tree", "share"), (0.7, 1.0))])
    for kind in sorted({part for row in rows for part in row.parts if row.comm.nodes > 1}):
        mine = [r for r in rows if kind in r.parts]
        free = informed(cells(table, ("network", kind), NET_BOUNDS), mine)
        if kind == "rdma":
            mine = mine + scaled
            free = sorted({*free, (("network", kind, "hop_us", 1), LL128_HOP)})
        solve(table, mine, free)
    solve(table, [r for r in [*rows, *borders()] if "efa" in r.parts], [
        (("network", "efa", "hop_us", 2), (30.0, MOST_NET_HOP)),
        (("network", "efa", "efficiency", 1), (0.5, 0.94)),
        (("network", "efa", "ramp_us"), NET_BOUNDS["ramp_us"]),
    ])  # fmt: skip
    return table


def shared(table, rows):
    """What PCIe and host memory have in common on every machine, whatever the generation."""
    found = []
    for mechanism in {r.transfer for r in rows} - {None}:
        found.append((("transfers", mechanism), TRANSFER))
    return found


def informed(addresses, rows):
    """Drop constants that no row depends on: protocols not run, NVLS or hops that don't occur."""
    used = {timing.PROTOCOLS.index(r.protocol) for r in rows if not r.algorithm.startswith("nvls")}
    nets = {timing.PROTOCOLS.index(r.protocol) for r in rows}
    brief = [r for r in rows if r.measured.size < SHORT]
    near = {timing.PROTOCOLS.index(r.protocol) for r in brief if not r.algorithm.startswith("nvls")}
    far = {timing.PROTOCOLS.index(r.protocol) for r in brief}
    multimem = any(r.algorithm == "nvls" for r in rows)
    kept = []
    for address, pair in addresses:
        protocols = nets if address[0] == "network" else used
        if len(address) == 4 and address[3] not in protocols:
            continue
        stepped = far if address[0] == "network" else near
        if address[2] in ("base_us", "hop_us") and address[3] not in stepped:
            continue
        if address[2].startswith("nvls") and not multimem:
            continue
        kept.append((address, pair))
    return kept


def errors(rows, table):
    return np.array([row.predict(table) / row.seconds - 1 for row in rows])


def report(rows, table, title):
    print(title)
    names = sorted({row.measured.system for row in rows})
    for name in names:
        for label, low in (("from 64K", 2**16), ("from 64M", 2**26), ("from 256M", 2**28)):
            mine = [r for r in rows if r.measured.system == name and r.measured.size >= low]
            if mine:
                e = errors(mine, table)
                print(
                    f"  {name:24s} {label:10s} {len(e):4d} bias {100 * np.median(e):+6.1f} median "
                    f"{100 * np.median(abs(e)):5.1f} p90 {100 * np.quantile(abs(e), 0.9):5.1f} %"
                )


def write(table) -> None:
    head = FILE.read_text(encoding="utf-8").split("\n[", 1)[0].rstrip()
    lines = [head]
    for section, content in table.items():
        if not isinstance(content, dict):
            continue
        groups = (
            {section: content}
            if not any(isinstance(value, dict) for value in content.values())
            else {f"{section}.{name}": row for name, row in content.items()}
        )
        for name, row in groups.items():
            lines += ["", f"[{name}]"]
            for key, value in row.items():
                listed = value if isinstance(value, list) else [value]
                values = [f"{v:.4g}" if abs(v) >= 1e-3 else "0" for v in listed]
                text = ", ".join(values)
                lines.append(f"{key} = [{text}]" if isinstance(value, list) else f"{key} = {text}")
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    known = systems()
    kept_out = {name for name, entry in known.items() if {"anomaly", "not_fitted"} & set(entry)}
    rows = [
        Row(m)
        for m in measurements()
        if m.system not in kept_out and m.size >= known[m.system].get("fitted_from", 0)
    ]
    others = [Row(m) for m in measurements() if "not_fitted" in known[m.system]]
    table = copy.deepcopy(constants("network_timing"))
    if "--check" in sys.argv:
        report(rows, table, "errors with the shipped constants")
    elif "--cross" in sys.argv:
        for name in sorted({row.measured.system for row in rows}):
            kept = [row for row in rows if row.measured.system != name]
            left = [row for row in rows if row.measured.system == name]
            fitted = fit(kept, table, shares())
            for part in {part for row in left for part in row.parts}:
                if part in RELATIVES and not any(part in row.parts for row in kept):
                    section = "network" if part in fitted["network"] else "links"
                    lender = RELATIVES[part]
                    fitted[section][part] = copy.deepcopy(fitted[section][lender])
                    print(f"({part} lent by {lender})")
            report(left, fitted, f"without {name}")
        scaled = shares()
        fitted = fit(rows, table, [s for at, s in enumerate(scaled) if at % 3])
        off = [abs(s.predict(fitted) / s.seconds - 1) for s in scaled[::3]]
        off_shares = [abs(1 / s.predict(fitted) - 1 / s.seconds) for s in scaled[::3]]
        print(
            f"without a third of network_efficiency ({len(off)} cells): median "
            f"{np.median(off):.1%}, shares off by {np.mean(off_shares):.3f} on average, "
            f"{max(off_shares):.3f} at most"
        )
    else:
        table = fit(rows, table, shares())
        write(table)
        report(rows, table, "errors after the fit")
    report(others, table, "not fitted")


if __name__ == "__main__":
    main()
