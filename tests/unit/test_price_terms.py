"""Prices like for like, terms, confidence, currency, places, and the CO2 of machine and grid."""

import datetime

import pytest
from click.testing import CliRunner

from sim import compare, prices_job, prices_list, simulate
from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load_topology
from sim.inputs.offer_import import import_offers
from sim.inputs.offers import cheapest, newest, offers
from sim.inputs.price import PriceRow, currencies, currency_of, whereabouts
from sim.inputs.price_files import read_offers
from sim.job.energy import embodied_kg
from sim.report.compare import view
from sim.report.formats.table import render
from sim.report.prices import priced_view
from sim.study.machine_offers import pick_offer
from sim.study.pricing import price_everywhere

TODAY = datetime.date(2026, 11, 23)


def row(provider, price, region="any", **more):
    given = {"as_of": "2026-11-01", "source": "s"} | more
    return PriceRow(
        provider, f"{provider}-8", "h100-sxm-80gb", 8, price, None, region, "",
        given.pop("as_of"), given.pop("source"), **given,
    )  # fmt: skip


# --- confidence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "doubt"),
    [
        ({}, ""),
        ({"confidence": "listed", "as_of": "2026"}, ""),  # may be new: its date says no more
        ({"confidence": "unchecked"}, "a's price is not checked"),
        ({"as_of": "2025-05"}, "a's price is 541 days old or more"),
        ({"as_of": ""}, "a's price has no date"),
    ],
)
def test_what_speaks_against_a_price(more, doubt):
    assert row("a", 2.0, **more).doubt(TODAY) == doubt


def test_a_price_that_nobody_checked_is_taken_only_where_there_is_no_other():
    doubtful, sure = row("a", 1.0, confidence="unchecked"), row("b", 3.0)
    assert cheapest([doubtful, sure], TODAY) is sure
    assert cheapest([doubtful], TODAY) is doubtful
    # of A100 nodes AWS asks less, as a table of 2026 has it, which another contradicts
    found = pick_offer(load_topology("dgx-a100"), "cheapest", newest(offers()))
    assert (found.provider, found.usd_per_gpu_hour) == ("oci", 4.0)


def test_every_shipped_price_says_how_sure_it_is():
    assert {r.confidence for r in offers()} == {"listed", "unchecked"}
    assert all((r.confidence == "unchecked") == ("not checked" in r.source) for r in offers())


# --- like for like -------------------------------------------------------------------------------


def test_one_providers_prices_stand_before_two_providers():
    found = compare(["dgx-a100", "dgx-h100"], "mistral-7b-lora")
    same, own = found.deltas[0].prices
    assert same.one_provider
    assert (same.first_place, same.other_place) == ("oci", "oci")
    assert (same.first_rate_usd, same.other_rate_usd) == (4.0, 10.0)
    assert not own.one_provider
    assert own.cost_ratio == pytest.approx(found.deltas[0].cost_ratio)
    # the rates' ratio is all that tells them apart, but for what leaves and is kept
    assert same.cost_ratio / own.cost_ratio == pytest.approx((10 / 4) / (2.95 / 4), rel=0.01)
    (said,) = found.summary
    assert "x the cost at oci's prices, on-demand ($4.00 and $10.00 a GPU-hour)" in said
    assert "at two providers, oci and nebius eu-north1, on-demand" in said
    table = render(view(found))
    assert "cost ratio, one provider" in table
    assert "cost ratio, each at its price" in table


def test_prices_of_one_place_need_no_second_ratio():
    found = compare("dgx-h100", "llama3-8b-sft", vary=["micro_batch=1,2"])
    (pair,) = found.deltas[0].prices
    assert pair.alike
    assert "cost ratio, one provider" not in render(view(found))
    assert " x the cost ($" in found.summary[0]


def test_two_regions_of_one_provider_are_said():
    machines = [
        load_topology(
            "dgx-h100", [f"name={name}", 'offer={provider: p, price_per_gpu_hour: "2 USD"}',
                         f"offer.region={region}"],
        )
        for name, region in (("here", "eu-1"), ("there", "us-1"))
    ]  # fmt: skip
    found = compare(machines, "llama3-8b-sft")
    assert "one provider, two regions, p eu-1 and p us-1" in found.summary[0]


# --- terms, currency, place ----------------------------------------------------------------------

HEAD = (
    "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,reserved_1y_usd_per_gpu_hour,"
    "reserved_3y_usd_per_gpu_hour,region,residency,as_of,currency\n"
)


def test_a_job_on_every_terms(tmp_path):
    own = tmp_path / "mine.csv"
    own.write_text(HEAD + "acme,h,h100-sxm-80gb,8,4.0,3.0,2.0,x-1,EU,2026-11-20,\n")
    found = price_everywhere(
        ["dgx-h100"], "llama3-8b-sft", read_offers(own),
        overrides=["offer.own={price_per_gpu: 35064 USD}", "offer.energy_per_kwh=0 USD"],
    ).jobs  # fmt: skip
    rates = {p.terms: p.cost.price_per_gpu_hour_usd for p in found}
    assert rates == {
        "owned": pytest.approx(1.0), "reserved 3 y": 2.0, "reserved 1 y": 3.0, "on-demand": 4.0,
    }  # fmt: skip
    assert found[1].name == "acme h x-1 reserved 3 y"
    listed = CliRunner().invoke(group, ["prices", "list", "--prices", str(own), "--gpu", "h100"])
    assert "reserved" in listed.stdout
    assert "$2.00" in listed.stdout


