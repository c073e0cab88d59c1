"""The command line from outside: exit codes, streams, formats, and what is typed wrongly."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim import cli
from sim.errors import EngineError, InfeasibleError
from tests.clock import HANG_S

ROOT = Path(__file__).parents[2]
PAIR = ("dgx-h100", "mistral-7b-lora")
QUICK = ("run", *PAIR, "--no-scaling", "--quiet")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `scaling-sim` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["scaling-sim", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def process(*arguments, cwd=ROOT, **environment):
    """Run it in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from sim.cli import main; main()", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=HANG_S, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **environment},
    )  # fmt: skip


def test_a_result_goes_to_stdout_and_exits_with_0(call):
    code, out, err = call(*QUICK)
    assert (code, err) == (0, "")
    assert "fits" in out
    assert "\x1b" not in out


def test_a_job_that_does_not_fit_is_an_answer(call):
    code, out, _ = call("run", "dgx-a100", "llama3-70b-full", "--no-scaling", "--quiet")
    assert code == 0
    assert "DOES NOT FIT: needs " in out
    said = " ".join(out.split())  # whatever its lines
    assert " GiB too much, at backward; optimizer states alone are " in said
    code, out, _ = call("run", "dgx-a100", "llama3-70b-full")
    assert "unchanged, it fits on 3 nodes (24 GPUs)" in out


def test_what_memory_bounds_has_names_that_people_use(call):
    """`--max context` was refused."""
    words = ("--max", "context", "--max", "batch_size", "--min", "gpus")
    code, out, _ = call("memory", "dgx-a100", "mistral-7b-lora", *words)
    asked = ("--max", "sequence_length", "--max", "micro_batch", "--min", "nodes")
    assert (code, out) == (0, call("memory", "dgx-a100", "mistral-7b-lora", *asked)[1])


def test_host_memory_that_does_not_suffice_is_named(call):
    _, out, _ = call("run", "h100-x1", "llama3-70b-full-offload", "--quiet")
    assert "of 186.3 GiB of host memory per node" in out
    assert "Linux would kill a rank (exit code -9)" in " ".join(out.split())
    assert " too much" not in out
    assert "offload-bound" in out


def test_memory_of_changes_is_said_to_be_the_hosts_where_that_lacks(call):
    few = ("--set", "parallelism.offload=all", "--set", "node.cpu.memory=1 GB")
    _, out, _ = call("run", "dgx-h100", "llama3-8b-sft", "--no-scaling", *few)
    assert "time per token against now; memory of the host, a node)" in " ".join(out.split())
    assert "nothing in host memory (0.0 GiB)" in out
    _, out, _ = call("run", "dgx-h100", "llama3-8b-sft", "--no-scaling", *few[:2])
    assert "memory of the host, a node" not in out


def test_host_memory_while_loading_is_named(call):
    """8 copies of 8B in fp32: 239.3 GiB."""
    copies = ("--set", "parallelism.cpu_ram_efficient_loading=false", "--quiet")
    _, out, _ = call("run", "dgx-h100", "llama3-8b-sft", *copies)
    assert "loading takes 239.3 GiB of 1862.6 GiB of host memory per node" in " ".join(out.split())
    few = ("--set", "node.cpu.memory=200 GB")
    _, out, _ = call("run", "dgx-h100", "llama3-8b-sft", *copies, *few)
    said = " ".join(out.split())
    assert "DOES NOT FIT: loading takes 239.3 GiB of 186.3 GiB of host memory per node" in said
    assert "(parallelism.cpu_ram_efficient_loading)" in said


