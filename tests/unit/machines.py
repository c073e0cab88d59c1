"""Machines that the fabric's tests share, built in code."""

from __future__ import annotations

from sim.fabric.links import transfer_cost
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Cpu, Network, Nics, Node, NvLink, Pcie, Topology

# bytes of PCIe that a byte takes which a kernel writes to a peer, or stages in host memory
P2P, STAGED = transfer_cost("p2p"), transfer_cost("staged")

H100 = Gpu(name="h100-sxm-80gb")
A100 = Gpu(
    name="a100-sxm-80gb",
    architecture="ampere",
    compute_capability=8.0,
    nvlink_generation=3,
    nvlink_links=12,
    pcie_generation=4,
    multicast=False,
)
A100_PCIE = A100.model_copy(update={"name": "a100-pcie-80gb", "form_factor": "pcie"})


def dgx_h100(nodes=1, nics=8, **network):
    """One GPU and one 400 Gb/s NIC per PCIe 5 switch, NVSwitch."""
    return Topology(
        name="dgx-h100",
        nodes=nodes,
        node=Node(
            gpu=H100,
            nvlink=NvLink(generation=4, links_per_gpu=18, sharp=True),
            pcie=Pcie(generation=5),
            nics=Nics(count=nics),
        ),
        network=Network(**network),
    )


def dgx_a100(nodes=1, nics=8, per_switch=2, rate=25e9):
    """Two GPUs and two 200 Gb/s NICs per PCIe 4 switch, NVSwitch."""
    return Topology(
        name="dgx-a100",
        nodes=nodes,
        node=Node(
            gpu=A100,
            nvlink=NvLink(generation=3, links_per_gpu=12),
            pcie=Pcie(generation=4, gpus_per_switch=2, nics_per_switch=per_switch),
            cpu=Cpu(vendor="amd", interconnect=16e9),
            nics=Nics(count=nics, rate=rate),
        ),
    )


def pcie_box(gpus=8, per_switch=4, fabric="none", vendor="amd", sockets=2, p2p=True, bridge=2):
    """A100 PCIe, with NVLink bridges (of as many cards) or without."""
    return Topology(
        name="pcie-box",
        node=Node(
            gpu=A100_PCIE.model_copy(update={"bridge": bridge}),
            gpus=gpus,
            nvlink=NvLink(generation=3, links_per_gpu=12, fabric=fabric),
            pcie=Pcie(generation=4, gpus_per_switch=per_switch, p2p=p2p),
            cpu=Cpu(vendor=vendor, sockets=sockets, interconnect=16e9),
        ),
    )
