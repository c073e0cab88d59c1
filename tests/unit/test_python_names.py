"""What names, conditions and several calls of a Python file say, and what they do not."""

import io
import json

import pytest

import sim
from sim.errors import InputError
from sim.inputs.python_calls import from_calls

MODEL = 'AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")\n'


def said(text, key="a"):
    """What the first call of f is given, or None where that is left out."""
    call = from_calls(text, "a.py").entries["f"].items[0]
    found = call.entries.get(key)
    return getattr(found, "value", found)


def told(tmp_path, text, name="train.py"):
    """Keys that became ours, and what changes the run and is not followed, by line."""
    (tmp_path / name).write_text(text)
    found = sim.import_job(str(tmp_path / name))
    took = {row["key"]: row["ours"] for row in found.took}
    lines = [(int(r["place"].split(":")[-1]), r["theirs"], r["why"])
             for r in found.aside if r["matters"]]  # fmt: skip
    return took, lines


@pytest.mark.parametrize(("text", "value"), [
    ("n = 2\nn *= 4\nf(a=n)", "${n}"),
    ("n = 2\nfor n in x: pass\nf(a=n)", "${n}"),
    ("n = 2\nwith x() as n: pass\nf(a=n)", "${n}"),
    ("n = 2\nfrom settings import n\nf(a=n)", "${n}"),
    ("n = 2\ndel n\nf(a=n)", "${n}"),
    ("n, m = 2, 3\nf(a=n)", 2),
    ("n, m = g()\nf(a=n)", "${n}"),
    ("if (n := 2): pass\nf(a=n)", 2),
    ("n = 2\ndef g(n): pass\nf(a=n)", 2),
    ("def g(n=2): f(a=n)\ng()", 2),
    ("def g(n): f(a=n)\ng(3)", 3),
    ("def g(n=2): f(a=n)\ng(n=3)", "${n}"),
    ("n = 2\ndef g():\n global n\n n = 3\nf(a=n)", "${n}"),
    ("def evaluate(steps=7): pass\nf(a=cfg.steps)", "${cfg.steps}"),
    ("class C:\n steps: int = 7\nf(a=cfg.steps)", 7),
    ("class C:\n steps: int = 7\ncfg = C(steps=8)\nf(a=cfg.steps)", "${cfg.steps}"),
    ("class C:\n steps: int = 7\nimport cfg\nf(a=cfg.steps)", "${cfg.steps}"),
    ("class C:\n steps: int = 7\ncfg.steps += 1\nf(a=cfg.steps)", "${cfg.steps}"),
    ("p.add_argument('-s', '--max-steps', default=7)\nf(a=o.max_steps)", 7),
    ("p.add_argument('--steps', type=int)\nf(a=o.steps)", "${o.steps}"),
    ("p.add_argument('--on', action='store_true')\nf(a=o.on)", False),
    ("d = {'a': 1}\nd['a'] = 2\nf(**d)", None),
    ("d = {'a': 1}\nf(**{**d, 'b': 2})", 1),
    ("f(a=2**3)", 8),
    ("f(a=2**999)", "${2 ** 999}"),
    ("f(a=(-8)**0.5)", "${(-8) ** 0.5}"),
    ("f(a=int(os.environ.get('BS', '4')))", 4),
    ("f(a=int(os.environ['BS']))", "${int(os.environ['BS'])}"),
    ("f(a=int('x'))", "${int('x')}"),
    ("n = 3\nf(a=1 if n > 2 else 2)", 1),
    ("n = g()\nf(a=1 if n > 2 else 2)", "${1 if n > 2 else 2}"),
    ("x = f()\nx.a = 2", 2),
    ("x = f(a=1)\nif False and g(): x.a = 2", 1),
])  # fmt: skip
def test_values(text, value):
    assert said(text) == value


def test_calls_under_conditions():
    text = "n = 1\nif n: f()\nelse: g()\nif n > 1 or False: g()\nif x: h()\nif False or x: pass\n"
    found = from_calls(text + "if __name__ == '__main__': k()", "a.py").entries
    assert list(found) == ["f", "h", "k"]
    assert found["h"].items[0].entries["(if)"].value == "x"


def test_attributes_set_where_they_cannot_be_followed_are_told(tmp_path):
    text = MODEL + (
        "x = TrainingArguments('o', per_device_train_batch_size=2)\n"
        "x.gradient_accumulation_steps = 16\n"
        "x.per_device_train_batch_size *= 2\n"
        "trainer.args.max_steps = 9\n"
        "x.learning_rate *= 2\n"
    )
    took, lines = told(tmp_path, text)
    assert (took["gradient_accumulation"], took["micro_batch"]) == ("16", "2")
    assert {(line, key) for line, key, _ in lines} == {
        (4, "per_device_train_batch_size"), (5, "max_steps"),
    }  # fmt: skip


