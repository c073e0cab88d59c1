"""The live page in a browser: what it shows, and what is done to it by pointer and keys."""

import json
import re
from base64 import b64encode

import pytest
from click.testing import CliRunner

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import sim
from sim.cli import group
from sim.page.sections.lead import lead_of
from sim.quantities import duration
from tests.unit.browser import Page, looked_at, visited
from tests.unit.serving import JOB


@pytest.mark.usefixtures("browser")
@pytest.mark.parametrize(("width", "theme"), [(1400, "light"), (390, "dark")])
def test_the_page_is_worked_by_anyone(server, tmp_path, width, theme):
    found, console = looked_at(_recorded(server), tmp_path, width, theme)
    assert console == []
    assert found["faults"] == []
    assert found["texts"] > 80
    assert found["faint"] == []
    assert found["nameless"] == []
    assert found["overflow"] <= 0


def _recorded(server):
    """The page as one file whose questions are answered with what the server said once."""
    _, _, page = server.ask("/")
    for name in ("page.css", "live.css"):
        _, _, style = server.ask(f"/assets/{name}")
        page = page.replace(f'<link rel="stylesheet" href="assets/{name}">',
                            f"<style>{style}</style>")  # fmt: skip
    answers = {
        "api/catalogue": json.loads(server.ask("/api/catalogue")[2]),
        "api/run": server.run(curve=True, changes=True)[1],
    }
    scripts = ("live.js", "machine.js", "tabs.js", "recorded.js", "fleet.js")
    script = "\n".join(server.ask(f"/assets/{name}")[2] for name in scripts)
    told = json.dumps(answers).replace("</", "<\\/")
    stub = "history.replaceState = () => {};"  # a frame without an address has none to change
    stub += f"window.fetch = async (u) => ({{ ok: true, json: async () => ({told})[u] }});"
    for name in scripts[:-1]:
        page = page.replace(f'<script src="assets/{name}"></script>\n', "")
    last = f'<script src="assets/{scripts[-1]}"></script>'
    return page.replace(last, f"<script>{stub}\n{script}</script>")


@pytest.mark.usefixtures("browser")
def test_the_page_asks_and_shows_under_its_own_policy(server, tmp_path):
    dom, console = visited(server.address + "#s=nodes%3D2&t=timeline", tmp_path)
    assert console == []
    assert "2 nodes x 8 h100-sxm-80gb" in dom
    assert 'data-name="timeline"' in dom
    assert "time per token" in dom


@pytest.mark.usefixtures("browser")
def test_parts_of_the_machine_are_slowed_where_they_are_drawn(server, tmp_path):
    link = '#machine-drawn .wide-svg [data-link="n0/gpu2<>n0/nvswitch"]'
    with Page(server.address + "#j=mistral-7b-lora&t=machine", tmp_path) as page:
        page.until(f"document.querySelector('{link}') !== null")
        named = page.ask(
            "[...document.querySelectorAll('#machine-drawn [tabindex]')].every("
            "(e) => e.getAttribute('role') === 'slider' && e.getAttribute('aria-label')"
            " && e.getAttribute('aria-valuenow') === '100')"
        )
        assert named is True
        page.drag(link, 50.0)
        page.until("location.hash.includes('w=link%3An0%2Fgpu2%3C%3En0%2Fnvswitch%3D0.5')")
        page.until("document.getElementById('machine-said').textContent.includes('185 GB/s')")
        # it is still chosen, and keys move it on
        page.press("ArrowDown")
        page.until("document.getElementById('machine-said').textContent.includes('148 GB/s')")
        assert page.ask("document.getElementById('part-out').textContent") == "40 %"
        page.press("End")
        page.until("!location.hash.includes('gpu2')")
        page.ask("document.querySelector('#counts button').click()")  # one NIC fewer
        page.until("document.querySelectorAll('.wide-svg [data-kind=nic]').length === 7")
        assert page.ask("document.getElementById('more').value") == "node.nics.count=7"
        assert page.ask("document.getElementById('faults').textContent") == ""
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_warnings_are_shown_and_a_budget_is_in_dollars(server, tmp_path):
    with Page(server.address + "#j=mistral-7b-lora&m=h100-x1&t=size", tmp_path) as page:
        page.until("document.body.dataset.answers >= 1")
        said = page.ask("document.getElementById('warnings').textContent")
        assert "FSDP2 shards nothing over one GPU" in said
        page.ask("document.getElementById('maxgpus').value = 1;"
                 "document.getElementById('budget').value = '2500';"
                 "document.getElementById('provider').value = 'nebius';"
                 "document.getElementById('find').click()")  # fmt: skip
        page.until("document.getElementById('size-said').textContent.startsWith('Take 1 GPU')")
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_after_a_wrong_entry_the_figures_before_are_grey_and_said_to_be(server, tmp_path):
    with Page(server.address + "#m=h100-x1&j=mistral-7b-lora", tmp_path) as page:
        page.until("document.body.dataset.answers >= 1")
        assert "single" in page.ask("document.getElementById('form').innerHTML")
        typed = ("{ const m = document.getElementById('more'); m.value = '%s';"
                 "m.dispatchEvent(new Event('input', { bubbles: true })) }")  # fmt: skip
        stale = "document.querySelectorAll('#sentence.stale, #tiles.stale').length"
        page.ask(typed % "nodez=3")
        hidden = "document.getElementById('faults').hidden && document.body.dataset.open === '0'"
        page.until(f"!{hidden}")
        said = page.ask("document.getElementById('faults').textContent")
        assert "nodez: unknown key" in said
        assert said.endswith("The figures below, in grey, are those of the entries before.")
        assert page.ask(stale) == 2
        page.ask(typed % "nodes=1")
        page.until(hidden)
        assert page.ask(stale) == 0


