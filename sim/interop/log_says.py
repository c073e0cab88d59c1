"""What a log says beside its figures that names a cause: NCCL's transports, trainers' warnings.

heard_in(text)  # (Heard(causes=("tcp", "slow-sockets"), ...),)
"""

from __future__ import annotations

import re

from sim.calibration.cause import Heard
from sim.records import NamedTuple


class _Tell(NamedTuple):
    """A line that tells: how it reads, what that means, and causes that it names or denies."""

    pattern: str
    says: str
    causes: tuple[str, ...]
    denied: tuple[str, ...] = ()


#: Source: NVIDIA/nccl src/transport/{net_ib,net_socket,p2p,shm}.cc and src/misc; deepspeed
#: runtime/zero/stage3.py; transformers modeling_utils.py; torch._dynamo.convert_frame
_TELLS = (
    _Tell(r"NCCL INFO (?:NET/Socket ?: ?Using|Using network Socket)|\bvia NET/Socket/"
          r"|NCCL_IB_DISABLE set by environment to 1",
          "NCCL goes between nodes over sockets", ("tcp", "slow-sockets")),
    _Tell(r"NCCL INFO (?:NET/(?:IB|OFI) ?: ?Using|Using network (?!Socket)\w)"
          r"|\bvia NET/(?!Socket)\w",
          "NCCL goes between nodes by RDMA", (), ("tcp", "slow-sockets")),
    _Tell(r"\bvia NET/IB\w*/[0-9]+(?:\([0-9]+\))?(?![/\w(])",
          "NCCL's NICs do not reach GPU memory (no GDRDMA)", ("no-gpudirect",)),
    _Tell(r"NCCL INFO NET/IB ?: ?Using (?:\[0\])?\w+:[0-9]+/\w+\b(?! +(?:\[1\])?\w+:)",
          "NCCL found one NIC alone", ("one-nic",)),
    _Tell(r"\bWidth x[0-9]+ \(downgraded\)",
          "lspci says that a PCIe link is narrower than its card", ("host-path",)),
    _Tell(r"\bvia SHM/|NCCL INFO P2P is disabled|NCCL_P2P_DISABLE set by environment to 1",
          "NCCL passes data between GPUs of a node through host memory", ("host-path",)),
    _Tell(r"doesn't support faster communication",
          "accelerate turned peer-to-peer off", ("host-path",)),
    _Tell(r"[1-9][0-9]* CUDA memory allocation retries",
          "torchtitan saw the allocator retry", ("allocator",)),
    _Tell(r"(?:HW|SW) (?:Thermal |Power Brake )?Slowdown\s*: Active",
          "the driver holds the clock down for heat or power", ("power", "straggler")),
    _Tell(r"not have many workers which may be a bottleneck"
          r"|suggested max number of worker in current system is",
          "the loader has too few or too many workers", ("data",)),
    _Tell(r"Torch was not compiled with flash attention",
          "PyTorch has no FlashAttention", ("older-attention", "eager-attention")),
    _Tell(r"pytorch allocator cache flushes since last step",
          "DeepSpeed saw the allocator flush its cache", ("allocator",)),
    _Tell(r"[Ff]alling back to eager attention",
          "attention fell back to eager", ("eager-attention",)),
    _Tell(r"torch\._dynamo hit config\.(?:cache_size|recompile)_limit",
          "torch.compile gave up on a function", ("not-compiled",)),
    _Tell(r"incompatible with gradient checkpointing",
          "gradient checkpointing is on", ("recompute",)),
)  # fmt: skip


def heard_in(text: str) -> tuple[Heard, ...]:
    """What a log says that names or denies causes of `sim.calibration.causes`, once each.

    What names a cause stands before what denies it: a log that says both, of two networks, denies
    nothing.
    """
    found: list[Heard] = []
    named: set[str] = set()
    for tell in _TELLS:
        match = re.search(tell.pattern, text)
        if match is None or named & set(tell.denied):
            continue
        line = 1 + text.count("\n", 0, match.start())
        found.append(Heard(tell.says, line, tell.causes, tell.denied))
        named.update(tell.causes)
    return tuple(found)
