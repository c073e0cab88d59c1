"""Other tools' files as jobs: every key that is mapped, joined files, contradictions."""

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.errors import InputError
from sim.inputs.arguments import given
from sim.inputs.loader import load, load_workload
from sim.inputs.trainer import reduces_each
from tests.trainer_files import (
    ACCELERATE,
    AXOLOTL,
    FACTORY,
    FILES,
    OPEN,
    TORCHTUNE,
    WANTED,
    ZERO,
    write_files,
)

EXAMPLES = Path(__file__).parents[3] / "shared" / "users" / "examples"
FOLDERS = (
    "axolotl",
    "llamafactory",
    "accelerate",
    "deepspeed",
    "peft",
    "torchtitan",
    "slurm",
    "k8s",
)


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def value(spec, path):
    for key in path.split("."):
        spec = getattr(spec, key)
    return spec


@pytest.mark.parametrize("tool", WANTED)
def test_every_key_is_taken(tool, files):
    job = load_workload(files / FILES[tool][0], OPEN.get(tool, ()))
    assert {path: value(job, path) for path in WANTED[tool]} == WANTED[tool]


@pytest.mark.parametrize("tool", WANTED)
def test_the_written_workload_is_the_same_job(tool, files):
    found = sim.import_job(files / FILES[tool][0])
    (files / "job.yaml").write_text(found.yaml)
    sets = [*OPEN.get(tool, ()), "name=x"]
    direct = load_workload(files / FILES[tool][0], sets)
    again = load_workload(files / "job.yaml", sets)
    assert again.model_copy(update={"model": direct.model}) == direct
    assert again.model.name == direct.model.name


@pytest.mark.parametrize(("tool", "gpus", "nodes"), [
    ("accelerate", 16, 2), ("sbatch", 16, 2), ("kubernetes", 32, 4), ("axolotl", None, None),
    ("megatron", 16, 2),
])  # fmt: skip
def test_gpus_of_a_launch(tool, gpus, nodes, files):
    found = sim.import_job(files / FILES[tool][0])
    assert (found.gpus, found.nodes) == (gpus, nodes)


def test_a_job_for_other_gpus_says_so(files):
    notes = load("dgx-h100", files / "job.sbatch").notes
    world = next(w for w in notes.warnings if w.code == "world")
    assert "for 16 GPUs; dgx-h100 has 8" in world.message
    assert world.hint == "add --set nodes=2"
    codes = {w.code for w in load("dgx-h100", files / "job.sbatch", ["nodes=2"]).notes.warnings}
    assert "world" not in codes


def test_what_cannot_be_followed_is_a_warning(files):
    notes = load("dgx-h100", files / "a.yml").notes
    said = [w.message for w in notes.warnings if w.code == "not-followed"]
    assert any("a.yml:3: load_in_8bit: 8-bit weights are not modelled" in m for m in said)
    found = sim.import_job(files / "a.yml")
    assert [a["theirs"] for a in found.aside if a["why"].startswith("no key")] == ["some_new_key"]


def test_files_of_one_job_are_joined(files):
    """The order does not matter; what one leaves open, another says."""
    (files / "ds_auto.json").write_text(json.dumps({
        "train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 2},
        "bf16": {"enabled": "auto"},
    }))  # fmt: skip
    parts = (files / "ds_auto.json", files / "lf.yaml")
    job = load_workload(parts)
    assert (job.parallelism.strategy, job.micro_batch) == ("zero2", 1)
    assert load_workload(parts[::-1], ["name=x"]) == load_workload(parts, ["name=x"])