@pytest.mark.usefixtures("browser")
def test_back_goes_to_the_machine_and_job_before(server, tmp_path):
    with Page(server.address + "#m=dgx-h100&j=mistral-7b-lora", tmp_path) as page:
        page.until("document.body.dataset.answers >= 1")
        page.ask("const m = document.getElementById('topology'); m.value = 'dgx-a100';"
                 "m.dispatchEvent(new Event('change', { bubbles: true }))")  # fmt: skip
        page.until("location.hash.includes('m=dgx-a100')")
        page.ask("history.back()")
        page.until("document.getElementById('topology').value === 'dgx-h100'")
        assert page.ask("location.hash").startswith("#m=dgx-h100&j=mistral-7b-lora")
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_limits_move_over_what_was_found(server, tmp_path):
    with Page(server.address + "#j=mistral-7b-lora&t=size", tmp_path) as page:
        page.until("document.body.dataset.answers >= 1")
        page.ask("document.getElementById('maxgpus').value = 8;"
                 "document.getElementById('provider').value = 'nebius';"
                 "document.getElementById('find').click()")  # fmt: skip
        page.until("!document.getElementById('front').hidden")
        free = page.ask("document.getElementById('front-said').textContent")
        page.ask("document.getElementById('front-time').focus()")
        page.press("Home")  # as fast as anything is
        tight = page.ask("document.getElementById('front-said').textContent")
        assert tight != free
        assert page.ask("document.querySelectorAll('circle.best').length") == 2  # wide and narrow
        page.ask("document.getElementById('front-cost').focus()")
        page.press("Home")
        said = page.ask("document.getElementById('front-said').textContent")
        assert said == "Nothing is both within that time and for that money."
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_a_trace_that_is_dropped_is_set_beside_the_step(server, tmp_path):
    path = tmp_path / "rank0.json.gz"
    trace = ["trace", *JOB.values(), "--set", "gradient_accumulation=1", "-o", str(path)]
    assert CliRunner().invoke(group, trace).exit_code == 0
    beside = sim.trace_diff(path, "dgx-a100", "mistral-7b-lora", gradient_accumulation=1)
    data = b64encode(path.read_bytes()).decode()
    assert data.startswith("H4sI")  # packed, as its name says
    asked = "#m=dgx-a100&j=mistral-7b-lora&t=diagnose&s=gradient_accumulation%3D1"
    with Page(server.address + asked, tmp_path) as page:
        page.until("document.body.dataset.answers >= 1")
        page.ask(
            f"""(async () => {{
            const bytes = Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0));
            const t = new DataTransfer();
            t.items.add(new File([bytes], "rank0.json.gz"));
            document.getElementById("diagnose").dispatchEvent(
              new DragEvent("drop", {{ dataTransfer: t, bubbles: true }}));
            }})()"""
        )
        page.until("document.getElementById('trace-found').querySelector('figure') !== null")
        said = page.ask("document.getElementById('diagnose-said').textContent")
        assert said.startswith("rank0.json.gz: 1 step, ")
        # what was sent is less than the file, and says the same
        said = page.ask("document.getElementById('trace-said').textContent")
        assert said == lead_of(beside)
        shown = page.ask("document.getElementById('trace-found').textContent")
        assert "longest waits of the stream that computes" in shown
        largest = beside.parts[0]
        assert f"{largest.name}{duration(largest.recorded_s)}" in re.sub(r"\s*\n\s*", "", shown)
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_a_fleet_is_edited_and_a_slider_moves_its_nodes(server, tmp_path):
    with Page(server.address + "#j=mistral-7b-lora&t=fleet", tmp_path) as page:
        page.until("document.querySelector('#fleet-found figure[data-name=jobs]') !== null")
        said = "document.getElementById('fleet-said').textContent"
        assert page.ask(said).startswith("dgx-h100: 5 jobs on 4 nodes (32 GPUs), fifo")
        page.ask("document.getElementById('fleet-nodes').focus()")
        page.press("Home")
        page.until(f"{said}.includes('large-1: wants 2 nodes; the cluster has 1')")
        page.press("ArrowRight")
        page.until(f"{said}.includes('5 jobs on 2 nodes')")
        page.ask("document.querySelector('#fleet-jobs button').click()")  # the nightly ones go
        page.until(f"{said}.includes('2 jobs on 2 nodes')")
        page.ask("document.getElementById('fleet-add').click()")
        page.until(f"{said}.includes('3 jobs on 2 nodes')")
        assert "job+2" in page.ask("location.hash")
        unnamed = page.ask(
            "[...document.querySelectorAll('#fleet input, #fleet select')].filter("
            "(e) => !e.labels.length && !e.getAttribute('aria-label')).length"
        )
        assert unnamed == 0
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_on_a_phone_the_answer_is_in_sight_of_the_form(server, tmp_path):
    """A slider that is moved shows what it does, wherever the form is scrolled to."""
    with Page(server.address + "#m=dgx-h100&j=mistral-7b-lora", tmp_path, width=390) as page:
        page.until("document.body.dataset.answers >= 1")
        rect = "document.getElementById('sentence').getBoundingClientRect()"
        high = page.ask("innerHeight")
        for top in (0, 400, 100_000):
            page.ask(f"scrollTo(0, {top})")
            assert 0.7 * high < page.ask(f"{rect}.top") < page.ask(f"{rect}.bottom") <= high + 1
        last = "document.querySelector('aside').getBoundingClientRect().bottom"
        # at the end, wherever that is once all answers are there, it covers nothing
        page.until(f"(scrollTo(0, 100000), {last} <= {rect}.top)")
        assert page.console == []


