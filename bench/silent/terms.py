"""Terms of a job and a machine: offers, owners, failures, calibrations, post-training, phases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bench.silent.keys import MACHINE, Ended, outcome

_PRICED = "offer={price_per_gpu_hour: 2 USD}"
_SPOT = "offer={price_per_gpu_hour: 2 USD, spot_price_per_gpu_hour: 1 USD, capacity: spot}"
_OWNED = "offer={capacity: owned, own: {price_per_gpu: 30000 USD}, energy_per_kwh: 0.2 USD}"
_LONG = "tokens=1e11"
#: what is asked of, by name
OF_JOBS: dict[str, tuple[str, ...]] = {
    "as it is": (), "rented": (_PRICED,), "spot": (_SPOT, _LONG), "owned": (_OWNED,),
    "days": (_LONG, "nodes=4"), "spares": (_LONG, "nodes=4", "reliability.spare_nodes=1"),
    "without a length": ("tokens=null",), "on two nodes": ("nodes=2",),
}  # fmt: skip
#: keys of offers, owners, failures and calibrations, with another value
KEYS: dict[str, Any] = {
    "offer.price_per_gpu_hour": "3 USD", "offer.provider": "lambda", "offer.region": "eu-north1",
    "offer.residency": "EU", "offer.egress_per_gb": "0.2 USD", "offer.country": "NOR",
    "offer.spot_price_per_gpu_hour": "0.5 USD", "offer.capacity": "spot",
    "offer.own": {"price_per_gpu": "20000 USD"}, "offer.preemption_mtbf": "5 h",
    "offer.preemption_wait": "1 h", "offer.preemption_notice": "100 s",
    "offer.commitment_discount": 0.3, "offer.commitment": "1000 h", "offer.setup": "2 h",
    "offer.storage_per_gb_month": "0.3 USD", "offer.energy_per_kwh": "0.4 USD", "offer.pue": 1.6,
    "offer.own.lifetime": "8760 h", "offer.own.resale": 0.3, "offer.own.interest": 0.1,
    "offer.own.staff_per_gpu_year": "2000 USD", "offer.own.space_per_gpu_month": "100 USD",
    "offer.own.in_use": 0.5,
    "reliability.failures": False, "reliability.gpu_mtbf": "1000 h",
    "reliability.node_mtbf": "1000 h", "reliability.detect": "1 h", "reliability.restart": "1 h",
    "reliability.repair": "500 h", "reliability.spare_nodes": 2,
    "reliability.warm_restart": "60 s", "reliability.least_nodes": 1,
    "reliability.pace_spread": 0.1,
    "reliability.domains": [{"name": "rack", "nodes": 2, "mtbf": "300 h"}],
    "calibration.gemm_clock": 0.8, "calibration.hbm_bandwidth": 0.8,
    "calibration.nvlink_bandwidth": 0.8, "calibration.pcie_bandwidth": 0.8,
    "calibration.network_bandwidth": 0.8, "calibration.collective_latency": 2.0,
    "calibration.host_launch": 2.0, "calibration.slowest_gpu": 0.8, "residency": "EU",
    "checkpoint.interval": "60 s", "checkpoint.memory_interval": "20 s", "checkpoint.keep": 5,
    "checkpoint.export": "none", "checkpoint.peers": 2, "checkpoint.asynchronous": True,
    "checkpoint.mode": "full", "evaluation.every": 10, "evaluation.tokens": 1e6,
    "data.workers": 1, "data.prefetch": 4, "deadline": "1 h", "epochs": 2, "samples": 5000,
    "phases": [{"name": "a", "kind": "preprocess", "tokens": 1e9}],
    "post_training": {"algorithm": "grpo"}, "sources": ["a"], "name": "b",
}  # fmt: skip


def of_terms() -> Iterator[Ended]:
    """What becomes of every key under some terms."""
    for name, sets in OF_JOBS.items():
        for key, value in KEYS.items():
            how = outcome(MACHINE, sets, (f"{key}={json.dumps(value)}",))
            yield Ended(name, key, value, how)
