"""Pages with charts (`--report`): whole, offline, small, true to the JSON, readable by anyone."""

import base64
import csv
import io
import json
import math
import re
import shlex
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.documents import plain
from sim.page.charts.timeline import phase_ends, tracks
from sim.page.sections.plans import planned
from sim.page.sections.step import apart

SECTIONS = ["decision", "step", "memory", "scaling", "machine", "money", "trust", "inputs"]
VERBS = {
    "run": "run dgx-h100 mistral-7b-lora --set nodes=2",
    "run that does not fit": "run dgx-a100 llama3-70b-full --no-scaling",
    "run of a pipeline": "run dgx-h100 llama3-8b-sft --set parallelism.pipeline_parallel=2 "
    "--no-scaling",
    "run without a price": "run workstation-4x4090 llama3-8b-lora --no-scaling",
    "run that never ends": "run dgx-a100 llama3-70b-full --no-scaling --set nodes=512 "
    "--set 'reliability.gpu_mtbf=1 h'",
    "run on one GPU": "run a100-x1 llama3-8b-lora --no-scaling",
    "run on unlike nodes": "run mixed-h100-a100 mistral-7b-lora --no-scaling",
    "memory": "memory dgx-h100 mistral-7b-lora",
    "compare": "compare dgx-a100 l40s-8 mistral-7b-lora --vary micro_batch=1,2",
    "size": "size mistral-7b-lora --deadline 24h --max-gpus 8 --provider lambda",
    "size without an answer": "size mistral-7b-lora --deadline 1s --max-gpus 8 --provider lambda",
    "sweep": "sweep dgx-h100 mistral-7b-lora --vary micro_batch=1,2 --vary nodes=1,2 -j 1 "
    "--pareto cost_usd,wall_clock_s -q",
    "plan": "plan dgx-h100 {docs}/examples/week.yaml --set nodes=8",
    "validate": "validate memory",
    "study": "study h100-vs-a100",
    "diagnose": "diagnose dgx-h100 mistral-7b-lora --set nodes=1 "
    "--measured tokens_per_s_per_gpu=3000",
}  # fmt: skip


class Reader(HTMLParser):
    """Tags, ids, links and texts of a page; checks that tags close in order."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src") if key in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Page and JSON of a verb, written once."""
    folder, known = tmp_path_factory.mktemp("pages"), {}

    def of(name: str) -> tuple[str, dict]:
        if name not in known:
            file, document = folder / f"{len(known)}.html", folder / f"{len(known)}.json"
            docs = sim.__path__[0] + "/../docs"
            words = shlex.split(VERBS[name].format(docs=docs))
            words += ["--store", str(folder / "s.sqlite")] if words[0] == "sweep" else []
            done = CliRunner().invoke(
                group, [*words, "--report", str(file), "--format", "json", "-o", str(document)]
            )
            assert done.exit_code in (0, 3), done.output
            known[name] = file.read_text(encoding="utf-8"), json.loads(document.read_text())
        return known[name]

    return of


@pytest.mark.parametrize("name", VERBS)
def test_a_page_is_whole_small_and_offline(pages, name):
    text, _ = pages(name)
    assert str(Path(sim.__path__[0]).parent) not in text  # it is handed on: no path of this machine
    page = Reader(text)
    assert len(text) < 500_000
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in page.ids
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", _style_and_script(text))
    assert "nan" not in re.sub(r"base64,[\w+/=]*", "", text).lower().split('d="m', 1)[-1][:2000]
    for tag, values in page.tags:
        if tag == "svg" and "aria-hidden" not in values:
            assert values["role"] == "img"
            assert values["aria-label"]


def _style_and_script(text: str) -> str:
    return "".join(re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, re.S))


@pytest.mark.parametrize("name", VERBS)
def test_drawings_have_only_finite_coordinates(pages, name):
    text, _ = pages(name)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.S):
        shapes = re.sub(r"<title>.*?</title>|<text.*?</text>|aria-label=\"[^\"]*\"", "", drawing)
        assert not re.search(r"\b(nan|inf)\b", shapes)


def test_a_run_has_all_eight_sections(pages):
    text, _ = pages("run")
    assert re.findall(r'<section id="(\w+)"', text) == SECTIONS
    heads = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert heads[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(heads))


