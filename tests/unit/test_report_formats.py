"""Every verb in every format: one view, so that none says less than another."""

import csv
import io
import json
import re
import sys
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from click.testing import CliRunner

from sim import cli
from sim.cli import group
from sim.commands import output
from sim.documents import Document, Listing, OneByOne
from sim.report.formats import FORMATS, rendered
from sim.report.formats.csv import csv_of, flat
from sim.report.formats.html import part_html
from sim.report.terminal import table_lines
from sim.report.view import (
    Bar,
    Cell,
    Column,
    Fact,
    Facts,
    Lines,
    Remarks,
    Table,
    View,
    left,
    text_of,
)

ROOT = Path(__file__).parents[2]
VERBS = {
    "run": "run dgx-h100 mistral-7b-lora --no-scaling",
    "run that does not fit": "run dgx-a100 llama3-70b-full",
    "memory": "memory dgx-h100 llama3-8b-sft --max micro_batch",
    "compare": "compare dgx-a100 l40s-8 mistral-7b-lora",
    "compare many": "compare dgx-h100 mistral-7b-lora --vary micro_batch=1,2,4,8,16",
    "need bandwidth": "need bandwidth dgx-a100 llama3-8b-sft --efficiency 0.8 --set nodes=4",
    "need gpus": "need gpus dgx-h100 llama3-70b-full --deadline 8h",
    "need context": "need context dgx-h100 llama3-8b-sft",
    "need price": "need price oci-bm-gpu-h100-8 aws-p4de llama3-8b-sft",
    "prices list": "prices list --gpu h200",
    "prices show": "prices show p5.48xlarge",
    "prices job": "prices job dgx-a100 dgx-h100 mistral-7b-lora",
    "posttrain": "posttrain dgx-h100 qwen2.5-7b-grpo --set post_training.prompts=16",
    "plan": "plan dgx-h100 docs/examples/week.yaml --set nodes=8",
    "size": "size mistral-7b-lora --deadline 24h --max-gpus 8 --provider lambda",
    "topo show": "topo show dgx-h100 --set nodes=2",
    "validate": "validate memory",
    "trace": "trace dgx-h100 llama3-8b-lora --set model.layers=2 --format table",
    "config": "config dgx-h100 llama3-8b-lora --set nodes=2",
    "schema": "schema topology --format table",
    "explain": "explain dgx-h100 llama3-8b-lora",
    "collective": "collective dgx-h100 --sizes 1M:4M",
    "variants": "collective dgx-h100 --sizes 1G --vary nodes=1,2",
    "diagnose": "diagnose dgx-h100 llama3-8b-sft --set model.layers=4"
    " --measured tokens_per_s_per_gpu=2000",
}


@cache
def view_of(command):
    """What a command would print, before it is put into a format."""
    shown = []
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        if command.startswith("sweep"):
            patch.chdir(folder)  # where it keeps its results
        patch.setattr(output, "in_parts", lambda view, _: shown.append(view) or "")
        result = CliRunner().invoke(group, command.split())
    assert result.exit_code == 0, result.output
    (view,) = shown
    return view


