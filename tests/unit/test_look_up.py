"""Verbs that need no machine: list, show, init, diff, doctor, completion; --require and JUnit."""

import ast
import json
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

import sim
from sim.choices import ENTRY_KINDS, entry_kind
from sim.cli import VERBS, group
from sim.errors import InputError
from sim.inputs import catalogue, models
from sim.inputs.codes import codes
from sim.inputs.entries import KINDS


def call(*arguments):
    return CliRunner().invoke(group, arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_and_filtered(kind):
    whole = sim.entries(kind)
    assert len(whole.rows) > 5
    name = whole.rows[-1]["name"]
    found = sim.entries(kind, name.upper().replace("-", " ")).rows
    assert name in {row["name"] for row in found}
    assert len(found) < len(whole.rows)
    done = call("list", kind)
    assert done.exit_code == 0
    assert name in done.stdout


@pytest.mark.parametrize(
    ("said", "kind"),
    [("topologies", "machines"), ("workload", "jobs"), ("GPU", "gpus"), ("strategy", "strategies")],
)
def test_kinds_are_listed_by_what_else_they_are_called(said, kind):
    assert call("list", said).stdout == call("list", kind).stdout != ""
    assert sim.entries(said).to_json() == sim.entries(kind).to_json()


def test_kinds_that_can_be_named_are_those_that_there_are():
    assert tuple(KINDS) == ENTRY_KINDS == tuple(map(entry_kind, ENTRY_KINDS))
    for none in ("", "s", "gpuss"):
        with pytest.raises(sim.InputError, match=f'"{none}" is not one of models, gpus'):
            sim.entries(none)


def test_lists_have_everything():
    assert [r["name"] for r in sim.entries("gpus").rows] == list(catalogue.gpu_names())
    assert [r["name"] for r in sim.entries("models").rows] == list(models.model_names())
    assert all(r["about"] for kind in ("machines", "strategies") for r in sim.entries(kind).rows)


@pytest.mark.parametrize(("word", "kind", "line"), [
    ("A100 80GB", "gpu", "architecture: ampere"), ("h100", "gpu", "memory: 79.6 GiB"),
    ("h100", "gpu", "power_limit: 700 W"), ("DGX H100", "machine", "name: dgx-h100"),
    ("meta-llama/Llama-3.1-8B-Instruct", "model", "layers: 32"),
    ("dgx-h100", "machine", "name: dgx-h100"), ("llama3-8b-sft", "job", "name: llama3-8b-sft"),
    ("fsdp2", "strategy", "# `fully_shard`."),
])  # fmt: skip
def test_an_entry_is_shown(word, kind, line):
    found = sim.entry(word)
    assert found.kind == kind
    assert line in found.lines
    assert line in call("show", word).stdout


def test_what_is_not_there_is_said():
    with pytest.raises(InputError, match=r'called "lama-3-8b"; did you mean "llama-3-8b"'):
        sim.entry("lama-3-8b")
    with pytest.raises(InputError, match=r'did you mean "llama-3-70b" or "llama-3-8b" or .* more'):
        sim.entry("llama3")
    with pytest.raises(InputError, match="is not one of models, gpus"):
        sim.entries("things")
    with pytest.raises(InputError, match=r'no topology is called "dgx-h10"; did you mean'):
        sim.init("dgx-h10")


def test_init_writes_files_that_run_and_are_valid(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    done = call("init", str(tmp_path), "--machine", "aws-p5", "--job", "mistral-7b-lora")
    assert done.exit_code == 0, done.output
    loaded = sim.config(tmp_path / "topology.yaml", tmp_path / "workload.yaml")
    assert (loaded.topology, loaded.workload) == ("aws-p5", "mistral-7b-lora")
    for side in ("topology", "workload"):
        first = (tmp_path / f"{side}.yaml").read_text().splitlines()[0]
        assert first == f"# yaml-language-server: $schema={side}.schema.json"
        schema = json.loads((tmp_path / f"{side}.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(schema)
    assert isinstance(call("init", str(tmp_path)).exception, InputError)


def test_diff_of_two_results(tmp_path):
    for name, step, gpus in (("a", 2.0, 8), ("b", 2.5, 8)):
        document = {"schema": "scaling-sim/result/1", "step": {"time_s": step}, "gpus": gpus,
                    "verdict": name}  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    found = sim.diff(tmp_path / "a.json", tmp_path / "b.json")
    assert [(r["key"], r["change"]) for r in found.rows] == [
        ("step.time_s", 0.25), ("verdict", None),
    ]  # fmt: skip
    assert found.same == 2
    assert (
        sim.diff(tmp_path / "a.json", tmp_path / "b.json", tolerance="30 %").rows
        == (found.rows[1:])
    )
    page = call("diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--format", "md")
    assert "| step.time_s | 2 | 2.5 | +25.00 % |" in page.stdout
    (tmp_path / "c.json").write_text('{"schema": "scaling-sim/memory/1"}')
    with pytest.raises(InputError, match="is a scaling-sim/memory/1"):
        sim.diff(tmp_path / "a.json", tmp_path / "c.json")
    (tmp_path / "d.json").write_text("[")
    with pytest.raises(InputError, match="is no JSON document"):
        sim.diff(tmp_path / "a.json", tmp_path / "d.json")


def test_doctor_and_completion():
    parts = {row["name"]: row["found"] for row in sim.doctor().parts}
    assert parts["numpy"]
    assert int(parts["models"]) == len(models.model_names())
    for shell in ("bash", "zsh", "fish"):
        assert "_SCALING_SIM_COMPLETE" in call("completion", shell).stdout


def test_requirements_with_words_units_and_junit(tmp_path):
    file = tmp_path / "r.xml"
    quick = ["run", "dgx-h100", "mistral-7b-lora", "-q", "--set", "model.layers=2", "--junit",
             str(file)]  # fmt: skip
    assert call(*quick, "--require", "fits and step.time_s < 1 min and mfu > 1 %").exit_code == 0
    assert ElementTree.parse(file).getroot().attrib["failures"] == "0"
    done = call(*quick, "--require", "mfu > 99 %")
    assert done.exit_code == 4
    assert "requirement not met: mfu > 99 % (is 0." in done.stderr
    suite = ElementTree.parse(file).getroot()
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("1", "1")
    bad = call(*quick, "--require", "mfu > 3 parsecs")
    assert '"3 parsecs" is no quantity' in str(bad.exception)
    memory = ["memory", "dgx-h100", "mistral-7b-lora", "--set", "model.layers=2", "--require"]
    assert call(*memory, "needed_bytes < 80 GiB and fits").exit_code == 0
    assert call(*memory, "needed_bytes < 1 MiB").exit_code == 4


def verbs():
    """Every command with its name; those of groups too."""
    for verb in VERBS:
        command = group.get_command(click.Context(group), verb)
        yield from {verb: command, **getattr(command, "commands", {})}.items()


def test_every_verb_that_answers_takes_requirements():
    options = {name: {o for p in c.params for o in p.opts} for name, c in verbs()}
    answers = {name for name, those in options.items() if "--json" in those}
    assert len(answers) > 25
    assert {name for name in answers if "--junit" not in options[name]} == {"sweep"}


@pytest.mark.parametrize(("line", "condition", "told"), [
    ("prices list --gpu h100-sxm", "rows.count > 1000", "rows.count > 1000 (is "),
    ("explain flash3", 'code == "flash2"', "(is flash3)"),
    ("need context h100-x1 llama3-8b-lora", "value < 10", "value < 10 (is "),
    ("collective dgx-h100 --sizes 1G", "rows.count == 2", "rows.count == 2 (is 1)"),
    ("show h100", 'kind == "gpu" and name == "a100-sxm-80gb"', "kind is gpu, name is h100-sxm"),
])  # fmt: skip
def test_other_verbs_are_held_too(line, condition, told):
    done = call(*line.split(), "--require", condition)
    assert done.exit_code == 4, done.output
    assert told in done.stderr


def test_a_name_that_stands_for_two_figures_or_none():
    config = ["memory", "dgx-h100", "mistral-7b-lora", "--set", "model.layers=2", "--require"]
    assert "the result has no " in str(call(*config, "speed > 1").exception)
    assert "more, which --json shows" in str(call(*config, "speed > 1").exception)
    result = ["run", "dgx-h100", "mistral-7b-lora", "-q", "--set", "model.layers=2", "--require"]
    assert "write the whole name" in str(call(*result, "name == 3").exception)


SIM = Path(sim.__file__).parent


def test_every_code_has_one_text_and_every_text_a_code():
    texts = {code.code for code in codes()}
    trees = [ast.parse(path.read_text()) for path in SIM.rglob("*.py")]
    raised, words = set(), set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            first = node.args[0]
            if node.func.id in {"fault", "warning", "Message"} and isinstance(first, ast.Constant):
                raised.add(first.value)
    assert raised <= texts
    assert len(raised) > 100
    assert {t for t in texts if t not in words and t.removeprefix("memory.") not in words} == set()


def test_a_code_is_explained():
    assert sim.explain_code("[flash3]").title == "FlashAttention-3 off Hopper"
    assert "wgmma" in call("explain", "flash3").stdout
    with pytest.raises(InputError, match=r'no code; did you mean "no-nvlink"'):
        sim.explain_code("no-nvlnk")
    with pytest.raises(InputError, match=r"write flash2 \[flash3\]$"):
        sim.config("dgx-a100", "llama3-8b-sft", overrides=["attention=flash3"])


@pytest.mark.parametrize(("line", "offered"), [
    ("run dgx-h", ["dgx-h100", "dgx-h200", ("file", "dgx-h")]),
    ("run dgx-h100 llama3-405",
         ["llama3-405b", "llama3-405b-54-days", ("file", "llama3-405")]),
    ("run dgx-h100 x --set parallelism.offl",
     ["parallelism.offload=", "parallelism.offload_device="]),
    ("memory d x --set node.gpu.idle", ["node.gpu.idle_power="]),
    ("run d x --set data", ["data=", "data."]),
    ("explain no-nvl", ["no-nvlink", "no-nvls", ("file", "no-nvl")]),
    ("size x --gpu h200", ["h200-nvl-141gb", "h200-sxm-141gb"]),
    ("show fsdp", ["fsdp1", "fsdp2", ("file", "fsdp")]), ("sup", ["support"]),
])  # fmt: skip
def test_a_shell_completes_names_files_and_keys(line, offered, monkeypatch):
    words = line.split()
    monkeypatch.setenv("COMP_WORDS", f"scaling-sim {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    from click.shell_completion import BashComplete

    found = BashComplete(group, {}, "scaling-sim", "_X").get_completions(words[:-1], words[-1])
    got = [item.value if item.type == "plain" else (item.type, item.value) for item in found]
    assert got == offered


def test_a_model_where_a_job_is_expected_leads_to_its_option(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 4096}')
    with pytest.raises(InputError, match=r"config\.json of a model"):
        sim.simulate("dgx-h100", path)


def test_machines_and_jobs_are_found_as_people_write_them():
    found = sim.memory_of("DGX H100", "Llama3_8B_LoRA")
    assert found == sim.memory_of("dgx-h100", "llama3-8b-lora")
