"""The live page: who may ask, how much, what is answered, what is never read, how it stops."""

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import sim
from sim.documents import plain
from sim.errors import TOLD
from sim.serve import workers
from sim.serve.answers import answer
from sim.serve.app import openapi
from sim.serve.guard import MOST_BYTES, Guard
from sim.serve.requests import BODIES
from tests.clock import HANG_S
from tests.unit.serving import JOB, Server

ROOT = Path(__file__).parents[2]


#: a worker that answers at once, but where it is asked to hang
HANGS = f"""
import sys, time
if "spawn_main" in str(sys.orig_argv):
    from sim.serve import answers
    usual = answers.answer
    def answer(verb, body):
        return time.sleep({HANG_S}) if body["workload"] == "hang" else usual(verb, body)
    answers.answer = answer
"""


@pytest.fixture
def hasty(tmp_path):
    """A server that ends a request after three seconds."""
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    made = Server(3, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    yield made
    made.close()


def test_figures_are_those_of_the_program(server):
    status, found = server.run(overrides=["nodes=2"])
    assert status == 200
    result = sim.simulate(**JOB, overrides=["nodes=2"], scaling=False, fixes=False)
    assert found["document"] == result.to_dict()
    assert "--set nodes=2" in found["copies"]["cli"]
    assert set(found["html"]) == {"tiles", "further", "parts", "memory"}


def test_what_is_copied_runs_to_the_same(server, tmp_path):
    _, found = server.run(overrides=["nodes=2", "micro_batch=2"])
    first, second = found["copies"]["yaml"].split("# workload.yaml\n")
    (tmp_path / "t.yaml").write_text(first)
    (tmp_path / "w.yaml").write_text(second)
    again = sim.simulate(tmp_path / "t.yaml", tmp_path / "w.yaml", scaling=False, fixes=False)
    assert again.step.time_s == pytest.approx(found["document"]["step"]["time_s"], rel=1e-9)
    told = {}
    exec(found["copies"]["python"].replace("print(", "dict(").split("dict(")[0], told)
    assert told["result"].inputs_hash == found["document"]["inputs_hash"]


def test_one_case_is_held_against_another(server):
    status, found = server.run(beside={**JOB, "overrides": ["micro_batch=1"]})
    assert status == 200
    assert found["beside"]["memory"] > 1.0
    assert "GPU time for each token" in found["html"]["parts"]


def test_slow_parts_are_those_of_the_program(server):
    slow = ["link:n0/gpu2<>n0/nvswitch=0.25", "rank:3=0.8"]
    status, found = server.run(slow=slow)
    assert status == 200
    result = sim.simulate(**JOB, slow=slow, scaling=False, fixes=False)
    assert found["document"] == result.to_dict()
    whole = server.run()[1]["document"]["step"]["time_s"]
    assert found["document"]["step"]["time_s"] > 1.05 * whole
    assert found["copies"]["cli"].endswith("'link:n0/gpu2<>n0/nvswitch=0.25' --slow rank:3=0.8")
    told = {}
    exec(found["copies"]["python"].rpartition("print(")[0], told)
    assert told["result"].step.time_s == result.step.time_s
    status, found = server.run(slow=["link:n0/gpu2<>n9/nvswitch=0.25"])
    assert status == 422
    assert "no such link" in found["faults"][0]["message"]


def test_a_slow_link_is_drawn_as_what_holds_the_ring(server):
    body = {**JOB, "slow": ["link:n0/gpu2<>n0/nvswitch=0.5"], "what": "machine"}
    found = json.loads(server.ask("/api/draw", body)[2])
    assert found["sentence"] == (
        "A ring over all 8 GPUs gives 185 GB/s; n0/gpu2>n0/nvswitch is what holds it."
    )
    assert 'data-link="n0/gpu2&lt;&gt;n0/nvswitch" data-share="0.5"' in found["html"]["machine"]
    links = {(row["from"], row["to"]): row for row in found["document"]["links"][0]}
    slow, whole = links["n0/gpu2", "n0/nvswitch"], links["n0/gpu1", "n0/nvswitch"]
    assert slow["bytes_per_s"] == pytest.approx(whole["bytes_per_s"] / 2)
    assert (slow["use"], whole["use"]) == (1.0, pytest.approx(0.5))


def test_a_search_has_a_process_of_its_own(server):
    body = {"workload": "mistral-7b-lora", "max_gpus": 8, "provider": ["nebius"]}
    status, _, text = server.ask("/api/size", body)
    found = json.loads(text)
    assert status == 200
    plans = found["plans"]
    assert len(plans) > 2
    best = found["document"]["winner"]
    assert (plans[0]["seconds"], plans[0]["usd"]) == (best["wall_clock_s"], best["cost_usd"])


FLEET = {
    "topology": "dgx-h100", "overrides": ["nodes=3"],
    "jobs": [
        {"name": "a", "workload": "mistral-7b-lora", "count": 2, "every": "1 h", "deadline": "6 h"},
        {"name": "b", "workload": "mistral-7b-lora", "nodes": 2, "arrival": "30 min"},
    ],
}  # fmt: skip


def test_jobs_share_a_cluster_as_a_file_of_them_does(server, tmp_path):
    status, _, text = server.ask("/api/plan", {**FLEET, "policy": "sjf"})
    assert status == 200
    found = json.loads(text)
    jobs = tmp_path / "jobs.yaml"
    jobs.write_text(json.dumps({"jobs": FLEET["jobs"]}))
    same = sim.plan("dgx-h100", jobs, policy="sjf", overrides=["nodes=3"])
    assert found["document"] == same.to_dict()
    assert 'data-name="jobs"' in found["html"]["plan"]
    assert found["document"]["jobs"][0]["name"] == "a-1"
    for wrong, said in (
        ({"overrides": ["nodes=1"]}, "wants 2 nodes; the cluster has 1"),
        ({"jobs": [{"name": "a", "workload": "/etc/passwd"}]}, "pattern"),
        ({"jobs": [{"name": "a", "workload": "nothing"}]}, "'nothing' is not shipped"),
        ({"jobs": [{**FLEET["jobs"][0], "every": "soon"}]}, "soon"),
        ({"jobs": []}, "at least 1"),
    ):
        status, _, text = server.ask("/api/plan", FLEET | wrong)
        assert status == 422
        assert said in text


@pytest.mark.parametrize(
    "field",
    [
        {"topology": "/etc/passwd"}, {"topology": "../topologies/dgx-h100.yaml"},
        {"workload": "file:///etc/passwd"}, {"overrides": ["model=/etc/hostname"]},
        {"overrides": ["model=../../README.md"]}, {"overrides": ["model=file:///etc/passwd"]},
        {"workload": {"name": "x", "model": "/etc/passwd", "sequence_length": 1024}},
        {"topology": "-"},
    ],
)  # fmt: skip
def test_no_field_leads_to_a_file(server, field):
    status, found = server.run(**field)
    assert status == 422
    told = json.dumps(found)
    assert "root:" not in told
    # and no field says whether there is one
    other = json.loads(json.dumps(field).replace("passwd", "n0ne").replace("hostname", "n0ne"))
    _, absent = server.run(**other)
    assert json.dumps(absent).replace("n0ne", "") == (
        told.replace("passwd", "").replace("hostname", "")
    )


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/api/run", JOB, {"Authorization": "Bearer wrong"}, 401),
        ("/api/run", JOB, {"Authorization": "", "Cookie": "\x7f; ="}, 401),
        ("/?token=wrong", None, {"Authorization": ""}, 401),
        ("/api/run", JOB, {"Host": "evil.example"}, 421),
        ("/api/run", JOB, {"Origin": "https://evil.example"}, 403),
        ("/api/run", JOB, {"Content_Type": "text/plain"}, 415),
        ("/api/run", b"{", {}, 400),
        ("/api/run", b"[" * 100_000, {}, 400),
        *(("/api/run", b'{"topology":%s,"workload":"x"}' % (b"[" * n + b"]" * n), {}, status)
          for n, status in ((100, 422), (900, 400))),
        ("/api/run", b"[1]", {}, 400),
        ("/api/run", b" " * (MOST_BYTES + 1), {}, 413),
        ("/api/run", gzip.compress(b" " * (1 << 25), mtime=0), {"Content_Encoding": "gzip"}, 413),
        ("/api/run", gzip.compress(b"{}", mtime=0)[:-9], {"Content_Encoding": "gzip"}, 400),
        ("/api/run", b"{}", {"Content_Encoding": "gzip"}, 400),
        ("/api/run", b"{}", {"Content_Encoding": "br"}, 400),
        ("/api/trace", {**JOB, "recorded": [[]]}, {}, 422),
        ("/api/trace", {**JOB, "recorded": {"traceEvents": {}}}, {}, 422),
        ("/api/nothing", JOB, {}, 404),
        ("/assets/..%2fapp.py", None, {}, 404),
        ("/assets/app.py", None, {}, 404),
    ],
)  # fmt: skip
def test_others_and_too_much_are_turned_away(server, path, body, headers, status):
    found, _, text = server.ask(path, body, **headers)
    assert found == status
    assert json.loads(text)["faults"][0]["message"]


