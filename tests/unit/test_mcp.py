"""An assistant's door: the four tools, called over stdio by the protocol's own client."""

import json
import signal
import subprocess
import sys

import pytest

import sim
from sim.commands import mcp as door
from sim.report.brief import LONGEST
from tests.clock import HANG_S

CALLS = {
    "run": {"topology": "dgx-h100", "workload": "mistral-7b-lora",
            "settings": ["model.layers=4", "nodes=2"]},
    "memory": {"topology": "dgx-a100", "workload": "llama3-70b-full"},
    "size": {"workload": "mistral-7b-lora", "deadline": "24h", "max_gpus": 8, "gpu": "h100"},
    "compare": {"topologies": ["dgx-a100", "dgx-h100"], "workload": "mistral-7b-lora",
                "settings": ["model.layers=4"]},
}  # fmt: skip


@pytest.mark.parametrize("tool", CALLS)
def test_answers_are_short_and_say_what_they_are(tool):
    text = getattr(door, tool)(**CALLS[tool])
    assert len(text) <= LONGEST
    assert "(estimated)" in text or "unknown" in text
    assert "not answered" not in text


def test_the_version_is_ours():
    pytest.importorskip("mcp")
    options = door.server()._mcp_server.create_initialization_options()
    assert (options.server_name, options.server_version) == ("scaling-sim", sim.__version__)


def test_changes_are_said_as_they_are_typed():
    assert "--set parallelism.offload=all: saves" in door.memory(**CALLS["memory"])


def test_what_a_plan_has_unlike_its_file_is_said():
    """An assistant that ran the job as it is got another time than the one it was told."""
    text = door.size(**CALLS["size"])
    assert "with activation_checkpointing=none, compile=true, attention=flash3" in text
    assert "15 min of setting up are in that time and cost" in text


def test_faults_come_back_as_an_answer():
    text = door.run("dgx-h10", "mistral-7b-lora")
    assert text.startswith("not answered:")
    assert 'did you mean "dgx-h100"' in text


@pytest.mark.parametrize("text", [
    "root:x:0:0:secret:/root:/bin/bash\ndaemon:x:1:1:secret\n",
    "SECRET=secret-1\nOTHER=secret-2\n",
    "".join(f"host{i}: secret-{i}\n" for i in range(50)),
    "name: secret\n" + "".join(f"host{i}: secret-{i}\nhost{i}: secret\n" for i in range(50)),
])  # fmt: skip
def test_a_file_that_is_none_of_ours_is_not_repeated(tmp_path, text):
    file = tmp_path / "passwd"
    file.write_text(text)
    for said in (door.run(str(file), "mistral-7b-lora"), door.run("dgx-h100", str(file)),
                 door.memory("dgx-h100", str(file)), door.size(str(file)),
                 door.compare(["dgx-h100", str(file)], "mistral-7b-lora")):  # fmt: skip
        assert said.startswith(f"not answered:\n{file}:1:1  ")
        assert "secret" not in said
        assert len(said.splitlines()) <= 5


def test_more_machines_than_are_compared_at_once_are_refused():
    text = door.compare(["dgx-h100"] * 1000, "mistral-7b-lora")
    assert text == "not answered:\ncompare  compares at most 32 machines at once, not 1,000"


def test_the_client_of_the_protocol_lists_and_calls():
    pytest.importorskip("mcp", reason="the mcp extra is not installed")
    import anyio
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(
        command=sys.executable, args=["-c", "from sim.cli import main; main()", "mcp"]
    )

    async def talk():
        async with stdio_client(server) as (read, write), ClientSession(read, write) as client:
            await client.initialize()
            tools = {tool.name for tool in (await client.list_tools()).tools}
            answer = await client.call_tool("run", CALLS["run"])
            loosely = {"workload": "mistral-7b-lora", "budget": 2500, "gpu": ["h100"]}
            sized = await client.call_tool("size", loosely | {"max_gpus": 8})
            assert not sized.isError
            assert "within" in sized.content[0].text or "$" in sized.content[0].text
            wrong = CALLS["run"] | {"overrides": ["nodes=2"]}
            refused = await client.call_tool("run", wrong)
            assert refused.isError
            for ours in ("-", "/dev/stdin"):  # where the protocol is spoken: no job is read there
                empty = await client.call_tool("run", CALLS["run"] | {"workload": ours})
                assert "is empty" in empty.content[0].text
            return tools, answer.content[0].text, refused.content[0].text

    tools, text, refused = anyio.run(talk)
    assert "takes no overrides; it takes topology, workload, settings" in refused
    assert tools == set(CALLS)
    assert "fits" in text
    assert "(estimated)" in text


HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2024-11-05", "capabilities": {},
               "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip


@pytest.fixture
def served():
    """The server as a process that has answered once."""
    pytest.importorskip("mcp", reason="the mcp extra is not installed")
    argv = [sys.executable, "-c", "from sim.cli import main; main()", "mcp"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        child.stdin.write(json.dumps(HELLO) + "\n")
        child.stdin.flush()
        assert '"protocolVersion"' in child.stdout.readline()
        yield child
        child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_though_a_thread_waits_for_input(served, number):
    served.send_signal(number)
    assert served.wait(HANG_S) == 128 + number
    assert served.stderr.read() == ""


def test_an_assistant_that_goes_is_no_fault_of_ours(served):
    served.stdout.close()
    served.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}) + "\n")
    served.stdin.close()
    assert served.wait(HANG_S) == 0
    assert "internal error, a fault" not in served.stderr.read()
