"""Pages in headless Chromium: no error, text that can be read, names for all that is pressed."""

import pytest
from click.testing import CliRunner

from sim.cli import group
from tests.unit.browser import Page, looked_at

pytestmark = pytest.mark.usefixtures("browser")
VERBS = {
    "run": "run dgx-h100 mistral-7b-lora --set nodes=2",
    "compare": "compare dgx-a100 l40s-8 mistral-7b-lora",
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page a verb."""
    folder = tmp_path_factory.mktemp("browser")
    found = {}
    for name, words in VERBS.items():
        file = folder / f"{name}.html"
        done = CliRunner().invoke(group, [*words.split(), "--report", str(file)])
        assert done.exit_code == 0, done.output
        found[name] = file.read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize(
    ("name", "width", "theme"),
    [("run", 1200, "light"), ("run", 390, "dark"), ("compare", 390, "light"),
     ("compare", 1200, "dark")],
)  # fmt: skip
def test_a_page_is_read_and_worked_by_anyone(pages, tmp_path, name, width, theme):
    found, console = looked_at(pages[name], tmp_path, width, theme)
    assert console == []
    assert found["faults"] == []
    assert found["texts"] > 200
    assert found["faint"] == []
    assert found["nameless"] == []
    assert found["skipped"] == []
    assert found["overflow"] <= 0
    assert found["controls"] > 8


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_paper_is_white_and_nothing_is_cut_off(pages, tmp_path, theme):
    """Whichever theme was chosen on the screen; commands are broken where a line ends."""
    file = tmp_path / "run.html"
    file.write_text(pages["run"], encoding="utf-8")
    with Page(file.as_uri(), tmp_path, width=700) as page:
        page.ask(f"document.documentElement.dataset.theme = '{theme}'")
        page.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        page.send("Emulation.setEmulatedMedia", media="print")
        assert page.ask("getComputedStyle(document.body).color") == "rgb(20, 24, 31)"
        assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        cut = "[...document.querySelectorAll('pre')].filter((e) => e.scrollWidth > e.clientWidth)"
        assert page.ask(f"{cut}.length") == 0
        assert page.console == []