def test_faults_of_two_fields_say_which_is_which():
    asked = {"workload": "mistral-7b-lora", "budget": "50k", "deadline": "24"}
    status, found = answer("size", asked)
    assert status == 422
    assert {f["path"] for f in found["faults"]} == {"budget", "deadline"}


def test_of_very_many_faults_the_first_are_told(server):
    ours = {"node": {"gpu": "H100", "gpus": 8}}  # else it is another kind of file, and one fault
    status, found = server.run(topology=ours | {f"k{place}": place for place in range(500)})
    assert status == 422
    assert len(found["faults"]) == TOLD + 1
    assert found["faults"][-1]["message"] == f"and {500 - TOLD} more"


def test_every_answer_says_what_a_page_may_do(server):
    for path in ("/", "/assets/live.js", "/api/catalogue"):
        status, headers, _ = server.ask(path)
        assert status == 200
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    _, _, page = server.ask("/")
    assert "<script>" not in page
    assert "style=" not in page


def test_the_address_gives_a_cookie_and_keeps_no_token(server):
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(Stay).open(server.address)
    headers = caught.value.headers
    caught.value.close()
    assert (caught.value.code, headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]


def test_what_takes_too_long_is_ended_and_the_next_is_answered(hasty):
    status, found = hasty.run(workload="hang")
    assert (status, found["faults"][0]["message"]) == (503, "took longer than 3 s")
    # beside other programs the next may take three seconds, too: one of those that follow does not
    assert any(hasty.run()[0] == 200 for _ in range(100))