def test_two_jobs_of_ours_are_not_files_of_one_job():
    words = [sys.executable, "-m", "sim", "size", "llama3-8b-sft", "mistral-7b-lora"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "llama3-8b-sft.yaml  is a job of its own; only a trainer's files" in done.stderr


def test_a_file_that_another_names_is_read(files):
    (files / "lf.yaml").write_text(FACTORY + "deepspeed: ds.json\n")
    with pytest.raises(InputError, match=r"gradient_accumulation.*make them agree"):
        load_workload(files / "lf.yaml")
    (files / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert load_workload(files / "lf.yaml").parallelism.strategy == "zero3"
    (files / "lf.yaml").write_text(FACTORY + "deepspeed: conf/ds_z3_offload_config.json\n")
    knobs = load_workload(files / "lf.yaml").parallelism
    assert (knobs.strategy, knobs.offload) == ("zero3", "all")
    (files / "lf.yaml").write_text(FACTORY + "deepspeed: conf/mine.json\n")
    with pytest.raises(InputError, match=r'lf\.yaml:19:.*"conf/mine\.json" is not here'):
        load_workload(files / "lf.yaml")


def test_contradictions_name_both_places(files):
    (files / "acc.yaml").write_text(ACCELERATE.replace("bf16", "fp16"))
    with pytest.raises(InputError) as caught:
        load_workload((files / "lf.yaml", files / "acc.yaml"))
    text = str(caught.value)
    assert "mixed_precision makes precision.kind fp16" in text
    assert "lf.yaml:15:7 makes it bf16; make them agree" in text


def test_stage_2_keeps_its_parameters_on_the_gpu(tmp_path):
    """DeepSpeed offloads parameters in stage 3 alone; that was an internal error."""
    zero = {"stage": 2, "offload_param": {"device": "cpu"}}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"train_micro_batch_size_per_gpu": 2, "zero_optimization": zero}))
    found = sim.import_job(file)
    assert "offload" not in found.yaml
    assert ("zero_optimization.offload_param", "stage 3 alone has it") in [
        (row["theirs"], row["why"]) for row in found.aside
    ]


def test_global_batch_and_world_are_reconciled(files):
    both = {**ZERO, "train_batch_size": 128}
    (files / "ds.json").write_text(json.dumps(both))
    sets = OPEN["deepspeed"]
    with pytest.raises(InputError, match="4 x 16 sequences are not 128; write 8"):
        load("dgx-h100", files / "ds.json", sets)
    assert load("dgx-h100", files / "ds.json", [*sets, "nodes=2"]).workload.global_batch == 128
    del both["gradient_accumulation_steps"]
    (files / "ds.json").write_text(json.dumps(both))
    assert load("dgx-h100", files / "ds.json", sets).workload.gradient_accumulation == 8


def test_what_is_missing_says_how_to_add_it(files):
    with pytest.raises(InputError) as caught:
        load("dgx-h100", files / "acc.yaml")
    text = str(caught.value)
    assert "model: is missing in an accelerate file; add --set model=..., or name the file" in text


