"""Offers, total cost, break-even: worked by hand."""

import csv
import datetime
import io
import json

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

import sim
from sim.cli import group
from sim.errors import InputError
from sim.inputs import catalogue as shipped
from sim.inputs.loader import load_topology
from sim.inputs.offer_import import import_offers
from sim.inputs.offers import catalogue, find_offers, newest, offers
from sim.inputs.price import PriceRow, today
from sim.inputs.price_files import read_offers, to_csv
from sim.job.basis import terms_of
from sim.job.cost import Terms, break_even_price, break_even_tokens, total_cost
from sim.report.prices import age, stale
from sim.study.pricing import price_everywhere

HEAD = "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour\n"
TODAY = datetime.date(2026, 11, 23)


def test_total_cost_by_hand():
    # 8 GPUs, 10 h at 3 USD: 240; 2 h of setup: 48; 73 GB for 12 h at 0.1 a month of 730 h: 0.12;
    # 20 GB out at 0.09: 1.80; 50 kWh at 0.2: 10
    terms = Terms(
        3.0, setup_hours=2.0, storage_usd_per_gb_month=0.1, egress_usd_per_gb=0.09,
        energy_usd_per_kwh=0.2,
    )  # fmt: skip
    cost = total_cost(
        terms, 8, 36_000.0, storage_gb=73.0, egress_gb=20.0, energy_j=50 * 3.6e6, tokens=1e9
    )
    assert cost.compute_usd == pytest.approx(240.0)
    assert cost.setup_usd == pytest.approx(48.0)
    assert cost.storage_usd == pytest.approx(73 * 0.1 * 12 / 730)
    assert cost.egress_usd == pytest.approx(1.80)
    assert cost.energy_usd == pytest.approx(10.0)
    assert cost.total_usd == pytest.approx(240 + 48 + 0.12 + 1.8 + 10)
    assert cost.usd_per_million_tokens == pytest.approx(cost.total_usd / 1000)
    assert cost.gpu_hours == 96.0


def test_a_commitment_is_paid_for_whether_used_or_not():
    # 730 h committed at 3 USD less 40 %; the job takes 10 h on 8 GPUs
    offer = load_topology(
        "dgx-h100",
        ["offer.price_per_gpu_hour=3 USD", "offer.commitment_discount=40 %",
         "offer.commitment=730 h"],
    ).offer  # fmt: skip
    terms = terms_of(offer)
    assert terms is not None
    assert (terms.kind, terms.price_per_gpu_hour_usd) == ("committed", pytest.approx(1.8))
    cost = total_cost(terms, 8, 36_000.0)
    assert cost.total_usd == pytest.approx(730 * 8 * 1.8)
    assert cost.unused_commitment_usd == pytest.approx(720 * 8 * 1.8)


def test_spot_takes_the_spot_price():
    offer = load_topology("dgx-h100", ["offer.capacity=spot"]).offer
    terms = terms_of(offer)
    assert terms is not None
    assert (terms.kind, terms.price_per_gpu_hour_usd) == ("spot", 1.25)
    assert terms_of(None) is None


def test_break_even_price_makes_the_totals_equal():
    slow = total_cost(Terms(2.0, egress_usd_per_gb=0.1), 8, 72_000.0, egress_gb=100.0)
    fast = total_cost(Terms(5.0, egress_usd_per_gb=0.1), 8, 36_000.0, egress_gb=100.0)
    # slow: 8 x 20 h x 2 + 10 = 330; fast ties at (330 - 10) / 80 h = 4.00
    tie = break_even_price(slow.total_usd, fast)
    assert tie == pytest.approx(4.0)
    at_tie = total_cost(Terms(tie, egress_usd_per_gb=0.1), 8, 36_000.0, egress_gb=100.0)
    assert at_tie.total_usd == pytest.approx(slow.total_usd)
    assert break_even_price(5.0, fast) is None  # egress alone costs more


def test_break_even_tokens_by_hand():
    # first: 100 once and 2 a billion; other: 20 once and 4 a billion: they meet at 40 billion
    first = total_cost(Terms(1.0, setup_hours=100.0), 1, 2 * 3600.0, tokens=1e9)
    other = total_cost(Terms(1.0, setup_hours=20.0), 1, 4 * 3600.0, tokens=1e9)
    assert break_even_tokens(first, other, 1e9) == pytest.approx(40e9)
    assert break_even_tokens(other, first, 1e9) == pytest.approx(40e9)
    cheaper = total_cost(Terms(1.0, setup_hours=10.0), 1, 1 * 3600.0, tokens=1e9)
    assert break_even_tokens(first, cheaper, 1e9) is None