@pytest.mark.parametrize("name", ["run", "run that does not fit"])
def test_figures_are_those_of_the_json(pages, name):
    text, document = pages(name)
    known = list(_numbers(document))
    decision = re.search(r'<section id="decision".*?</section>', text, re.S).group()
    told = [float(value) for value in re.findall(r'<data [^>]*?value="([^"]+)"', decision)]
    assert len(told) > 8
    for value in told:
        assert any(math.isclose(value, other, rel_tol=1e-9) for other in known), value


def _numbers(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield float(value)


def test_every_chart_offers_its_numbers(pages):
    text, document = pages("run")
    figures = re.findall(r'<figure data-name="([\w-]+)">(.*?)</figure>', text, re.S)
    assert [name for name, _ in figures] == [
        "step-parts", "timeline", "memory", "scaling", "strong-scaling", "machine", "tornado",
        "cost-time", "offers-alike", "offers", "like-runs",
    ]  # fmt: skip
    tables = {name: _table(figure) for name, figure in figures}
    assert all(tables.values())
    total = sum(float(row["seconds"]) for row in tables["step-parts"])
    assert total == pytest.approx(document["step"]["time_s"])
    allocated = max(float(row["total_bytes"]) for row in tables["memory"])
    assert allocated == pytest.approx(document["memory"]["peak_allocated_bytes"])
    rates = [float(row["tokens_per_s"]) for row in tables["scaling"]]
    assert rates == [point["tokens_per_s"] for point in document["scaling"]["curve"]]
    strong = [float(row["tokens_per_s"]) for row in tables["strong-scaling"]]
    assert strong[1] == pytest.approx(document["throughput"]["tokens_per_s"])  # on its own nodes
    assert strong[-1] < rates[-1]  # less work for each GPU hides less
    own = {row["offer"] for row in tables["offers-alike"]}
    assert own < {row["offer"] for row in tables["offers"]}
    assert all(name.startswith(document["cost"]["provider"]) for name in own)
    least = min(float(row["total_usd"]) for row in tables["offers"])
    assert least <= document["cost"]["total_usd"] * (1 + 1e-9)


def test_the_runner_up_and_the_price_at_which_it_wins(pages):
    text, document = pages("run")
    said = re.search(r"The best offer elsewhere is ([^<]*) with \$([\d.]+): it wins at less than "
                     r"\$([\d.]+) for a GPU-hour \(\$([\d.]+) now\)", text)  # fmt: skip
    total, tie, now = (float(x) for x in said.groups()[1:])
    cost = document["cost"]
    assert total > cost["total_usd"]
    # storage and egress are paid anyway
    fixed = total * (1.0 - tie / now) - (total - cost["total_usd"])
    assert fixed == pytest.approx(0.0, abs=0.02 * total)


def test_the_price_at_which_the_runner_up_wins_counts_its_setup(tmp_path):
    """Hours of setup are paid at the price, as those of the job are."""
    sets, page = ["offer.setup=12h"], tmp_path / "run.html"
    words = ["run", "dgx-h100", "llama3-8b-sft", "--set", *sets, "--report", str(page), "--json"]
    cost = json.loads(CliRunner().invoke(group, words).stdout)["cost"]
    tie = re.search(r"it wins at less than \$([\d.]+) for", page.read_text()).group(1)
    sets.append(f"offer.price_per_gpu_hour={tie} USD")
    theirs = sim.simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)
    assert theirs.cost.total_usd == pytest.approx(cost["total_usd"], rel=0.01)


def test_the_best_of_a_sweep_is_shown_in_full(pages):
    text, document = pages("sweep")
    for name in SECTIONS:
        assert f'<section id="{name}"' in text
    best = min(document, key=lambda row: row["cost_usd"])
    data = re.search(r'<data class="figure" value="([\d.e+-]+)" title="[^"]*USD"', text).group(1)
    # a sweep expects failures in closed form, the page simulates runs
    assert float(data) == pytest.approx(best["cost_usd"], rel=0.005)


def test_layers_of_two_machines_stand_beside_each_other(pages):
    text, _ = pages("compare")
    rows = _table(re.search(r'<figure data-name="layers">(.*?)</figure>', text, re.S).group(1))
    first, second = dict.fromkeys(row["case"] for row in rows)
    means = {
        (case, phase): sum(float(r["seconds"]) for r in rows if (r["case"], r["phase"]) == key)
        for case in (first, second) for phase in ("forward", "backward")
        for key in [(case, phase)]
    }  # fmt: skip
    for case in (first, second):  # full recompute: backward is three forwards' work
        assert means[case, "backward"] > 2.0 * means[case, "forward"]
    assert {int(row["layer"]) for row in rows} == set(range(32))