@pytest.mark.parametrize(
    ("text", "epochs"),
    [(AXOLOTL.replace("max_steps: 100\n", ""), 3.0),
     (AXOLOTL.replace("max_steps: 100\nnum_epochs: 3\n", ""), 1.0),
     ("model_name_or_path: Qwen/Qwen3-4B\nmax_length: 2048\nbf16: true\n"
      "per_device_train_batch_size: 4\n", 3.0),
     (TORCHTUNE.replace("max_steps_per_epoch: 50", "max_steps_per_epoch: null"), 2.0)],
    ids=["written", "axolotl's default", "transformers' default", "torchtune's recipe"],
)  # fmt: skip
def test_epochs_of_a_file_repeat_the_samples_that_a_user_adds(text, epochs, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    found = sim.simulate("dgx-h100", path, samples=9000, scaling=False, fixes=False)
    assert found.job.tokens == 9000 * epochs * found.workload.sequence_length


def test_files_in_the_other_order_are_read_as_meant(files):
    assert load(files / "trl.yaml", "dgx-h100") == load("dgx-h100", files / "trl.yaml")
    swapped = load("llama3-8b-sft", "dgx-h100")
    assert (swapped.topology.name, swapped.workload.name) == ("dgx-h100", "llama3-8b-sft")


@pytest.mark.parametrize(("name", "text", "message"), [
    ("config.py", "x = 1\n", "is Python, which is not run here"),
    ("a.yml", AXOLOTL.replace("micro_batch_size: 2", "micro_batch_size: two"),
     r'a\.yml:11:\d+  micro_batch_size: "two" is no number'),
    ("a.yml", AXOLOTL.replace("bf16: auto", "bf16: maybe"), '"maybe" is not true or false'),
    ("a.toml", "[training\n", "not TOML"),
    ("a.json", '{"a":\t1,}', r"a\.json:1:\d+  not JSON"),
    ("acc.yaml", ACCELERATE.replace(": FSDP\n", ": XLA\n"), "XLA is not modelled; FSDP"),
])  # fmt: skip
def test_faults_stand_at_their_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        sim.import_job(tmp_path / name)


def test_import_writes_and_never_overwrites(files):
    run = lambda *args: CliRunner().invoke(group, ["import", str(files / "a.yml"), *args])  # noqa: E731
    target = files / "new" / "job.yaml"
    done = run("-o", str(target))
    assert done.exit_code == 0, done.output
    assert "changes the run, and is not followed" in done.stdout
    assert target.read_text().startswith("# a, read by scaling-sim from an axolotl file\n")
    again = run("-o", str(target))
    assert isinstance(again.exception, InputError)
    assert run("-o", str(target), "--force").exit_code == 0


def test_without_a_file_only_the_workload_goes_to_standard_output(files, tmp_path):
    done = CliRunner().invoke(group, ["import", str(files / "a.yml")])
    assert "changes the run, and is not followed" in done.stderr
    path = tmp_path / "job.yaml"
    path.write_text(done.stdout)
    written = sim.import_job(files / "a.yml").yaml
    assert path.read_text().rstrip() == written.rstrip()
    assert load_workload(path).name == "a"


@pytest.mark.parametrize(
    ("script", "model", "strategy"),
    [
        ("NPROC_PER_NODE=8 \\\nswift sft \\\n  --model Qwen/Qwen2.5-32B --train_type lora \\\n"
         "  --max_length 2048 --deepspeed zero3\n", "qwen2.5-32b", "zero3"),
        ("trl sft --model_name_or_path Qwen/Qwen2.5-7B --max_length 4096\n", "qwen2.5-7b", "ddp"),
        ("accelerate launch --num_processes 8 -m axolotl.cli.train a.yml\n", "llama-3.1-8b",
         "fsdp2"),
        ("axolotl train a.yml\n", "llama-3.1-8b", "fsdp2"),
        ("FORCE_TORCHRUN=1 llamafactory-cli train l.yaml\n", "qwen3-4b", "ddp"),
    ],
)  # fmt: skip
def test_scripts_need_no_first_line(tmp_path, script, model, strategy):
    (tmp_path / "a.yml").write_text(
        "base_model: meta-llama/Llama-3.1-8B\nsequence_len: 4096\nmicro_batch_size: 1\n"
        "datasets: []\nfsdp_version: 2\nfsdp_config: {reshard_after_forward: true}\n"
    )
    (tmp_path / "l.yaml").write_text(
        "model_name_or_path: Qwen/Qwen3-4B\nstage: sft\nfinetuning_type: full\ntemplate: qwen3\n"
        "cutoff_len: 2048\n"
    )
    path = tmp_path / "job.sh"
    path.write_text(script)
    found = load("dgx-h100", path).workload
    assert (found.model.name, found.parallelism.strategy) == (model, strategy)


def test_our_own_file_is_not_imported(tmp_path):
    (tmp_path / "w.yaml").write_text("model: llama-3-8b\nsequence_length: 512\n")
    with pytest.raises(InputError, match="a file of scaling-sim's own"):
        sim.import_job(tmp_path / "w.yaml")
    (tmp_path / "topology.conf").write_text("SwitchName=s0 Nodes=n[1-4]\n")
    with pytest.raises(InputError, match="is no file of a trainer or launcher known here"):
        sim.import_job(tmp_path / "topology.conf")
    assert load_workload(tmp_path / "w.yaml").name == "w"


WORDS = [
    "auto", "null", "[]", "{}", "-1", "1e999", "9" * 20, "true", "'no'", "$X", "nan", "[1, [2]]",
    "{a: {b: c}}", '""', "0", "1.5", "\u2603", "- x", "${A}${A}",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_files_are_read_or_refused(seed, tmp_path):
    """Values exchanged, lines lost, doubled and garbled: a job or faults, never anything else."""
    draw = random.Random(seed)
    for _ in range(60):
        name, text = draw.choice(list(FILES.values()))
        lines = text.splitlines()
        for _ in range(draw.randint(1, 4)):
            at, kind = draw.randrange(len(lines)), draw.random()
            if kind < 0.6:
                key, equals, _ = lines[at].partition(": " if ": " in lines[at] else "=")
                lines[at] = key + equals + draw.choice(WORDS)
            elif kind < 0.7 and len(lines) > 1:
                lines.pop(at)
            elif kind < 0.8:
                lines.insert(at, draw.choice(lines))
            else:
                cut = draw.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + draw.choice("{}[]:,\"'#-\\$\t \x00") + lines[at][cut:]
        (tmp_path / name).write_text("\n".join(lines))
        with contextlib.suppress(InputError):
            load("dgx-h100", tmp_path / name, ["nodes=2"])


def test_variables_of_a_script_do_not_grow_without_end(tmp_path):
    many = "".join(f"V{i + 1}={f'$V{i}' * 300}\n" for i in range(9))
    (tmp_path / "job.sh").write_text(f"V0=x\n{many}torchrun --nnodes=$V9 x.py --bf16\n")
    assert sim.import_job(tmp_path / "job.sh").nodes is None


#: of the collection's files, those that name one which it lacks and which says that it shards
LACK = {"accelerate-submit_multinode_fsdp.sh": "/accelerate/examples/slurm/fsdp_config.yaml"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_example_is_read(folder):
    """Real files of each tool: read, with nothing of a known tool called unknown."""
    if not EXAMPLES.is_dir():
        pytest.skip("the collection of users' files is not here")
    for path in sorted((EXAMPLES / folder).iterdir()):
        if path.name == "topology.conf":
            continue
        faults = []
        found = given("workload", path, faults).translation
        why = "is not here, and says by its name that it shards; name it too"
        asked = [f'"{lack}" {why}' for name, lack in LACK.items() if name == path.name]
        assert [fault.message for fault in faults] == asked
        assert found is not None, path
        assert [a.theirs for a in found.aside if a.why.startswith("no key")] == []


@pytest.mark.parametrize("text", [
    "model: {_component_: torchtune.models.llama3_1.llama3_1_8b}\nbatch_size: 2\ndtype: fp17\n",
    "distributed_type: MULTI_GPU\nnum_processes: 8\nmixed_precision: fp17\n",
    "per_device_train_batch_size: 2\noutput_dir: x\ntorch_dtype: fp17\n",
])  # fmt: skip
def test_a_dtype_that_is_none_is_no_default(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    sets = ["model=llama-3.1-8b", "sequence_length=2048"]
    with pytest.raises(InputError, match='"fp17" is no dtype; bf16, fp16, fp32, fp8 are'):
        load("dgx-h100", path, sets)


@pytest.mark.parametrize(
    ("more", "strategy", "each"),
    [("", "ddp", False), ("fsdp_config: {offload_params: false}\n", "fsdp1", False),
     ("fsdp_version: 2\nfsdp_config: {offload_params: false}\n", "fsdp2", True),
     ("deepspeed: zero3.json\n", "zero3", True)],
)  # fmt: skip
@pytest.mark.parametrize("said", [False, True])
def test_sync_each_batch_is_taken_where_gradients_would_wait(tmp_path, more, strategy, each, said):
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    path = tmp_path / "job.yaml"
    head = AXOLOTL[: AXOLOTL.index("plugins:")]
    key = "accelerator_config: {gradient_accumulation_kwargs: {sync_each_batch: true}}\n"
    path.write_text(head + more + key * said)
    work = load("dgx-a100", path, ["nodes=1"]).workload
    assert work.parallelism.strategy == strategy
    assert reduces_each(work) is (each or said)