def test_prices_in_euros(tmp_path):
    # the shipped rate is dated; a file in euros is read at it, and shown in either
    euro = currencies()["EUR"]
    assert euro.as_of == "2025-06-30"
    own = tmp_path / "mine.csv"
    own.write_text(HEAD + "acme,h,h100-sxm-80gb,8,2.0,,,x-1,EU,2026-11-20,EUR\n")
    (found,) = read_offers(own)
    assert found.usd_per_gpu_hour == pytest.approx(2.0 * euro.usd)
    assert found.currency == "EUR"
    words = ["prices", "list", "--prices", str(own), "--residency", "EU", "--currency", "EUR"]
    shown = CliRunner().invoke(group, words).stdout
    assert "EUR 2.00" in shown
    assert f"1 EUR = {euro.usd:g} USD (2025-06-30)" in shown
    assert currency_of("eur=1.25").of(2.5) == 2.0
    own.write_text(HEAD + "acme,h,h100-sxm-80gb,8,2.0,,,x-1,EU,2026-11-20,XYZ\n")
    with pytest.raises(InputError, match='no dollar rate of "XYZ" here'):
        read_offers(own)
    with pytest.raises(InputError, match="is no rate"):
        currency_of("EUR=cheap")


def test_places():
    found = prices_list(residency="EU")
    assert {r.residency for r in found.rows} == {"EU"}
    assert {r.provider for r in prices_list(region="us-central").rows} >= {"gcp", "nebius"}
    # what is the same anywhere is there too
    assert "oci" in {r.provider for r in prices_list(region=["us-central"]).rows}
    here = prices_job("dgx-h100", "llama3-8b-sft", residency=["EU"]).jobs
    assert {p.row.provider for p in here} == {"nebius", "gcp"}


def test_an_imported_catalogue_keeps_where_its_regions_are(tmp_path):
    vms = tmp_path / "vms.csv"
    vms.write_text(
        "InstanceType,AcceleratorName,AcceleratorCount,Price,Region,SpotPrice\n"
        "p5.48xlarge,H100,8,55.04,us-east-2,\np5.48xlarge,H100,8,60.0,eu-west-2,\n"
        "p5.48xlarge,H100,8,60.0,me-nowhere-1,\n"
    )
    found = import_offers(vms, "aws", "2026-11-01", residency="elsewhere", currency="EUR=1.10")
    assert [(r.country, r.residency) for r in found.rows] == [
        ("USA", "US"), ("GBR", "UK"), ("", "elsewhere"),
    ]  # fmt: skip
    assert found.rows[0].usd_per_gpu_hour == pytest.approx(55.04 / 8 * 1.10)


@pytest.mark.parametrize(
    ("provider", "region", "place"),
    [
        ("AWS", "eu-central-2", ("CHE", "CH")),  # not the longest beginning of another
        ("gcp", "europe-west12", ("ITA", "EU")),
        ("gcp", "europe-west1", ("BEL", "EU")),
        ("nebius", "eu-north1", ("FIN", "EU")),
        ("nobody", "eu-north1", ("", "")),
    ],
)
def test_whereabouts(provider, region, place):
    assert whereabouts(provider, region) == place


def test_shipped_offers_are_where_the_table_of_regions_has_them():
    for r in offers():
        if r.region != "any":
            assert whereabouts(r.provider, r.region) == (r.country, r.residency), r


# --- CO2 -----------------------------------------------------------------------------------------


def test_making_the_machine_as_bloom_counted_it():
    """11.2 t for 1.08 million GPU-hours on servers of eight A100s (Luccioni et al. 2023)."""
    gpus, hours = 384, 1_082_990 / 384
    assert embodied_kg(gpus, gpus // 8, hours * 3600.0) == pytest.approx(11_200, rel=0.01)


def test_co2_of_two_places_is_told_as_energy_and_grid():
    found = compare(["aws-p4de", "dgx-h100"], "mistral-7b-lora")
    (said,) = [r for r in found.deltas[0].reasons if r.startswith("CO2e")]
    assert "x the energy on a grid of 0.21 x the intensity (79 g/kWh in FIN, 369 in USA)" in said
    a, b = (v.result.energy for v in found.variants)
    assert f"CO2e {b.co2_kg / a.co2_kg:.2f} x" in said


def test_the_machines_share_is_a_figure_of_its_own():
    energy = simulate("dgx-h100", "llama3-8b-sft", scaling=False, fixes=False).energy
    # (2500 + 8 x 150) kg for 5.6 h of 44,676
    assert energy.machine_co2_kg == pytest.approx(3700 * 5.57 / 44_676, rel=0.01)


def test_what_is_cheaper_but_in_doubt_is_said():
    rows = [row("a", 1.0, confidence="unchecked"), row("b", 3.0)]
    found = price_everywhere(["dgx-h100"], "llama3-8b-sft", rows)
    text = render(priced_view(found, TODAY))
    assert "cheapest: b b-8 on dgx-h100" in text
    assert "but a's price is not checked" in text


def test_several_providers_are_alternatives():
    one, two = (prices_list(provider=p).rows for p in ("gcp", ["gcp", "Nebius"]))
    assert {r.provider for r in one} == {"gcp"}
    assert {r.provider for r in two} == {"gcp", "nebius"}