def test_shipped_offers_are_dated_and_of_known_gpus():
    for row in offers():
        assert row.age_days(TODAY) is not None, row
        assert row.source
        assert shipped.gpu(row.gpu) is not None
    both = [r for r in offers() if r.instance == "p5.48xlarge"]
    assert {r.as_of for r in both} == {"2025-05", "2026"}
    assert [r.usd_per_gpu_hour for r in newest(both)] == [6.88]


@pytest.mark.parametrize("name", shipped.names("topologies"))
def test_a_shipped_machine_names_an_offer_and_no_figure(name):
    """Price, date, region, residency and source stand in the catalogue of offers alone."""
    path = shipped.find("topologies", name)
    said = YAML(typ="safe").load(path.read_text()).get("offer")
    topology = load_topology(name)
    if said is None:
        assert topology.offer is None
        return
    assert set(said) - {"region"} == {"provider", "instance"}
    (row,) = find_offers(offers(), said["provider"], said["instance"], said.get("region", ""))
    offer = topology.offer
    assert (offer.provider, offer.instance) == (row.provider, row.instance)
    assert (offer.price_per_gpu_hour, offer.spot_price_per_gpu_hour) == (
        row.usd_per_gpu_hour, row.spot_usd_per_gpu_hour,
    )  # fmt: skip
    assert (offer.region, offer.residency, offer.country, offer.date, offer.source) == (
        row.region, row.residency, row.country, row.as_of, row.source,
    )  # fmt: skip
    assert (offer.egress_per_gb, offer.storage_per_gb_month) == (row.egress(), row.storage())
    assert topology.first_gpu.name == row.gpu
    assert topology.node.gpus in (row.gpus_per_node, 1)


def test_no_two_rows_are_the_same_offer_of_the_same_date():
    keys = [(r.provider, r.instance, r.region, r.as_of) for r in offers()]
    assert len(keys) == len(set(keys))
    assert all(r.provider == r.provider.lower() for r in offers())


def test_what_is_written_in_an_offer_wins():
    sets = ["offer.price_per_gpu_hour=2 USD", "offer.capacity=spot"]
    offer = load_topology("dgx-h100", sets).offer
    assert (offer.price_per_gpu_hour, offer.spot_price_per_gpu_hour) == (2.0, 1.25)
    other = load_topology("dgx-h100", ["offer.provider=aws", "offer.instance=p5.48xlarge"]).offer
    assert (other.price_per_gpu_hour, other.spot_price_per_gpu_hour) == (6.88, None)
    own = ["offer.provider=basement", "offer.instance=rack", "offer.price_per_gpu_hour=1 USD"]
    offer = load_topology("dgx-h100", own).offer
    assert (offer.instance, offer.price_per_gpu_hour, offer.region) == ("rack", 1.0, "")


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["offer.provider=aws"], "is no offer of aws"),
        (["offer.provider=aws", "offer.instance=p5.48xlage"], 'did you mean "p5.48xlarge"?'),
        (["offer=cheap"], "is no mapping of provider, instance"),
    ],
)
def test_an_offer_that_is_none(sets, says):
    with pytest.raises(InputError) as caught:
        load_topology("dgx-h100", sets)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("as_of", "days", "words"),
    [
        ("2026", (0, 326), "up to 326 days"),
        ("2025-05", (541, 571), "541 to 571 days"),
        ("2026-11-01", (22, 22), "22 days"),
        ("last week", None, "undated"),
        ("2026-13", None, "undated"),
    ],
)
def test_age_of_a_price(as_of, days, words):
    row = PriceRow("p", "i", "h100-sxm-80gb", 8, 2.0, None, "", "", as_of, "s")
    assert row.age_days(TODAY) == days
    assert age(row, TODAY) == words


