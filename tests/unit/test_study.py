"""A study: verdicts that follow from numbers, faults of its file, every format."""

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.errors import InputError
from sim.report.formats import rendered
from sim.report.study import view
from sim.report.study_plots import plots_of
from sim.study.question.answers import run_study
from sim.study.question.reading import find_study, read_study, shipped

SMALL = """
title: "Is it faster?"
question: A small one.
machines: [H100, A100]
cases:
  - {name: a100, topology: dgx-a100, workload: mistral-7b-lora}
  - {name: h100, topology: dgx-h100, workload: mistral-7b-lora}
  - {name: published, measured: "llm-foundry:L118"}
  - {name: slower, measured: "llm-foundry:L184"}
  - {name: big, topology: dgx-h100, workload: llama3-70b-full}
claims:
  - id: faster
    claim: The H100 is faster, and ten times as fast.
    lines:
      - {key: faster, label: faster, case: h100, against: a100, low: 1.0, why: true}
      - {label: ten times, case: h100, against: a100, low: 10.0, high: 11.0}
      - label: measured
        case: h100
        metric: days
        published: ["llm-foundry:L98 / llm-foundry:L166"]
  - id: fits
    claim: 70B fits 8 H100.
    lines:
      - {label: memory, case: big, metric: memory_gib, high: 79.2}
      - {label: speed, case: big, low: 1.0}
      - {label: speed as if, case: big, as_if: true}
  - id: cheaper
    claim: It is cheaper.
    break_even:
      - {key: tie, label: LoRA, case: h100, against: a100}
      - {key: published tie, label: as published, case: published, against: slower}
      - {key: none, label: too big, case: big, against: h100}
  - id: sized
    claim: Nothing is claimed.
    lines:
      - {label: cost, case: h100, metric: cost_usd}
      - {label: as it was run, case: published, against: slower}
  - id: judged
    claim: A measurement outranks our figure.
    lines:
      - {key: barely, label: barely, case: published, against: slower, low: 2.293, high: 2.294}
      - {label: well within, case: published, against: slower, low: 2.1, high: 2.6}
  - id: grids
    claim: It scales.
    grids: [scaling]
    lines:
      - {key: two, label: two over one, case: "scaling, 16, fast", against: "scaling, 8, fast"}
    reading: "Two nodes keep {two} ({two.band}); the other is {faster.holds}."
grids:
  - name: scaling
    title: LoRA
    topology: dgx-h100
    workload: mistral-7b-lora
    metrics: [tokens_per_s_per_gpu, cost_usd]
    rows: {name: GPUs, steps: [{label: "8"}, {label: "16", set: ["nodes=2"]}]}
    columns:
      name: network
      steps: [{label: fast}, {label: thin, set: ["node.nics={count: 1, rate: 25 Gb/s}"]}]
voices:
  - {source: somebody, says: it is not, line: faster, reading: "It is {faster}."}
pictures:
  - {name: bars, title: Bars, lines: [faster, barely]}
  - {name: prices, title: Prices, break_even: cheaper}
  - {name: curves, title: Curves, grid: scaling}
answers:
  - persona: A person
    says: "Below {tie.below} take the H100, it does {faster}; measured {barely.published}."
    picture: bars
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(SMALL)
    return run_study(read_study(path), "small.yaml")


def by_id(answers, name):
    return next(a for a in answers.answers if a.claim.id == name)


def test_verdicts_follow_from_the_rows(answers):
    faster = by_id(answers, "faster")
    assert faster.word == "mixed"
    assert faster.labels("yes") == ("faster",)
    assert faster.labels("no") == ("ten times",)
    assert by_id(answers, "fits").word == "does not hold"
    assert by_id(answers, "sized").word == "measured"


def test_rows_are_what_the_results_say(answers):
    a, h = answers.results["a100"], answers.results["h100"]
    ratio = h.throughput.tokens_per_s_per_gpu / a.throughput.tokens_per_s_per_gpu
    row = by_id(answers, "faster").rows[0]
    assert row.value == pytest.approx(ratio)
    assert row.reasons[0].startswith(("GEMM", "HBM"))
    days = by_id(answers, "faster").rows[2]
    assert days.value == pytest.approx(h.job.wall_clock_s / 86400)
    # llm-foundry's table: MPT 70B on 64 GPUs, 1,039 and 410 tokens/s per GPU
    assert days.published[0][1] == pytest.approx(1039 / 410)


def test_a_published_run_is_simulated_and_stands_beside_its_measurement(answers):
    # llm-foundry: MPT 7B, 2,048 tokens: 10,643 tokens/s per H100 and 4,641 per A100
    row = by_id(answers, "sized").rows[1]
    assert row.published == (("llm-foundry:L118 / llm-foundry:L184", pytest.approx(10643 / 4641)),)
    assert row.value == pytest.approx(10643 / 4641, rel=0.10)


def test_a_measured_case_is_judged_by_its_measurement_and_its_noise(answers):
    barely, well = by_id(answers, "judged").rows  # 10643 / 4641 = 2.2933
    assert barely.judged == pytest.approx(10643 / 4641)
    # two measurements of 2 % each: 1.2816 x sqrt(2) x 0.02 = 3.6 % for 80 %
    assert barely.judged_band[1] / barely.judged == pytest.approx(1.0369, abs=1e-4)
    assert (barely.holds, well.holds) == ("undecided", "yes")
    assert by_id(answers, "judged").word == "mixed"
    assert "undecided, as measured" in rendered(view(answers), "md")


def test_a_case_that_does_not_fit_gives_no_speed_unless_asked(answers):
    memory, speed, as_if = by_id(answers, "fits").rows
    assert memory.value > 79.2
    assert memory.holds == "no"
    assert speed.value is None
    assert speed.holds == "no"
    assert as_if.value == answers.results["big"].throughput.tokens_per_s_per_gpu
    assert "as if it did" in as_if.note


def test_break_even_is_the_speed_ratio_and_offers_lie_on_either_side(answers):
    tie, published, none = by_id(answers, "cheaper").ties
    a, h = answers.results["a100"], answers.results["h100"]
    assert tie.ratio == pytest.approx(a.job.wall_clock_s / h.job.wall_clock_s)
    assert tie.band[0] < tie.ratio < tie.band[1]
    assert tie.cheaper(tie.band[0] - 0.01) == "first"
    assert tie.cheaper(tie.ratio) == "undecided"
    assert tie.cheaper(tie.band[1] + 0.01) == "second"
    # one provider, one region, one date: AWS us-east-1 at 6.88 and 3.431 dollars
    aws = [o for o in tie.offered if o.first.provider == "aws"]
    assert [o.ratio for o in aws] == [pytest.approx(6.88 / 3.431)]
    assert all(o.first.region == o.second.region for o in tie.offered)
    assert published.ratio == pytest.approx(10643 / 4641)  # measured
    assert none.ratio is None
    assert none.cheaper(1.0) == ""
    page = rendered(view(answers), "md")
    assert "depends on the job and on the price: machines tie at" in page
    assert "| aws us-east-1 2026 | 6.88 | 3.43 |" in page.replace("$", "")


def test_grids_are_cases_and_tables(answers):
    speed, cost = by_id(answers, "grids").cells
    assert [len(row) for row in speed.values] == [2, 2]
    assert speed.values[0][0] == speed.values[0][1]  # on one node there is no network
    assert speed.values[1][1] < 0.7 * speed.values[1][0]
    assert cost.values[1][1] > cost.values[1][0]
    assert "| GPUs | fast | thin |" in rendered(view(answers), "md")


def test_figures_stand_in_answers(answers):
    ((_, says),) = answers.said
    rows = answers.rows
    tie = by_id(answers, "cheaper").ties[0]
    assert says == (
        f"Below {tie.band[0]:.2f} take the H100, it does {rows['faster'].value:.2f} x; "
        "measured 2.29 x."
    )
    reading = by_id(answers, "grids").reading
    low, high = rows["two"].band
    assert f"keep {rows['two'].value:.2f} x ({low:.2f} to {high:.2f} x)" in reading
    assert reading.endswith("the other is yes.")
    ((voice, row, text),) = answers.voices
    assert (voice.source, row.key) == ("somebody", "faster")
    assert text == f"It is {rows['faster'].value:.2f} x."


def test_pictures(answers, tmp_path):
    plots = plots_of(answers)
    assert list(plots) == ["bars", "prices", "curves"]
    for svg in plots.values():
        ElementTree.fromstring(svg)
    assert "measured 2.293" in plots["bars"]
    assert "LoRA, aws us-east-1 2026: 2.01" in plots["prices"]
    assert "too big" not in plots["prices"]
    assert plots["curves"].count("<circle") == 6  # four values, two of the legend
    page = rendered(view(answers, plots, "pictures"), "md")
    assert "![Bars](pictures/bars.svg)" in page


def test_every_format(answers):
    page = rendered(view(answers), "md")
    assert "-> holds for 1 of 2: faster, fails for 1 of 2: ten times" in page
    assert "Why, for faster" in page
    assert "does not fit" in page
    document = json.loads(rendered(view(answers), "json"))
    assert [c["verdict"] for c in document["claims"]] == [a.word for a in answers.answers]
    assert document["answers"][0]["persona"] == "A person"
    assert "-> does not hold" in rendered(view(answers), "table")


def test_faults_of_a_study_come_together(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        SMALL.replace("case: h100, metric: cost", "case: h1000, metric: cost")
        .replace("llm-foundry:L98 /", "llm-foundry:L98000 /")
        .replace("name: big", "name: a100")
        .replace('measured: "llm-foundry:L184"', "topology: dgx-a100")
    )
    with pytest.raises(InputError) as caught:
        read_study(path)
    text = str(caught.value)
    assert '"a100" is there twice' in text
    assert 'no case "h1000"; did you mean "h100"?' in text
    assert 'no published row "llm-foundry:L98000"' in text
    assert 'no case "big"' in text
    assert "cases.slower: needs topology and workload" in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{tie.below}", "{ties.below}", 'no key "ties"'),
        ("{tie.below}", "{tie.published}", "after the dot stands band, below, above"),
        ("{faster.holds}", "{faster.below}", "after the dot stands band, holds, published"),
        ("picture: bars", "picture: bar", 'no picture "bar"; did you mean "bars"?'),
        ("grids: [scaling]", "grids: [scale]", 'no grid "scale"'),
        ("break_even: cheaper", "break_even: cheap", 'no claim "cheap"'),
        ("machines: [H100, A100]", "machines: [H100]", "machines: 1 of them; pictures."),
        ("line: faster", "line: fast", 'no key "fast"'),
        ("lines: [faster, barely]", "lines: [faster, hardly]", 'no key "hardly"'),
        ("key: two", "key: faster", '"faster" is there twice'),
        ('measured: "llm-foundry:L118"', 'measured: "fsdp-qlora:L34"', "has no speed"),
    ],
)
def test_what_is_named_and_not_there(tmp_path, old, new, said):
    path = tmp_path / "bad.yaml"
    assert old in SMALL
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_study(path)
    assert said in str(caught.value)


def test_a_faulty_case_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL.replace("topology: dgx-a100", "topology: dgx-a1000"))
    with pytest.raises(InputError, match=r"cases\.a100"):
        run_study(read_study(path))


@pytest.mark.parametrize("name", ["gpus-and-network-70b", "h100-vs-a100", "lora-qlora-or-full"])
def test_shipped_studies_are_sound_and_found_by_name(name):
    study = read_study(find_study(name))
    users = [x for c in study.claims for x in (*c.lines, *c.break_even)]
    used = {n for x in users for n in (x.case, x.against)}
    assert {c.name for c in study.cases} <= used
    assert {g.name for g in study.grids} == {g for c in study.claims for g in c.grids}
    assert len(study.answers) >= 3
    assert all(answer.picture for answer in study.answers)
    assert study.voices
    assert name in shipped()


def test_an_unknown_study():
    with pytest.raises(InputError, match="did you mean"):
        find_study("h100-vs-a10")


def test_the_verb_writes_a_page(tmp_path):
    path, page = tmp_path / "small.yaml", tmp_path / "page.md"
    path.write_text(SMALL)
    answer = CliRunner().invoke(group, ["study", str(path), "-o", str(page)])
    assert answer.exit_code == 0, answer.output
    assert page.read_text().startswith("# Is it faster?")


def test_the_verb_lists_studies_and_draws(tmp_path):
    listed = CliRunner().invoke(group, ["study", "--list"])
    assert "lora-qlora-or-full" in listed.output
    rows = json.loads(CliRunner().invoke(group, ["study", "--list", "--json"]).output)
    assert {"name": "lora-qlora-or-full", "title": "LoRA, QLoRA or full?"} in rows
    nothing = CliRunner().invoke(group, ["study"])
    assert nothing.exit_code == 2
    assert "name a study, or --list them" in nothing.output
    path, page = tmp_path / "small.yaml", tmp_path / "page.md"
    path.write_text(SMALL)
    words = ["study", str(path), "-o", str(page), "--plots", str(tmp_path / "drawn")]
    assert CliRunner().invoke(group, words).exit_code == 0
    assert "![Bars](drawn/bars.svg)" in page.read_text()
    assert (tmp_path / "drawn" / "bars.svg").read_text().startswith("<svg")
