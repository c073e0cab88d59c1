"""Machines that are searched: by offers, by names that people give, at spot prices."""

import math

import pytest

import sim
from sim.errors import InputError
from sim.inputs.offers import cheapest, newest, offers
from sim.report.size import view
from sim.study.machines import SETUP_S, MachineFilter, machines, set_up
from tests.unit.sizing import HOUR, told


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


H100S = {"name": "mine", "node": {"gpu": "H100", "gpus": 8}}
FIVE = {"name": "odd", "node": {"gpu": "H100", "gpus": 5}}  # nobody rents nodes of five
OWN = {"own": {"price_per_gpu": "30000 USD"}}


def sized(*topologies, **asked):
    return sim.size("llama3-8b-sft", topologies=list(topologies), **{"max_gpus": 8, **asked})


def test_a_machine_without_a_price_is_sized_at_the_price_that_compare_takes():
    found = sized(H100S)
    rate = found.winner.candidate.machine.price
    assert found.winner.figures.cost_usd < math.inf
    compared = sim.compare([H100S, "dgx-a100"], "llama3-8b-sft")
    assert compared.variants[0].result.cost.price_per_gpu_hour_usd == rate
    said = told(view(found))
    assert f"mine: it has no price, so that of nebius {cheapest_h100().instance}" in said
    assert f"${rate:.2f} per GPU-hour on demand" in said


def cheapest_h100():
    rows = [r for r in newest(offers()) if (r.gpu, r.gpus_per_node) == ("h100-sxm-80gb", 8)]
    return cheapest(rows)


def test_a_machine_without_a_price_is_taken_where_and_whose_is_wanted():
    found, _ = machines(MachineFilter(provider=("oci",)), [H100S])
    assert found[0].topology.offer.provider == "oci"
    found, left_out = machines(MachineFilter(provider=("oci",)), [FIVE])
    assert not found
    assert left_out == ["odd: its provider is not stated"]


def test_a_machine_that_names_its_provider_is_taken_at_nobody_elses_price():
    said = {**H100S, "offer": {"provider": "OCI"}}
    (found,), _ = machines(MachineFilter(), [said])
    assert found.topology.offer.provider == "oci"
    assert found.price > cheapest_h100().usd_per_gpu_hour
    (found,), _ = machines(MachineFilter(), [{**H100S, "offer": {"provider": "me"}}])
    assert (found.topology.offer.provider, found.price) == ("me", None)
    (found,), _ = machines(MachineFilter(), [{**H100S, "offer": {"residency": "US"}}])
    assert found.topology.offer.residency == "US"


def test_what_is_the_same_anywhere_is_in_every_region():
    """OCI lists one price for all regions: `prices list --region` has it, and so has `size`."""
    everywhere, _ = machines(MachineFilter(provider=("oci",)))
    found, left_out = machines(MachineFilter(region=("eu-north1",)))
    assert {m.name for m in everywhere} <= {m.name for m in found}
    assert not [text for text in left_out if text.startswith("oci")]
    assert [text for text in left_out if text.endswith("its region is us-east-1")]