class Page(HTMLParser):
    """Counts tags and fails where they do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


@pytest.mark.parametrize("command", VERBS.values(), ids=VERBS)
def test_every_format(command):
    view = view_of(command)
    forms = {form: rendered(view, form) for form in FORMATS}
    text, document, table = forms["table"], forms["json"], forms["csv"]
    page, html, lines = forms["md"], forms["html"], forms["jsonl"]
    assert all(json.loads(line) for line in lines.splitlines())
    json.loads(document, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert rows
    assert all(None not in row and None not in row.values() for row in rows)
    found = Page(html)
    assert [tag for tag, _ in found.seen if tag in ("script", "link", "img", "iframe")] == []
    assert [tag for tag, _ in found.seen].count("h1") == 1
    assert all("scope" in attrs for tag, attrs in found.seen if tag == "th")
    assert "@media print" in html
    # every sentence and cell of the terminal is on both pages
    for where in (page.replace("\\|", "|"), " ".join(found.words)):
        missing = [w for w in words(text) if w not in words(where)]
        # a name that is too long for its column is cut after a dash
        assert [w for w in missing if not re.search("[A-Za-z]", w) or w not in where] == []
    if not command.startswith("trace"):  # its JSON is the timeline, in microseconds
        check_numbers(view)


def check_numbers(view):
    """Every number of the tables is in the JSON."""
    known = sorted(numbers(json.loads(rendered(view, "json"))))
    tables = [part for part in view.sections if isinstance(part, Table)]
    cells = [
        (column.head, cell)
        for table in tables
        for row in table.rows
        for column, cell in zip(table.columns, row, strict=False)
        if isinstance(cell, Cell) and cell.value is not None
    ]
    assert cells or not tables or view.document.schema.split("/")[1] in ("config", "file-schema")
    for head, cell in cells:
        low, high = sorted((cell.value * (1 - 1e-9), cell.value * (1 + 1e-9)))
        place = bisect_left(known, low)
        assert place < len(known), (head, cell)
        assert known[place] <= high, (head, cell)


def numbers(value):
    """Every number of a document."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def words(text):
    """Words with a number or a letter in them; the bar's share is drawn, not written."""
    return set(re.findall(r"[\w.,%$]*\w[\w.,%$]*", text.replace("&lt;", "<")))


def test_no_report_branches_on_the_format():
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "sim").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\b(form|fmt|format)\b (==|!=) ", line)
    ]
    assert found == []


BORROWED = {
    "run": "run l40s-8 mistral-7b-lora --no-scaling",
    "compare": "compare l40s-8 mistral-7b-lora --vary micro_batch=1,2",
    "explain": "explain l40s-8 mistral-7b-lora",
    "diagnose": "diagnose l40s-8 mistral-7b-lora --measured tokens_per_s_per_gpu=1000",
    "size": "size mistral-7b-lora --topology l40s-8 --max-gpus 8 --objective time",
}


@pytest.mark.parametrize("command", BORROWED.values(), ids=BORROWED)
def test_borrowed_constants_are_said_in_every_format(command):
    for form in FORMATS:
        assert "bandwidth of l40s-pcie-48gb: a100-sxm-80gb's x 1.17" in unescape(
            rendered(view_of(command), form)
        ), form


def test_the_suffix_of_the_file_names_the_format(tmp_path):
    for form in ("json", "csv", "md", "html", "jsonl"):
        file = tmp_path / f"answer.{form}"
        CliRunner().invoke(
            group, ["need", "context", "dgx-h100", "mistral-7b-lora", "-o", str(file)]
        )
        view = view_of("need context dgx-h100 mistral-7b-lora")
        assert file.read_text() == rendered(view, form) + "\n"


def test_cells_keep_the_full_number_beside_the_short_one():
    table = Table([left("what"), left("time")], [["step | all", Cell("1.23 s", 1.2345678, "s")]])
    view = View("<a> & b", [Facts([Fact("a", "b", ("c",))]), table, Bar("x", [("y", 1.0)])], None)
    html = rendered(view, "html")
    assert '<data value="1.2345678" title="1.2345678 s">1.23 s</data>' in html
    assert "&lt;a&gt; &amp; b" in html
    assert "| step \\| all | 1.23 s |" in rendered(view, "md")
    assert rendered(view, "table").splitlines() == [
        "<a> & b", "", "  a  b", "     c", "", "    what        time",
        "    step | all  1.23 s", "", "  x  " + 48 * "█", "     y 100 %",
    ]  # fmt: skip


def test_sections_without_content_leave_no_trace():
    view = View("title", [Table([left("a")], [], "heading"), Lines([], "more"), Remarks([])], None)
    for form in ("table", "md", "html"):
        text = rendered(view, form)
        assert "title" in text
        assert "heading" not in text
        assert "more" not in text


def test_lists_and_parts_are_columns():
    row = {"a": {"b": [1.5, {"c": None}]}, "d": ["x", "y"], "e": True, "f": []}
    assert flat(row) == {"a.b.0": "1.5", "a.b.1.c": "", "d": "x; y", "e": "true", "f": ""}