@pytest.mark.parametrize(
    ("epoch", "span"), [("1795910400", (28, 28)), ("1827446400", (393, 393)), ("0", (0, 0))]
)
def test_the_day_may_be_stated(monkeypatch, epoch, span):
    """2026-11-29, a year later, 1970: the same inputs give the same output on any day."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    row = PriceRow("p", "i", "h100-sxm-80gb", 8, 2.0, None, "", "", "2026-11-01", "s")
    assert row.age_days(today()) == span
    assert bool(row.doubt(today())) == (span[0] > 90)


@pytest.mark.parametrize("epoch", ["today", "1e9", "9" * 40])
def test_a_day_that_is_none_is_a_fault(monkeypatch, epoch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(InputError, match=r"SOURCE_DATE_EPOCH.*not whole seconds since 1970"):
        CliRunner().invoke(group, ["prices", "list"], catch_exceptions=False, standalone_mode=False)


def test_old_and_vague_prices_are_warned_of():
    rows = [
        PriceRow("p", "i", "h100-sxm-80gb", 8, 2.0, None, "", "", date, "s")
        for date in ("2025-05", "2026", "2026-11-01")
    ]
    text = stale(rows, TODAY)
    assert "1 of 3 prices are older than 90 days" in text
    assert "1 of 3 may be" in text
    assert stale(rows[1:], TODAY).startswith("1 of 2 prices may be older than 90 days, their")
    assert stale(rows[2:], TODAY) == ""


def test_own_prices_replace_shipped_ones(tmp_path):
    own = tmp_path / "mine.csv"
    own.write_text(
        "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,region,as_of\n"
        "AWS,p5.48xlarge,h100-sxm-80gb,8,4.44,us-east-1,2026-11-20\n"
        "basement,rack,h100-sxm-80gb,8,1.10,home,2026-11-20\n"
    )
    rows = catalogue(own)
    assert [r.usd_per_gpu_hour for r in rows if r.instance == "p5.48xlarge"] == [4.44]
    assert any(r.provider == "basement" for r in rows)
    assert len(rows) == len(offers()) - 2 + 2


def test_every_fault_of_a_price_file_at_once(tmp_path):
    own = tmp_path / "mine.csv"
    own.write_text(HEAD + "a,i,h100-sxm-80gb,8,cheap\nb,i,h100,8,2.0\nc,i,h100-sxm-80gb,8,-1\n")
    with pytest.raises(InputError) as caught:
        read_offers(own)
    text = str(caught.value)
    assert "'cheap' is not a number" in text
    assert '"h100" is no GPU of the catalogue' in text
    assert "-1 is not a plausible price" in text
    own.write_text(HEAD.rstrip() + ",spot_usd_per_gpu_hour\na,i,h100-sxm-80gb,8,2,2\n"
                   "b,i,h100-sxm-80gb,8,2,3\n")  # fmt: skip
    with pytest.raises(InputError, match="3 is above the 2 on demand") as caught:
        read_offers(own)
    (fault,) = caught.value.faults
    assert (fault.line, fault.path) == (3, "spot_usd_per_gpu_hour")
    (tmp_path / "bad.csv").write_text("provider,price\n")
    with pytest.raises(InputError, match="columns missing"):
        read_offers(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="no such file"):
        read_offers(tmp_path / "none.csv")
    own.write_text(HEAD.rstrip() + ",list price,owner\na,i,h100-sxm-80gb,8,2,3,me\n")
    for verb in ("prices list", "compare dgx-h100 h100-x1 mistral-7b-lora"):
        told = CliRunner().invoke(group, [*verb.split(), "--prices", str(own)])
        assert told.stderr.endswith(f"{own}: columns that are not read: list price, owner\n")


def test_a_skypilot_catalogue_is_imported(tmp_path):
    vms = tmp_path / "vms.csv"
    vms.write_text(
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,SpotPrice\n"
        "h100-8,H100,8,128,1600,23.60,eu-north1,10.00\n"
        "cpu-16,,,16,64,1.0,eu-north1,\n"
        "tpu,TPU-v5,8,1,1,9.0,eu-north1,\n"
        "h100-1,H100,1,16,200,2.95,eu-north1,3.00\n"
    )
    found = import_offers(vms, "nebius", "2026-11-01")
    rows, left_out = found.rows, found.left_out
    assert [row.spot_usd_per_gpu_hour for row in rows[1:]] == [None]
    assert (rows[0].gpu, rows[0].usd_per_gpu_hour) == ("h100-sxm-80gb", pytest.approx(2.95))
    assert rows[0].spot_usd_per_gpu_hour == pytest.approx(1.25)
    assert left_out == (
        "1 row of tpu-v5: no such GPU here", "1 spot price of h100: above the price on demand",
    )  # fmt: skip
    again = tmp_path / "again.csv"
    again.write_text(to_csv(rows))
    assert tuple(read_offers(again)) == rows


def test_one_job_at_five_providers():
    """Cheapest first; each ties at the rate that gives the cheapest's total."""
    priced = price_everywhere(
        ["dgx-h100"], "mistral-7b-lora", newest(offers()), setup_s=3600.0
    ).jobs
    assert len({p.row.provider for p in priced}) >= 5
    totals = [p.cost.total_usd for p in priced]
    assert totals == [
        p.cost.total_usd for p in sorted(priced, key=lambda p: (bool(p.doubt), p.cost.total_usd))
    ]  # what nobody checked comes last
    best = priced[0]
    for p in priced[1:]:
        assert p.wall_s == best.wall_s  # the same machine everywhere
        hours = p.cost.gpu_hours
        assert p.tie_price_usd is not None
        assert p.tie_price_usd * hours + p.cost.fixed_usd == pytest.approx(totals[0])
    aws = next(p for p in priced if p.row.provider == "aws")
    assert aws.cost.egress_usd > 0.0
    assert aws.co2_region == "USA"