def test_the_api_describes_itself(server):
    _, _, text = server.ask("/api/openapi.json")
    assert json.loads(text) == openapi()
    assert {p.rpartition("/")[2] for p, v in openapi()["paths"].items() if "post" in v} == {*BODIES}
    for name in ("RunBody", "SizeBody", "PlanBody", "SharedJob", "DiagnoseBody", "DrawnBody"):
        assert openapi()["components"]["schemas"][name]["additionalProperties"] is False


def test_the_examples_of_the_api_are_answered(server):
    schema = openapi()["components"]["schemas"]["DegradedBody"]["properties"]
    (slow,) = schema["slow"]["examples"]
    (overrides,) = schema["overrides"]["examples"]
    status, found = server.run(**JOB | {"slow": slow, "overrides": overrides})
    assert status == 200, found


def test_a_recorded_step_is_compared_as_the_program_does(server, tmp_path):
    trace = sim.trace(**JOB, overrides=["gradient_accumulation=1"]).to_dict()
    path = tmp_path / "t.json"
    path.write_text(json.dumps(trace), encoding="utf-8")
    asked = {**JOB, "topology": "dgx-a100", "recorded": trace, "name": "t.json"}
    packed = gzip.compress(json.dumps(asked).encode())
    status, _, text = server.ask("/api/trace", packed, Content_Encoding="gzip")
    assert status == 200, text
    told = json.loads(text)["document"]
    assert told == plain(sim.trace_diff(path, "dgx-a100", "mistral-7b-lora").to_dict())
    assert len(told["waits"]["recorded"]) == 3


def test_it_stops_when_it_is_told(hasty):
    hasty.process.send_signal(signal.SIGINT)
    assert hasty.process.wait(HANG_S) == 0


def test_a_slow_or_hasty_client_waits():
    async def never():
        await asyncio.sleep(HANG_S)

    async def fine(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(guard, receive):
        told = []

        async def send(message):
            told.append(message)

        scope = {"type": "http", "path": "/", "query_string": b"",
                 "headers": [(b"host", b"h:1"), (b"authorization", b"Bearer t")]}  # fmt: skip
        await guard(scope, receive, send)
        return told[0]["status"]

    async def whole():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def both():
        slow = Guard(fine, "t", ["h:1"], body_s=0.05)
        assert await ask(slow, never) == 408
        hasty = Guard(fine, "t", ["h:1"], rate=0.0, burst=3)
        return [await ask(hasty, whole) for _ in range(4)]

    assert asyncio.run(both()) == [200, 200, 200, 429]


def test_without_the_extra_it_says_so(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')\n")
    done = subprocess.run(
        [sys.executable, "-m", "sim", "serve"], capture_output=True, text=True, timeout=HANG_S,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "scaling-sim[serve]" in done.stderr


def test_workers_that_fail_to_start_are_started_by_the_next_that_asks(monkeypatch):
    starts = []

    class Stub:
        answered = 0

        def __init__(self):
            starts.append(self)

        def ready(self):
            if len(starts) == 1:
                raise EOFError

        def ask(self, *_):
            return 200, b"{}"

        def end(self):
            pass

    monkeypatch.setattr(workers, "_ServeWorker", Stub)

    async def twice():
        pool = workers.Workers(1, 1.0, 1)
        with pytest.raises(EOFError):
            await pool.ask("run", {})
        return await asyncio.wait_for(pool.ask("run", {}), 5)

    assert asyncio.run(twice()) == (200, b"{}")


def test_who_does_not_end_the_head_of_a_request_is_let_go(server):
    address = urllib.parse.urlparse(server.base)
    known = f"Host: {address.netloc}\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    whole = f"GET /api/catalogue HTTP/1.1\r\n{known}".encode()
    begun = (b"", b"GET / HTTP/1.1\r\nHo", whole + b"GET / HT")
    place = address.hostname, address.port
    with ExitStack() as opened:
        lines = [opened.enter_context(socket.create_connection(place, HANG_S)) for _ in begun]
        for line, said in zip(lines, begun, strict=True):
            line.sendall(said)
        heard = [b"".join(iter(lambda line=line: line.recv(65536), b"")) for line in lines]
    assert [said[:12] for said in heard] == [b"", b"", b"HTTP/1.1 200"]
    assert server.run()[0] == 200


def test_a_machine_beyond_what_a_request_has_time_for_is_refused():
    status, found = answer("run", {**JOB, "overrides": ["nodes=30000"]})
    assert status == 422
    assert "240,000 GPUs; this page takes 65,536 at most" in found["faults"][0]["message"]
