"""The pages: links lead somewhere, and Python snippets run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.cli import VERBS

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


def test_the_readme_names_every_verb():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## What it answers") : text.index("Every verb with every option")]
    assert [verb for verb in VERBS if f"`scaling-sim {verb}" not in table] == []


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")]
    names = {str(page.relative_to(ROOT / "docs")) for page in pages} - {"README.md"}
    assert {name for name in names if f"]({name})" not in index} == set()