def test_of_two_trainers_one_is_taken_and_the_other_told(tmp_path):
    text = """\
teacher = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B")
student = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
one = SFTConfig("a", per_device_train_batch_size=2)
SFTTrainer(model=student, args=one)
two = DPOConfig("b", per_device_train_batch_size=1, gradient_accumulation_steps=32)
DPOTrainer(student, teacher, args=two)
"""
    took, lines = told(tmp_path, text)
    assert (took["model"], took["micro_batch"]) == ("Qwen/Qwen2.5-0.5B", "2")
    assert "gradient_accumulation" not in took
    assert [(line, key) for line, key, _ in lines] == [(1, "from_pretrained()"), (5, "DPOConfig()")]
    same = text.replace("2.5-7B", "2.5-0.5B").replace(
        "batch_size=1, gradient_acc", "batch_size=2)#"
    )
    assert told(tmp_path, same)[1] == []


def test_arguments_under_a_condition_are_told(tmp_path):
    text = (
        MODEL
        + """\
if capability >= 8:
    x = TrainingArguments("o", per_device_train_batch_size=8, bf16=True)
else:
    x = TrainingArguments("o", per_device_train_batch_size=1, fp16=True)
a.use_lora = False
if a.use_lora:
    LoraConfig(r=4)
"""
    )
    took, lines = told(tmp_path, text)
    assert (took["micro_batch"], took["precision.kind"]) == ("8", "bf16")
    assert "method.kind" not in took
    assert [line for line, *_ in lines] == [3, 5]
    assert "if capability >= 8" in lines[0][2]
    assert "line 3" in lines[1][2]
    took, lines = told(tmp_path, text.replace("a.use_lora = False", "a = parse()"))
    assert took["method.kind"] == "lora"
    assert (8, "LoraConfig()") in [(line, key) for line, key, _ in lines]


def test_a_default_names_the_line_whose_value_a_run_knows(tmp_path):
    text = MODEL + 'TrainingArguments("o", per_device_train_batch_size=int(os.environ["BS"]))\n'
    (tmp_path / "a.py").write_text(text)
    why = {row["key"]: row["why"] for row in sim.import_job(str(tmp_path / "a.py")).assumed}
    expected = "a.py:2: int(os.environ['BS']) is known only at run time"
    assert why["micro_batch"] == f"transformers' default; {expected}"
    assert why["gradient_accumulation"] == "transformers' default"


def test_a_job_that_cannot_run_is_not_written(tmp_path):
    text = MODEL + 'TrainingArguments("o", gradient_accumulation_steps=-1)\n'
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(InputError, match=r"a\.py:2  gradient_accumulation: -1 is not at least 1"):
        sim.import_job(str(tmp_path / "a.py"))


CELLS = [
    "%%bash\npip install x\ncd (",
    "%%writefile a.txt\nnot Python",
    "!pip install a \\\n    b c\nfiles = !ls 'x'\nmodel?",
    "%%time\n" + MODEL,
    'x = TrainingArguments("o", per_device_train_batch_size=4, max_steps=len(files))',
]


def test_cells_of_shells_and_commands_are_no_python(tmp_path):
    cells = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in CELLS]
    text = json.dumps({"cells": cells, "nbformat": 4}, indent=1)
    took, lines = told(tmp_path, text, "a.ipynb")
    assert took == {"model": "Qwen/Qwen2.5-0.5B", "micro_batch": "4"}
    at = 1 + next(i for i, line in enumerate(text.splitlines()) if "max_steps" in line)
    assert lines == [(at, "max_steps", "len(files) is known only at run time")]


@pytest.mark.parametrize("notebook", [False, True])
def test_through_a_pipe(monkeypatch, notebook):
    text = MODEL + 'TrainingArguments("o", per_device_train_batch_size=4)\n'
    if notebook:
        cells = [{"cell_type": "code", "source": text}]
        text = json.dumps({"cells": cells, "nbformat": 4})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    found = sim.import_job("-")
    assert found.titles == ("a Python training script",)
    assert {row["key"] for row in found.took} == {"model", "micro_batch"}


def test_a_mapping_that_speaks_of_a_config_is_no_python(tmp_path):
    text = "model: qwen2.5-0.5b  # SFTConfig(...)\nper_device_train_batch_size: 2\n"
    assert told(tmp_path, text, "a.yaml")[0]["micro_batch"] == "2"
