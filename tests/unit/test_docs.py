"""The pages: links lead somewhere, and Python snippets run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.cli import VERBS

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import run_readme
import write_errors_page

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    pytest.param(page, code, id=f"{page.relative_to(ROOT)}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("page", "code"), SNIPPETS)
def test_python_snippets_run(page, code, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})


def test_every_page_stands_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if f": {page}\n" not in nav} == set()


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path):
    """No broken link or anchor, no page left out; no script, style or picture from elsewhere."""
    pytest.importorskip("mkdocs")
    words = ["build", "--quiet", "--config-file", ROOT / "mkdocs.yml", "--site-dir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) > 50
    fetched = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?:https?:)?//")
    assert [page.name for page in built if fetched.search(page.read_text())] == []


def test_bad_input_gets_what_the_page_says():
    assert write_errors_page.page() == write_errors_page.PAGE.read_text(encoding="utf-8")


def test_the_readme_names_every_verb():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## What it answers") : text.index("Every verb with every option")]
    assert [verb for verb in VERBS if f"`scaling-sim {verb}" not in table] == []


#: a row of the README's table of errors, and where its figures are from: a page's row, its columns
HELD = {
    "training runs": [
        ("validation", "all | complete rows", (0, 3, 2)),
        ("validation", "whole sources | all sources", (2, 1)),
    ],
    "fine-tuning": [
        ("validation", "all | the table, no flag", (0, 3, 2)),
        ("validation", "all | 916 | whole models", (1, 0)),
    ],
    "layouts": [
        ("validation-mesh", "all | not at odds with others", (0, 3, 2)),
        ("validation-mesh", "held back | all not at odds", (3, 2)),
    ],
}


@pytest.mark.parametrize("what", HELD)
def test_the_readme_is_as_right_as_the_pages_say(what):
    row = re.search(rf"^\| [^|]*{what}[^|]* \|(.*)\|$", (ROOT / "README.md").read_text(), re.M)
    said = [cell.strip().removesuffix(" %") for cell in row[1].split("|")]
    found = []
    for page, key, columns in HELD[what]:
        line = f"\n| {key} |"
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert text.count(line) == 1
        cells = text.partition(line)[2].partition("\n")[0].split("|")
        found += [float(cells[column]) for column in columns]
    assert [float(cell) for cell in said] == found


def test_the_readme_says_of_memory_what_the_page_says():
    page = (ROOT / "docs" / "validation.md").read_text()
    said = re.search(r"^Memory: (.*?), (.*?)\.", (ROOT / "README.md").read_text(), re.M)
    assert said[1] in page
    assert said[2] in page


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")]
    names = {str(page.relative_to(ROOT / "docs")) for page in pages} - {"README.md"}
    assert {name for name in names if f"]({name})" not in index} == set()


def test_the_changelog_says_nothing_twice():
    """Merges that keep both sides bring back what was mended: a heading, a bullet's first words."""
    text = (ROOT / "CHANGELOG.md").read_text()
    for release in re.split(r"^## ", text, flags=re.M)[1:]:
        headings = re.findall(r"\n\n((?:#+ )?[A-Z][\w, ]+)\n\n", release)
        bullets = re.findall(r"^- (.*)", release, re.M)
        said = headings + [" ".join(bullet.split()[:6]) for bullet in bullets]
        assert len(bullets) > 10
        assert [words for words in set(said) if said.count(words) > 1] == []


def test_a_block_that_is_not_what_its_command_prints_is_named():
    page = (
        "Text.\n<!-- run: scaling-sim a -->\n```console\n1\n2\n```\n"
        "<!-- table: scaling-sim b -->\n\n| 3 |\n"
    )
    assert run_readme.differences(page, page) == []
    assert run_readme.differences(page, page.replace("2\n", "2\n2\n").replace("3", "4")) == [
        ":6: '```' of `scaling-sim a` would be '2'",
        ":9: '| 3 |' of `scaling-sim b` would be '| 4 |'",
    ]
    assert run_readme.differences("Text.\n", page)[0] == (
        ":2: '' of `scaling-sim a` would be '<!-- run: scaling-sim a -->'"
    )
