"""One node as a file of another tool describes it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Nic:
    """A NIC: where it hangs, its rate where the file says it, GPUDirect."""

    host: str
    rate: float | None = None  # [B/s]
    gpudirect: bool = True


@dataclass
class ImportedNode:
    """One node as read. Hosts are named "cpu0", "pcie3"; a switch hangs on a host too."""

    sockets: int = 1
    switches: list[str] = field(default_factory=list)  # host of each switch
    gpus: list[str] = field(default_factory=list)  # host of each GPU
    nics: list[Nic] = field(default_factory=list)
    nvlinks: dict[tuple[int, int], int] = field(default_factory=dict)  # i < j: links
    seed: bool = False  # the file names no NVLinks: those here are supposed
    nvswitch_links: int = 0  # links of every GPU into NVSwitches; 0: none
    vendor: str = ""
    model: int | None = None
    generation: int | None = None  # PCIe; None: the file doesn't say
    lanes: int = 16
    assumed: list[str] = field(default_factory=list)