def test_steps_of_two_machines_share_an_axis_and_their_differences_add_up():
    short = {"gradient_accumulation": 2}
    lines = [(name, sim.timeline(machine, "llama3-8b-sft", overrides=short))
             for name, machine in (("A", "dgx-a100"), ("B", "dgx-h100"))]  # fmt: skip
    *parts, whole = [[cell.value for cell in row[1:]] for row in apart(lines).rows]
    for column in range(3):
        assert sum(row[column] for row in parts) == pytest.approx(whole[column], rel=1e-6)
    assert whole == [line.end_s for _, line in lines] + [lines[1][1].end_s - lines[0][1].end_s]
    drawn = tracks(920, lines, "two steps")
    # forward and backward of two micro-steps and the optimizer, each from A to B
    told = re.findall(r'class="shift"><title>end of (\w+), micro-step (\d): (-[\d.]+) m?s', drawn)
    assert [(phase, number) for phase, number, _ in told] == [
        ("forward", "1"), ("backward", "1"), ("forward", "2"), ("backward", "2"),
        ("optimizer", "2"),
    ]  # fmt: skip
    assert float(told[-1][2]) == pytest.approx(whole[2], abs=0.01)
    ends = [float(x) for x in re.findall(r'd="M([\d.]+) \S+ \S+" class="shift"', drawn)]
    scale = (920 - 118 - 8) / lines[0][1].end_s
    first = phase_ends(lines[0][1])[0, "forward"]
    assert ends[0] == pytest.approx(118 + scale * first, abs=0.06)
    assert drawn.count('class="m" text-anchor="end">A<') == len(lines[0][1].tracks)


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("plan", r"On 8 nodes, fifo, \d+ of \d+ deadlines are missed; nodes are in use .*"),
        ("diagnose", r".+ The figures below are of the job as it was declared\."),
        ("validate", r"Simulated against measured: memory \(\d+ rows\): half within [\d.]+ %, .*"),
        ("study", r".{80,}\."),
    ],
)  # fmt: skip
def test_the_answer_stands_first(pages, name, lead):
    text, _ = pages(name)
    first = re.search(r'<section id="decision".*?<p class="lead">([^<]*)</p>', text, re.S)
    assert re.fullmatch(lead, first.group(1)), first.group(1)


def test_a_plan_is_drawn_in_days_with_a_colour_for_jobs_alike(pages):
    text, document = pages("plan")
    figure = re.search(r'<figure data-name="jobs">(.*?)</figure>', text, re.S).group(1)
    names = {re.sub(r"-\d+$", "", job["name"]) for job in document["jobs"]}
    keys = re.findall(r'<li><i class="(s\d)-key"></i>([^<]*)', figure)
    assert {name.strip() for _, name in keys} == names
    assert len({mark for mark, _ in keys}) == len(names)
    late = {job["name"] for job in document["jobs"] if not job["on_time"]}
    drawn = set(re.findall(r'class="s\d late"><title>([^:]*):', figure))
    assert drawn == late
    assert 'text-anchor="end">days</text>' in figure


def test_entries_whose_names_end_in_numbers_are_not_alike():
    jobs = {"jobs": [
        {"name": "exp-1", "workload": "llama3-8b-sft"},
        {"name": "exp-2", "workload": "llama3-8b-lora", "count": 2},
    ]}  # fmt: skip
    found = sim.plan("dgx-h100", jobs, overrides=["nodes=2"], replicas=0)
    (chart,) = planned(found)
    assert [key.label for key in chart.legend if key.mark != "late-key"] == ["exp-1", "exp-2"]


def test_errors_of_a_validation_are_counted(pages):
    text, document = pages("validate")
    rows = _table(re.search(r'<figure data-name="errors">(.*?)</figure>', text, re.S).group(1))
    errors = [abs(row["error"]) for row in document["memory"]["peaks"]]
    assert len(errors) > 50
    for row in rows[::20]:
        within = sum(error <= float(row["error"]) for error in errors) / len(errors)
        assert float(row["share"]) == pytest.approx(within, abs=1.5 / len(errors))


def test_claims_of_a_study_are_drawn_with_their_bands(pages):
    text, document = pages("study")
    figure = re.search(r'<figure data-name="claim-a">(.*?)</figure>', text, re.S).group(1)
    claim = document["claims"][0]
    shown = [row for row in claim["rows"] if row["ratio"] and row["band"]]
    assert [row["label"] for row in _table(figure)] == [row["label"] for row in shown][:14]
    assert f"{shown[0]['value']:.3g} x" in figure


