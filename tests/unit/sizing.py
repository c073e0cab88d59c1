"""The job and the machine of one's own that are sized, and an answer as text."""

from sim.report.formats.table import render

HOUR = 3600.0
JOB = {
    "name": "small", "model": "llama-3.2-1b", "sequence_length": 2048, "micro_batch": 4,
    "gradient_accumulation": 1, "tokens": "2e8", "parallelism": "fsdp2",
}  # fmt: skip
A100 = {
    "name": "our-a100s", "nodes": 4,
    "node": {"gpu": "a100-sxm-80gb", "gpus": 8,
             "nvlink": {"generation": 3, "links_per_gpu": 12, "fabric": "nvswitch"},
             "pcie": {"generation": 4}, "nics": {"count": 8, "rate": "200 Gb/s"}},
    "offer": {"price_per_gpu_hour": "1.5 USD", "residency": "EU", "region": "eu-north1",
              "provider": "us"},
}  # fmt: skip


def told(shown):
    """A view as text, its wrapped lines joined."""
    return " ".join(render(shown).split())
