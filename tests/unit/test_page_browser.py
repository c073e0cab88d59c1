"""Pages in headless Chromium: no error, text that can be read, names for all that is pressed."""

import pytest
from click.testing import CliRunner

from sim.cli import group
from tests.unit.browser import looked_at

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
