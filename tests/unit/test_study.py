"""A study: verdicts that follow from numbers, faults of its file, every format."""

import json

import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.errors import InputError
from sim.report.formats import rendered
from sim.report.study import view
from sim.study.question import find_study, read_study, run_study

SMALL = """
title: "Is it faster?"
question: A small one.
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
      - {label: faster, case: h100, against: a100, low: 1.0, why: true}
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
    offers:
      - {label: LoRA, case: h100, against: a100}
  - id: sized
    claim: Nothing is claimed.
    lines:
      - {label: cost, case: h100, metric: cost_usd}
      - {label: as it was run, case: published, against: slower}
  - id: judged
    claim: A measurement outranks our figure.
    lines:
      - {label: barely, case: published, against: slower, low: 2.293, high: 2.294}
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
    assert faster.verdict == "holds only for"
    assert faster.holding == ("faster",)
    assert by_id(answers, "fits").verdict == "does not hold"
    assert by_id(answers, "sized").verdict == "measured"


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


def test_a_measured_case_is_judged_by_its_measurement(answers):
    answer = by_id(answers, "judged")  # 10643 / 4641 = 2.2933
    assert answer.rows[0].judged == pytest.approx(10643 / 4641)
    assert answer.verdict == "holds"
    assert "yes, as measured" in rendered(view(answers), "table")


def test_a_case_that_does_not_fit_gives_no_speed_unless_asked(answers):
    memory, speed, as_if = by_id(answers, "fits").rows
    assert memory.value > 79.2
    assert speed.value is None
    assert speed.within is False
    assert as_if.value == answers.results["big"].throughput.tokens_per_s_per_gpu
    assert "as if it did" in as_if.note


def test_offers_pair_within_provider_and_date(answers):
    """Cost ratio = price ratio / speed ratio, but for egress and storage."""
    rows = by_id(answers, "cheaper").rows
    aws = {r.label: r for r in rows if "aws" in r.label}
    assert len(aws) == 2  # two dates
    a, h = answers.results["a100"], answers.results["h100"]
    time_ratio = h.job.wall_clock_s / a.job.wall_clock_s
    new = next(r for label, r in aws.items() if "2026" in label)
    assert new.value == pytest.approx(6.88 / 3.431 * time_ratio, rel=0.01)
    assert f"ties at {1 / time_ratio:.2f}" in new.note


def test_every_format(answers):
    page = rendered(view(answers), "md")
    assert "-> holds only for 1 of 2: faster" in page
    assert "Why, for faster" in page
    assert "does not fit" in page
    document = json.loads(rendered(view(answers), "json"))
    assert [c["verdict"] for c in document["claims"]] == [a.verdict for a in answers.answers]
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


def test_a_faulty_case_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL.replace("topology: dgx-a100", "topology: dgx-a1000"))
    with pytest.raises(InputError, match=r"cases\.a100"):
        run_study(read_study(path))


def test_shipped_study_is_sound_and_found_by_name():
    study = read_study(find_study("h100-vs-a100"))
    assert [c.id for c in study.claims] == list("abcdefghij")
    used = {n for c in study.claims for x in (*c.lines, *c.offers) for n in (x.case, x.against)}
    assert used - {""} == {c.name for c in study.cases}
    with pytest.raises(InputError, match="did you mean"):
        find_study("h100-vs-a10")


def test_the_verb_writes_a_page(tmp_path):
    path, page = tmp_path / "small.yaml", tmp_path / "page.md"
    path.write_text(SMALL)
    answer = CliRunner().invoke(group, ["study", str(path), "-o", str(page)])
    assert answer.exit_code == 0, answer.output
    assert page.read_text().startswith("# Is it faster?")