@pytest.mark.parametrize("spoken", ["AllGather", "all-gather", "all_gather_perf"])
def test_a_collective_is_called_as_people_call_it(call, spoken):
    code, out, _ = call("collective", "dgx-h100", "--sizes", "1M:1M", "--op", spoken)
    assert code == 0
    assert out.startswith("dgx-h100: all_gather over 8 GPUs")
    assert call("collective", "dgx-h100", spoken, "--sizes", "1M:1M")[1] == out
    assert sim.collective("dgx-h100", op=spoken, sizes="1M:1M").op == "all_gather"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rnu", *PAIR), 'no verb "rnu"; did you mean "run"?'),
        (("frobnicate",), "verbs are run, "),
        (("run", "dgx-h100"), "Missing argument 'WORKLOAD...'"),
        (
            ("need", "context", "1x A100 80GB"),
            'name a job too, as in scaling-sim need context "1x A100 80GB" llama3-8b-sft',
        ),
        (("run", "mistral-7b-lora"), "as in run dgx-h100 mistral-7b-lora"),
        (("run", "dgx-h100", "dgx-a100"), "is a topology, not a workload"),
        (("run", *PAIR, "nodes=2"), "a key is set by --set nodes=2"),
        (("run", *PAIR, "--micro-batch", "2"), "write --set micro_batch=..."),
        (("run", *PAIR, "--tensor-parallel", "2"), "write --set parallelism.tensor_parallel=..."),
        (("collective", "dgx-h100", "--op", "gather"), "'all_gather', 'reduce_scatter'"),
        (("collective", "dgx-h100", "gather"), "'all_gather', 'reduce_scatter'"),
        (("collective", "dgx-h100", "all_reduce", "--op", "broadcast"), "say one"),
        (("run", *PAIR, "--fromat", "json"), "--format"),
        (("run", *PAIR, "--format", "xml"), "'table', 'csv', 'html', 'json'"),
        (("run", "dgx-h10", "mistral-7b-lora"), 'did you mean "dgx-h100"?'),
        (("run", "dgx-h100", "mistral-7b-lroa"), 'did you mean "mistral-7b-lora"?'),
        ((*QUICK, "--set", "micro_bach=2"), 'did you mean "micro_batch"?'),
        ((*QUICK, "--set", "micro_batch"), "micro_batch"),
        ((*QUICK, "--set", "nodes=0"), "0 is not at least 1"),
        ((*QUICK, "--require", "verdict=fits"), 'words in quotes: verdict == "fits"'),
        ((*QUICK, "--require", "mfu>.."), "cannot be read"),
        ((*QUICK, "-o", "no/such/folder/x"), "cannot write: No such file or directory"),
        ((*QUICK, "-o", "."), "cannot write: Is a directory"),
        (("run", ".", "mistral-7b-lora"), "is a folder"),
        (("memory", "dgx-h100", "nothing"), "no workload of that name"),
        (("collective", "dgx-h100", "--sizes", "1K:"), "sizes"),
        (("topo", "show", "dgx-h1000"), "no topology of that name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_exits_with_2_and_one_message(call, arguments, says):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (EngineError("op 3 at 0.5 s"), 1, "op 3 at 0.5 s\n"),
        (InfeasibleError("nothing fits"), 3, "nothing fits\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ],
)
def test_other_ends(call, monkeypatch, error, code, says):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(sim, "simulate", fails, raising=False)
    assert call(*QUICK) == (code, "", says)


@pytest.mark.parametrize("word", ["fits", "loose"])  # a figure of the answer, and none
def test_a_word_without_quotes_is_told_to_have_them(call, word):
    code, _, err = call("memory", *PAIR, "--require", f"verdict == {word}")
    assert code == 2
    assert f'verdict is a word, and words stand in quotes: verdict == "{word}"' in err
    code, _, err = call("memory", *PAIR, "--require", f'verdict == "{word}"')
    assert (code, err.startswith("requirement not met")) == (
        (0, False) if word == "fits" else (4, True)
    )


@pytest.mark.parametrize(
    "verb",
    [
        "run {} JOB -q",
        "memory {} JOB",
        "explain {} JOB",
        "compare {} h100-x1 JOB",
        "topo show {}",
        "size JOB --topology {} --max-gpus 8",
        "sweep {} JOB --vary micro_batch=1,2 --store OUT.sqlite",
        "collective {} --sizes 1M",
        "need price {} h100-x1 JOB",
        "prices job {} JOB",
        "config {} JOB",
        "export {} JOB --emit yaml -o OUT",
        "run JOB {}",
    ],
)
def test_every_verb_says_once_what_words_for_a_machine_are_taken_as(call, verb, tmp_path):
    words = {"{}": "8x h100", "JOB": "llama3-8b-lora", "OUT": tmp_path / "plan",
             "OUT.sqlite": tmp_path / "a.sqlite"}  # fmt: skip
    code, out, err = call(*(words.get(word, word) for word in verb.split()))
    assert code == 0, err
    said = " ".join(f"{out} {err}".split())
    assert said.count('"8x h100" is taken as dgx-h100') == 1
    assert '"h100-x1" is' not in said


def test_requirements(call):
    code, out, err = call(*QUICK, "--require", "fits", "--require", "mfu>0.1")
    assert (code, err) == (0, "")
    code, again, err = call(*QUICK, "--require", "fits", "--require", "step.time_s<0.001")
    assert code == 4
    assert err.startswith("requirement not met: step.time_s<0.001 (is ")
    assert again == out  # the result is printed all the same
    code, _, err = call("memory", "dgx-a100", "llama3-70b-full", "--require", "fits")
    assert code == 4


def test_a_figure_that_is_not_in_the_result(call):
    code, _, err = call(*QUICK, "--require", "mfuu>0.4")
    assert code == 2
    assert 'did you mean "mfu"?' in err


def test_formats_agree(call):
    _, text, _ = call("run", *PAIR, "--no-scaling", "--format", "json")
    document = json.loads(text)
    assert call("run", *PAIR, "--no-scaling", "--json")[1] == text
    _, table, _ = call("run", *PAIR, "--no-scaling", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(table))
    assert float(row["step.time_s"]) == document["step"]["time_s"]
    _, marked, _ = call("run", *PAIR, "--no-scaling", "--format", "md")
    assert f"| step.time_s | {document['step']['time_s']} |" in marked.splitlines()


def test_a_file_holds_what_stdout_would(call, tmp_path):
    _, printed, _ = call(*QUICK)
    code, out, _ = call(*QUICK, "-o", tmp_path / "r.txt")
    assert (code, out) == (0, "")
    assert (tmp_path / "r.txt").read_text() == printed


def test_every_verb_has_help(call):
    for verb in cli.VERBS:
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert out.startswith(f"Usage: scaling-sim {verb}")


def test_no_verb_of_a_group_is_described_halfway(call):
    for verb in ("need", "prices", "topo"):
        _, out, _ = call(verb, "--help")
        listed = out.partition("Commands:")[2]
        assert len(listed.splitlines()) > 2
        assert "..." not in listed


def test_the_only_file_there_is_leads_to_what_goes_with_it(call, tmp_path):
    job, machine = tmp_path / "job.yaml", tmp_path / "mine.yaml"
    job.write_text("base_model: meta-llama/Llama-3.1-8B\nsequence_len: 4096\nadapter: lora\n")
    machine.write_text("nodes: 2\nnode: {gpu: H100, gpus: 8}\n")
    code, _, told = call("run", job)
    assert code == 2
    assert "job.yaml is a job; name the machine that it runs on first, as in run dgx" in told
    assert "mine.yaml is a machine; name a job too, as in run" in call("run", machine)[2]
    assert "is a" not in call("run", tmp_path / "none.yaml")[2].partition("Error")[2]


def test_a_folder_with_a_sim_of_its_own_is_no_trap(tmp_path):
    (tmp_path / "sim").mkdir()
    (tmp_path / "sim" / "__init__.py").write_text("raise ImportError('the wrong sim')\n")
    done = process(*QUICK, cwd=tmp_path, NO_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def test_a_reader_that_stops_early_is_no_error():
    arguments = ("topo", "show", "dgx-h100", "--format", "json", "--set", "nodes=64")
    code = "from sim.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


#: as a terminal sends it, at the moment that a test is about
CTRL_C = "import os, signal\ndef ctrl_c():\n    os.kill(os.getpid(), signal.SIGINT)\n"


def interrupted(code, *arguments):
    """The program, begun by some code that interrupts it: exit code, standard output and error."""
    done = subprocess.run(
        [sys.executable, "-c", f"{CTRL_C}{code}\nfrom sim.cli import main\nmain()", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_exits_with_130():
    code = "import sim\nsim.simulate = lambda *a, **k: ctrl_c()"
    assert interrupted(code, *QUICK) == (130, "", "\ninterrupted\n")


def test_the_program_alone_begins_with_questions_that_run(call):
    code, out, err = call()
    shown = out + err
    verbs = [line.split() for line in shown.splitlines() if line.startswith("    scaling-sim ")]
    assert [words[1] for words in verbs] == ["run", "size", "diagnose", "compare", "trace"]
    assert "Does my job fit, how long will it take, what would help?" in shown
    for words in verbs:
        assert cli.group.get_command(None, words[1]) is not None
    code, out, _ = call(*verbs[0][1:], "--no-scaling")
    assert code == 0
    assert "Verdict" in out


def test_replicas_stop_on_ctrl_c():
    """Between two of them, and not only once all are drawn."""
    code = (
        "import itertools\n"
        "import sim.step.run as run\n"
        "once, count = run.jittered, itertools.count(1)\n"
        "def drawn(*a):\n"
        "    at = next(count)\n"
        "    assert at < 4, 'another is drawn'\n"
        "    if at == 3:\n        ctrl_c()\n"
        "    return once(*a)\n"
        "run.jittered = drawn\n"
    )
    arguments = ("run", "dgx-h100", "llama3-8b-sft", "--jitter", "5%", "--replicas", "5000")
    assert interrupted(code, *arguments) == (130, "", "\ninterrupted\n")


@pytest.mark.parametrize(("sent", "said"), [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")])
def test_a_search_that_is_interrupted_ends_with_what_it_found(sent, said):
    code = (
        "from sim.study.search import Searcher\n"
        "once = Searcher.plan\n"
        "def plan(*a):\n"
        "    Searcher.plan = once\n"
        f"    os.kill(os.getpid(), signal.{sent})\n"
        "    return once(*a)\n"
        "Searcher.plan = plan\n"
    )
    arguments = ("size", "llama3-8b-sft", "--topology", "dgx-h100", "--max-gpus", "64")
    code, out, err = interrupted(code, *arguments)
    assert code == 128 + signal.Signals[sent]
    told = rf"ending with what was found; {said} again ends at once\nsearched in \d+\.\d s\n"
    assert re.fullmatch(told, err)
    assert "the best so far, others may be better" in " ".join(out.split())
    assert "-> " in out


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_what_ends_it_while_a_class_is_made_ends_it(sent, code):
    """Python 3.11 raises a RuntimeError of it, which was an internal error."""
    before = (
        "class Ends:\n"
        "    def __set_name__(self, owner, name):\n"
        f"        os.kill(os.getpid(), signal.{sent})\n"
        "def main(**_):\n"
        "    class Made:\n"
        "        one = Ends()\n"
        "import sim.cli\n"
        "sim.cli.group.main = main\n"
    )
    found, _, err = interrupted(before, "run", "dgx-h100", "llama3-8b-sft")
    assert (found, "internal error" in err) == (code, False)


@pytest.mark.parametrize("written", ["inf", "nan"])
def test_a_number_has_an_end(written: str) -> None:
    done = CliRunner().invoke(cli.group, ["size", "llama3-8b-lora", "--throughput", written])
    assert done.exit_code == 2
    assert f"'--throughput': {written} is not finite" in done.output


@pytest.mark.parametrize(
    ("words", "last", "below"),
    [
        (["memory", "dgx-h100", "llama3-8b-sft"], "gradients of logits, 15.7 GiB", "allocated"),
        (["compare", "dgx-h100", "llama3-8b-lora", "--vary", "nodes=1,2"], "cost ratio", "Why"),
        (["size", "llama3-8b-lora", "--topology", "dgx-h100", "--max-gpus", "8"], "->", "Memory:"),
    ],
)
def test_quiet_leaves_the_answer_alone_and_its_document_whole(call, words, last, below):
    said, brief = (" ".join(call(*words, *more)[1].split()) for more in ([], ["-q"]))
    assert last in brief
    assert below in said
    assert below not in brief
    whole, same = (json.loads(call(*words, "--json", *more)[1]) for more in ([], ["-q"]))
    assert whole.keys() == same.keys()