def test_a_machine_of_ones_own_is_priced_by_what_it_is_written_off_by():
    mine = {**H100S, "offer": OWN}
    owned = sized(mine).winner
    assert owned.figures.cost_usd < sized(H100S).winner.figures.cost_usd
    cost = sim.compare([mine, "dgx-a100"], "llama3-8b-sft").variants[0].result.cost
    assert cost.price_kind == "owned"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "has no price, and no provider that is wanted lists its kind; add --set "
             'offer.price_per_gpu_hour="2 USD", or --objective time'),
        ({"objective": "time", "budget": "50 USD"}, "or no --budget"),
        ({"objective": "co2"}, "has no region whose electricity is known; write offer: "
                               "{country: DEU}, or --objective energy"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_not_said_to_have_no_room(asked, said):
    found = sized(FIVE, global_batch=60, **asked)
    assert found.winner is None
    assert said in found.contenders[0].untried
    shown = told(view(found))
    assert "No plan was tried on any of these machines." in shown
    assert f"odd: {found.contenders[0].untried}" in shown
    assert sized(FIVE, global_batch=60, objective="time").winner is not None


def test_a_price_that_is_set_is_the_machine_s():
    """It was refused as having none; and what an offer said before had lost its units."""
    priced = ["offer.price_per_gpu_hour=2 USD"]
    assert sized(FIVE, global_batch=60, overrides=priced).winner.candidate.machine.price == 2.0
    dear = sized("dgx-h100", overrides=["offer.price_per_gpu_hour=9 USD"]).winner
    assert dear.figures.cost_usd == pytest.approx(
        9.0 / 2.95 * sized("dgx-h100").winner.figures.cost_usd, rel=1e-3
    )


def test_a_gpu_that_nobody_rents_leads_to_machines_with_it():
    with pytest.raises(InputError, match="--topology rtx-4090-x1 --topology workstation-4x4090"):
        machines(MachineFilter(gpu=("4090",)))


@pytest.mark.parametrize("machine", [H100S, FIVE, {**H100S, "offer": OWN}])
def test_setting_up_takes_its_time_on_every_machine(machine):
    def wall_s(**asked):
        found = sized(machine, objective="time", global_batch=120, **asked)
        return found.winner.figures.wall_s

    bare = wall_s(setup="0")
    assert wall_s(setup="0 min") == bare
    assert wall_s() == pytest.approx(bare + SETUP_S)
    assert wall_s(setup="3h") == pytest.approx(bare + 3 * HOUR)


@pytest.mark.parametrize(("stated", "taken"), [("0 s", 0.0), ("1 h", HOUR), (None, SETUP_S)])
def test_an_offer_that_states_its_set_up_keeps_it_also_if_it_is_none(stated, taken):
    offer = {"price_per_gpu_hour": "2 USD"} | ({"setup": stated} if stated else {})
    (machine,), _ = machines(MachineFilter(), [{**H100S, "offer": offer}])
    assert set_up(machine, SETUP_S).topology.offer.setup == taken


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (12, "12 GPUs (--gpus) cannot be cut into nodes of 8"),
        (1024, "1,024 GPUs (--gpus): it has at most 8 GPUs"),
        (8, "8 GPUs (--gpus) do not divide the batch of 12 sequences: --global-batch 16"),
        (None, "no cluster of 4 GPUs or fewer divides the batch"),
    ],
)
def test_a_size_that_a_machine_has_not_is_laid_to_gpus_not_to_the_batch(gpus, said):
    """Without NICs it is one node."""
    found = sim.size("mistral-7b-lora", topologies=[H100S], gpus=gpus, global_batch=12,
                     objective="time", max_gpus=256 if gpus else 4)  # fmt: skip
    assert found.winner is None
    assert f"mine: {said}" in told(view(found))


@pytest.mark.parametrize(("gpus", "on"), [(None, 8), (8, 8), (16, 16), (512, 512)])
def test_a_batch_that_is_left_open_is_the_jobs_own_on_the_gpus_asked_for(gpus, on):
    """As `run` counts it: that of 8 GPUs spread over 512 was an eighth of a sequence each."""
    joined = {**H100S, "node": {**H100S["node"], "nics": {"count": 8}}}
    found = sim.size("llama3-8b-sft", topologies=[joined], gpus=gpus, max_gpus=8)
    job = sim.simulate(joined, "llama3-8b-sft", nodes=on // 8, scaling=False, fixes=False)
    assert found.global_batch == job.workload.global_batch_sequences
    assert f"(assumed: the workload's batch on {on} GPUs; --global-batch)" in view(found).title
    assert found.winner is not None
    given = sim.size("llama3-8b-sft", topologies=[joined], gpus=gpus, global_batch=64, max_gpus=8)
    assert "assumed" not in view(given).title


def test_a_layout_that_one_node_is_too_small_for_is_sized_as_it_is_run():
    """Tensor parallelism over two nodes of a GPU each was refused: 2 does not divide 1 GPUs."""
    one = {"name": "one", "node": {"gpu": "h100-sxm-80gb", "gpus": 1, "nics": {"count": 1}}}
    sets = {"parallelism.tensor_parallel": 2, "nodes": 2}
    job = sim.simulate(one, "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)
    assert job.memory.fits
    del sets["nodes"]
    for gpus in (2, None):
        found = sim.size("llama3-8b-sft", topologies=[one], gpus=gpus, max_gpus=4, overrides=sets,
                         objective="time", risk=0.5)  # fmt: skip
        assert found.winner is not None
        assert found.winner.candidate.workload.parallelism.tensor_parallel == 2
    alone = {**one, "node": {"gpu": "h100-sxm-80gb", "gpus": 1}}
    with pytest.raises(InputError, match="2 does not divide 1 GPUs"):
        sim.size("llama3-8b-sft", topologies=[alone], gpus=2, overrides=sets)


def test_a_layout_that_so_many_gpus_cannot_have_is_refused_of_those():
    """It named the 8 GPUs of a node: `write 8, or leave it out`."""
    with pytest.raises(InputError, match=r"not 16 GPUs; write 16"):
        sim.size(
            "llama3-8b-sft", gpus=16, topologies=["dgx-h100"], overrides=["parallelism.shard=12"]
        )
