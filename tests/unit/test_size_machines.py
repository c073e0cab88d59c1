"""Machines that are searched: by offers, by names that people give, at spot prices."""

import pytest

from sim.errors import InputError
from sim.study.machines import MachineFilter, machines


def test_offers_stand_on_topologies_of_their_gpu():
    found, _ = machines(MachineFilter(gpu=("h100",)))
    assert {m.gpu for m in found} <= {"h100-sxm-80gb", "h100-pcie-80gb", "h100-nvl-94gb"}
    single = [m for m in found if m.topology.node.gpus == 1]
    assert single
    assert all(m.most_nodes == 1 for m in single)
    aws = next(m for m in found if m.topology.offer.provider.lower() == "aws")
    assert aws.topology.node.nics.kind == "efa"


@pytest.mark.parametrize("spoken", ["A100 80GB", "NVIDIA A100 80 GB", "a100-80gb"])
def test_a_kind_is_named_as_people_name_it(spoken):
    found, _ = machines(MachineFilter(gpu=(spoken,)))
    assert {m.gpu for m in found} == {"a100-sxm-80gb", "a100-pcie-80gb"}


@pytest.mark.parametrize(
    "wanted", [MachineFilter(gpu=("h1000",)), MachineFilter(provider=("nebios",))]
)
def test_a_kind_that_no_offer_has_is_refused(wanted):
    with pytest.raises(InputError, match="no offer has"):
        machines(wanted)


def test_spot_prices_are_machines_of_their_own():
    found, _ = machines(MachineFilter(provider=("nebius",)), spot=True)
    spot = [m for m in found if m.name.endswith(" spot")]
    assert spot
    assert all(m.topology.offer.capacity == "spot" for m in spot)