def test_sentences_stay_within_the_terminal_and_figures_with_their_unit():
    words = "a sentence of 12.5 GiB and 80 % and 3 h 05 min " * 6
    options = "--set 'precision={fp8: {recipe: tensorwise}}' --set compile=true"
    told = View(
        words.strip(),
        [
            Facts([Fact("Verdict", words, (words,))]), Remarks([words]), Bar("Where", [("x", 1.0)]),
            Table([left("change"), left("as options")], [["c" * 60, options]]),
        ],
        Document.__new__(Document),
    )  # fmt: skip
    lines = rendered(told, "table").splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(re.search(r"\d$", line) for line in lines)
    assert options in [line.strip() for line in lines]


#: beside those above, of which every format is looked at: what else a terminal shows
SHOWN = {
    "improve": "improve dgx-h100 mistral-7b-lora",
    "mixed": "run mixed-h100-a100 llama3-8b-lora",
    "many nodes": "run dgx-h100 llama3-70b-full --set nodes=16",
    "size of layouts": "size llama3-8b-sft --topology dgx-h100 --gpus 16 --vary layout",
    "size of many": "size llama3-8b-sft --deadline 24h --max-gpus 16",
    "offers": "prices list",
    "sweep": "sweep dgx-h100 mistral-7b-lora --vary micro_batch=1,2 --vary attention=flash2,sdpa",
    "study": "study lora-qlora-or-full",
    "machines": "list machines",
    "jobs": "list jobs",
    "doctor": "doctor",
    "code": "explain architecture",
    "one GPU": "run a100-x1 mistral-7b-lora",
    "one GPU shown": "topo show a100-x1",
    "one GPU compared": "compare a100-x1 h100-x1 --workload mistral-7b-lora",
    "one GPU asked for": "need gpus a100-x1 mistral-7b-lora --deadline 900h",
    "one GPU rolled out": "posttrain a100-x1 qwen2.5-7b-grpo --set model=qwen2.5-0.5b"
    " --set post_training.prompts=2",
}
#: what `sim.quantities` would not have said
#: where a word that is too long for its column is broken
JOINT = re.compile(r"(?<=[/_:=.-])|(?=#)")
UNSAID = re.compile(r"\b1 (GPUs|nodes|steps|ranks|runs|plans|offers|jobs|rows|sequences)\b|\d%")
#: verbs that answer with files, ask a person or an assistant, or need files to answer
ELSEWHERE = {
    "import", "show", "init", "diff", "completion", "export", "calibrate", "mcp", "serve",
    "support", "list", "code",
}  # fmt: skip


def test_every_verb_is_looked_at():
    seen = {command.split()[0] for command in [*VERBS.values(), *SHOWN.values()]}
    assert set(cli.VERBS) - seen <= ELSEWHERE