@pytest.mark.usefixtures("browser")
def test_the_answer_is_printed_once_and_over_nothing(server, tmp_path):
    """A sentence that stays in sight on a phone would stand over every sheet."""
    with Page(server.address, tmp_path, width=600) as page:
        page.until("document.querySelectorAll('#figures li, .tiles li').length > 3")
        assert page.ask("getComputedStyle(document.querySelector('#sentence')).position") == "fixed"
        page.send("Emulation.setEmulatedMedia", media="print")
        assert (
            page.ask("getComputedStyle(document.querySelector('#sentence')).position") == "static"
        )
        assert page.ask("document.querySelector('.buttons').getClientRects().length") == 0


@pytest.mark.usefixtures("browser")
def test_tabs_show_where_the_keyboard_is_and_a_fleet_which_jobs_run(server, tmp_path):
    """A ring around a tab was cut off by the row that scrolls, a job's name by its column."""
    with Page(server.address, tmp_path) as page:
        page.until("document.querySelectorAll('.tiles li').length > 3")
        page.ask("document.getElementById('tab-size').focus()")
        page.press("ArrowRight")
        page.until("document.activeElement.id === 'tab-fleet'")
        ring = "parseFloat(getComputedStyle(document.activeElement).outlineOffset)"
        assert page.ask(ring) <= -3
        page.until("document.querySelectorAll('#fleet-jobs select').length > 0")
        page.ask("window.pen = document.createElement('canvas').getContext('2d')")
        free = page.ask(
            "[...document.querySelectorAll('#fleet-jobs select')].map((e) => {"
            "pen.font = getComputedStyle(e).font;"
            "return e.clientWidth - pen.measureText(e.selectedOptions[0].text).width; })"
        )
        assert min(free) > 30  # beside the name, the arrow and its padding
