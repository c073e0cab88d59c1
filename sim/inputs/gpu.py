"""A GPU as the catalogue or the user describes it. All values SI: bytes, B/s, FLOP/s, Hz, W."""

from __future__ import annotations

from sim.inputs.base import Flops, Hertz, MemorySize, NotNegative, Positive, Rate, Spec, Watts

GPUS_A_NODE = 8  # of a node that does not say


class Gpu(Spec):
    """One GPU model."""

    name: str
    architecture: str = "hopper"  # volta | turing | ampere | ada | hopper | blackwell
    form_factor: str = "sxm"  # sxm | oam | pcie | superchip
    compute_capability: float = 9.0
    sms: Positive = 132
    boost_clock: Hertz = 1.83e9  # [Hz] clock at which the dense peaks are quoted
    memory: MemorySize = 80e9  # [B] usable, as nvidia-smi reports
    memory_bandwidth: Rate = 3.35e12  # [B/s] datasheet
    l2_cache: MemorySize = 50e6  # [B]
    peak_bf16: Flops | None = 989.4e12  # dense, FLOP/s; None where the GPU lacks the dtype
    peak_fp16: Flops | None = 989.4e12
    peak_tf32: Flops | None = 494.7e12
    peak_fp32: Flops = 67e12  # non-tensor
    peak_fp8: Flops | None = 1978.9e12
    peak_fp4: Flops | None = None  # NVFP4
    peak_int8: Flops | None = 1978.9e12
    nvlink_generation: int | None = 4
    nvlink_links: NotNegative = 18
    nvlink_link_rate: Rate = 25e9  # [B/s] per link per direction, raw
    bridge: Positive = 2  # of a PCIe card: the most cards that one bridge joins, each to each
    pcie_generation: Positive = 5
    pcie_lanes: Positive = 16
    power_limit: Watts = 700.0  # [W]
    idle_power: Watts = 70.0  # [W]
    multicast: bool = True  # NVLS (NVLink SHARP) capable with a third-generation NVSwitch
    p2p: bool = True  # peer-to-peer over PCIe allowed (false on GeForce)
    source: str = ""
    base: str = (
        ""  # catalogue entry that constants are looked up by; "" for a GPU of the user's own
    )
    confidence: str = ""  # of the data: high | medium
    borrowed: str = ""  # keys that a GPU of one's own leaves out, and whose they are

    @property
    def peak_half(self) -> float:
        """Dense peak in bf16, or in what runs in its place. [FLOP/s]"""
        return self.peak_bf16 or self.peak_fp16 or self.peak_fp32