@pytest.mark.parametrize("name", [*VERBS, *SHOWN])
def test_what_a_verb_says_is_as_wide_as_the_terminal(name, tmp_path, monkeypatch):
    """At each width: no line is longer, no word is broken, heads stand with their columns."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    view = view_of((VERBS | SHOWN)[name])
    assert UNSAID.findall(rendered(view, "table")) == []
    drawn = {line.strip() for s in view.sections if isinstance(s, Lines) and s.literal
             for line in s.lines}  # fmt: skip
    for width in (60, 80, 100, 140):
        lines = rendered(view._replace(width=width), "table").splitlines()
        wide = [line.strip() for line in lines if len(line) > width]
        assert [x for x in wide if x not in drawn and not x.startswith("--") and " " in x] == []
        for table in (part for part in view.sections if isinstance(part, Table) and part.rows):
            check_table(table, [*table_lines(table, width)])


def check_table(table, lines):
    """No word is broken but after a joint, what stands below a row stands once, heads hold."""
    text = "\n".join(lines)
    cells = [[text_of(cell) for cell in row] for row in table.rows]
    pieces = {piece for row in cells for cell in row for word in cell.split()
              for piece in JOINT.split(word)}  # fmt: skip
    assert [piece for piece in pieces if piece not in text and len(piece) < 32] == []
    for i, column in enumerate(table.columns):
        shown = [row[i] for row in cells if i < len(row) and row[i]]
        if column.below:
            told = text.count(f"    {column.head}: ")
            alike = len({row[0] for row in cells}) < len(cells)
            assert told == len(shown) or (alike and told % len(shown) == 0)
        elif table.headed and column.head and column.right and not column.after:
            last = column.head.split()[-1]
            ends = {found.end() for line in lines for found in re.finditer(re.escape(last), line)}
            assert any(
                all(any(line[:end].endswith(cell) for line in lines) for cell in shown)
                for end in ends
            ), column.head


def test_lines_are_as_wide_as_the_terminal(monkeypatch):
    assert output._width(None) == 100  # a pipe
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for columns, width in ((200, 140), (100, 100), (83, 83), (20, 60)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert output._width(None) == width
        assert output._width(Path("report.txt")) == 100


WIDE = Table(
    [left("case"), Column("figure"), left("says"), left("more")],
    [
        ["a short one", "1.00 x", "nothing", ""],
        ["one that has so much to say that it takes lines", "12.34 x", 4 * "5 h 30 min ", 20 * "y"],
        ["https://example.org/" + "path/" * 12, "0.5 x", "word", "z"],
    ],
    indent=2,
)  # fmt: skip


def test_a_table_that_is_too_wide_breaks_its_words_and_not_its_figures():
    lines = rendered(View("", [WIDE], Document.__new__(Document)), "table").splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["case", "figure", "says", "more"]
    assert any("12.34 x" in line for line in lines)
    assert not any(re.search(r"\d$", line) for line in lines)
    start = lines[0].index("says")
    assert {line[start - 2 : start] for line in lines if len(line) > start} == {"  "}
    url = "".join(line[2 : lines[0].index("figure") - 2].strip() for line in lines[1:])
    assert "https://example.org/" + "path/" * 12 in url


def test_a_table_of_too_many_figures_is_set_in_parts():
    columns = [left("name"), *(Column(f"figure {i}") for i in range(20))]
    table = Table(columns, [["first", *[f"{i}.00" for i in range(20)]]])
    text = rendered(View("", [table], Document.__new__(Document)), "table")
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("first") == 2
    assert [f"{i}.00" in text for i in range(20)] == [True] * 20


def test_a_column_may_stand_below_its_row():
    columns = [left("name"), left("how", below=True), Column("figure")]
    table = Table(columns, [["first", "in two words & more", "1.00"]], indent=0)
    view = View("", [table], Document.__new__(Document))
    assert rendered(view, "table").splitlines() == [
        "name   figure", "first    1.00", "    how: in two words & more",
    ]  # fmt: skip
    page = "".join(part_html(table))
    assert '<span class="w">name</span><br>how</th>' in page
    assert '<span class="w">first</span><br>in two words &amp; more</th>' in page
    assert page.count('<th scope="col"') == 2


def test_a_column_that_a_later_row_brings_is_empty_before():
    text = csv_of({"a": row, **extra} for row, extra in ((1, {}), (2, {"b": "x,y"}), (3, {})))
    assert text == 'a,b\n1,\n2,"x,y"\n3,\n'
    assert csv_of([]) == "\n"


@dataclass(frozen=True, slots=True)
class _Numbers(Listing):
    """A table of a column."""

    schema: ClassVar[str] = "test/1"
    count: int

    def records(self):
        return OneByOne(self.count, lambda place: {"at": place, "parts": {"text": "a\nb"}})


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_of_many_rows_it_is_told_how_many_are_written(form):
    told = []
    document = _Numbers(2500)
    text = rendered(View("", [], document, lambda *said: told.append(said)), form)
    assert told == [(999, 2500), (1999, 2500)]
    assert text == rendered(View("", [], document), form)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_is_written_row_by_row_as_it_is_whole(count):
    document = _Numbers(count)
    assert rendered(View("", [], document), "json") == document.to_json()