def _table(figure: str) -> list[dict[str, str]]:
    data = re.search(r'href="data:text/csv;base64,([\w+/=]+)"', figure).group(1)
    return list(csv.DictReader(io.StringIO(base64.b64decode(data).decode())))


def test_the_document_is_in_the_page(pages):
    text, document = pages("run")
    data = re.search(r'href="data:application/json;base64,([\w+/=]+)"', text).group(1)
    assert json.loads(base64.b64decode(data)) == document


def test_what_users_name_is_escaped(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: '<script>alert(1)</script>'\nmodel: llama-3.1-8b\ntokens: 1e8\n"
        "sequence_length: 2048\n"
    )
    out = tmp_path / "out.html"
    done = CliRunner().invoke(
        group, ["run", "dgx-h100", str(job), "--no-scaling", "--report", str(out)]
    )
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_a_quiet_run_has_the_whole_page(tmp_path):
    out = tmp_path / "run.html"
    words = ["run", "dgx-h100", "mistral-7b-lora", "-q", "--report", str(out)]
    done = CliRunner().invoke(group, words)
    assert done.exit_code == 0, done.output
    assert "scaling" not in done.stdout  # title and verdict
    text = out.read_text()
    assert "<summary>Every figure</summary>" in text
    assert '<th scope="row">step.time_s</th>' in text


def test_a_timeline_agrees_with_the_step_and_its_memory():
    made = sim.timeline("dgx-h100", "llama3-8b-sft", overrides={"gradient_accumulation": 2})
    step = sim.simulate("dgx-h100", "llama3-8b-sft", overrides={"gradient_accumulation": 2},
                        scaling=False, fixes=False).step  # fmt: skip
    assert made.shown == made.micro_steps == 2
    assert made.end_s == pytest.approx(step.time_s, rel=1e-3)
    exposed = sum(end - start for start, end in made.exposed)
    assert exposed == pytest.approx(step.exposed_communication_s, rel=2e-3)
    assert max(h.total_bytes for h in made.held) == made.memory.peak_allocated_bytes
    assert sum(end - start for _, start, end in made.critical) == pytest.approx(
        made.end_s, rel=0.01
    )
    by_track = {}
    for span in made.spans:
        assert span.start_s >= by_track.get(span.track, 0.0) - 1e-12  # none over another
        by_track[span.track] = span.end_s
    assert json.loads(made.to_json())["spans"][0] == plain(made.spans[0])


def test_parts_of_several_are_told_for_each_token(pages):
    text, document = pages("compare")
    figure = re.search(r'<figure data-name="step-parts">(.*?)</figure>', text, re.S).group(1)
    first, *others = [v["label"] for v in document["variants"]]
    products = _table(figure)[0]
    assert (products["case"], products["part"]) == (first, "GEMM")
    told = re.search(r'GEMM <span class="value">([^<]*)<', figure).group(1)
    assert told.split(" · ")[0] == f"{first} {1e6 * float(products['gpu_s_per_token']):.0f} us"
    assert len(told.split(" · ")) == 1 + len(others)


def test_python_has_the_same_page(tmp_path):
    made = sim.report_page("dgx-h100", "mistral-7b-lora", nodes=2)
    assert re.findall(r'<section id="(\w+)"', made.text) == SECTIONS
    assert made.write(tmp_path / "p.html").read_text(encoding="utf-8") == made.text
    frame = Reader(made._repr_html_()).tags[0]
    assert (frame[0], frame[1]["srcdoc"]) == ("iframe", made.text)
    with pytest.raises(sim.InputError, match="nodse"):
        sim.report_page("dgx-h100", "mistral-7b-lora", nodse=2)


def test_the_odds_of_running_out_are_never_said_to_be_none(pages):
    text, document = pages("run")
    assert document["memory"]["fit_probability"] > 0.9999
    assert "the odds that it runs out of memory are below 0.1 %." in " ".join(text.split())


def test_the_memory_under_the_cursor_is_that_of_the_table(pages):
    text, _ = pages("run on one GPU")
    figure = re.search(r'<figure data-name="memory">(.*?)</figure>', text, re.S).group(1)
    said = [float(v) for v in re.findall(r'"cursor"><title>[^:]*: ([\d.]+) GiB', figure)]
    rows = [float(row["total_bytes"]) / 2**30 for row in _table(figure)]
    assert 60 < len(said) <= 120
    assert min(rows) <= min(said) <= max(said) <= max(rows) + 1.5  # with context and buffers