def test_spot_is_priced_with_its_preemptions():
    rows = [r for r in offers() if r.provider == "nebius"]
    sets = ["offer.preemption_mtbf=2 h", "offer.preemption_wait=1 h"]
    priced = price_everywhere(["dgx-h100"], "mistral-7b-lora", rows, overrides=sets, spot=True).jobs
    spot = next(p for p in priced if p.spot)
    other = next(p for p in priced if not p.spot)
    assert spot.wall_s > 1.2 * other.wall_s
    assert spot.cost.price_per_gpu_hour_usd == 1.25


def run(*words):
    return CliRunner().invoke(group, ["prices", *words])


def test_the_verbs(tmp_path):
    listed = run("list", "--gpu", "h100", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(listed.stdout)))
    assert {r["gpu"] for r in rows} == {"h100-sxm-80gb", "h100-pcie-80gb"}
    shown = json.loads(run("show", "p5.48xlarge").stdout)
    assert [r["usd_per_gpu_hour"] for r in shown] == [12.29, 6.88]
    assert shown[1]["egress_usd_per_gb"] == 0.09
    assert "older" in run("list", "--all-dates").stdout
    priced = run("job", "dgx-h100", "mistral-7b-lora", "--format", "json")
    assert {p["offer"].split()[0] for p in json.loads(priced.stdout)} >= {"aws", "gcp", "oci"}
    assert "cheapest:" in run("job", "dgx-h100", "mistral-7b-lora").stdout
    assert run("job", "dgx-h100", "mistral-7b-lora", "--format", "csv").stdout.count("\n") > 5
    no_offer = ["job", "workstation-4x4090", "data-starved"]
    for words in (["show", "no-such"], ["job", "dgx-h100"], no_offer):
        assert isinstance(run(*words).exception, InputError)


@pytest.mark.parametrize("verb", [["list"], ["job", "dgx-h100", "llama3-8b-sft"]])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--provider", "nebious"], "no offer has 'nebious'; did you mean \"nebius\"?"),
        (["--residency", "mars"], "no offer has 'mars'; "),
        (["--region", "mars"], "no offer has 'mars'; "),
    ],
)
def test_a_place_that_no_offer_has_is_named(verb, asked, said):
    result = CliRunner().invoke(group, ["prices", *verb, *asked])
    assert isinstance(result.exception, InputError)
    assert f"{asked[0]}  {said}" in str(result.exception)


def test_where_a_machine_is_offered_is_told_where_it_is_not_as_asked():
    with pytest.raises(InputError) as caught:
        sim.prices_job("dgx-h100", "llama3-8b-sft", provider=["oci"], region=["eu-north1"],
                       residency=["EU"])  # fmt: skip
    said = str(caught.value)
    assert "no offer of h100-sxm-80gb in nodes of 8 is of that provider, region and" in said
    assert "nebius eu-north1" in said
    with pytest.raises(InputError, match="no topology given"):
        sim.prices_job([], "llama3-8b-sft")
    result = CliRunner().invoke(group, ["prices", "list", "--provider", "oci", "--residency", "EU"])
    assert "No offer is all that was asked for" in result.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",8,", ",8.5,", "8.5 is not a whole number"),
        ("2026-01-02", "02.01.2026", '"02.01.2026" is no date'),
        ("2026-01-02", "2026-13-01", "is no date"),
        ("region", "as_of", "as_of: stands in two columns"),
        (",eu,", ",eu,,x,", "more cells than the 7 columns"),
        ("2026-01-02", "2026-01", None), ("2026-01-02", "", None),
    ],
)  # fmt: skip
def test_cells_that_were_read_as_something_else(tmp_path, old, new, said):
    """8.5 GPUs were 8, a second column won, and a price of no date was never old."""
    text = (
        "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,region,as_of\n"
        "mine,box,h100-sxm-80gb,8,2.0,eu,2026-01-02\n"
    )
    path = tmp_path / "mine.csv"
    path.write_text(text.replace(old, new))
    if said is None:
        assert [row.gpus_per_node for row in read_offers(path)] == [8]
        return
    with pytest.raises(InputError, match=said):
        read_offers(path)
