"""The face of Python: wrong arguments say what would be right, cards, charts, tables."""

import ast
import inspect
import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import sim
from sim.api.checked import ELSEWHERE, KINDS, parts_of
from sim.choices import CHOICES, SHARES
from sim.commands.size import command as sizing
from sim.inputs.loader import load_topology

M, J = "dgx-h100", "mistral-7b-lora"
FLEET = {"jobs": [{"name": "a", "workload": J}]}
WRONG = {
    "seed: takes a whole number, not str 'x'": lambda: sim.simulate(M, J, seed="x"),
    "seed: takes a whole number, not float 1.5": lambda: sim.simulate(M, J, seed=1.5),
    "replicas: takes a whole number": lambda: sim.simulate(M, J, replicas="3"),
    "scaling: takes True or False, not str": lambda: sim.simulate(M, J, scaling="no"),
    "offer: takes a text, not int 3": lambda: sim.simulate(M, J, offer=3),
    'budget: takes a text, not int 2500; with its unit, such as "2500 USD"': lambda: sim.size(
        J, budget=2500
    ),
    "prices: takes a path, not int 3": lambda: sim.simulate(M, J, prices=3),
    "jitter: takes a share such as 5% or 0.05": lambda: sim.simulate(M, J, jitter=None),
    "takes a path or a Calibration, not dict": lambda: sim.simulate(M, J, calibration={"x": 1}),
    "overrides  int 4 is no list of texts": lambda: sim.simulate(M, J, overrides=4),
    "did you mean \"micro_batch\"": lambda: sim.simulate(M, J, micro_bacth=2),
    "bounds  int 3 is no list of texts": lambda: sim.memory_of(M, J, bounds=3),
    "ranks: takes a list of whole numbers, not str": lambda: sim.trace(M, J, ranks="0,3"),
    "ranks: takes a list of whole numbers, not list": lambda: sim.trace(M, J, ranks=["a"]),
    "recorded: takes a path, not int": lambda: sim.trace_diff(3, M, J),
    "sizes: takes a text or a list of whole numbers": lambda: sim.collective(M, sizes=[1.5]),
    "sizes  [-1] is no list of sizes": lambda: sim.collective(M, sizes=[-1]),
    "'x' is not one of 'cost', 'time'": lambda: sim.size(J, objective="x"),
    "max_gpus: takes a whole number": lambda: sim.size(J, max_gpus="x"),
    "efficiency: -1.0 is not more than 0": lambda: sim.need_bandwidth(M, J, efficiency=-1.0),
    "efficiency: '151%' is not at most 1.5": lambda: sim.need_bandwidth(M, J, efficiency="151%"),
    "efficiency: takes a share such as 5% or 0.05, not str 'x%'":
        lambda: sim.need_bandwidth(M, J, efficiency="x%"),
    "on_time: '101 %' is not at most 1": lambda: sim.plan(M, FLEET, on_time="101 %"),
    "some is no share; write 5 % or 0.05": lambda: sim.size(J, slack="some"),
    "on_time: 1.5 is not at most 1": lambda: sim.plan(M, FLEET, on_time=1.5),
    "throughput: inf is not finite": lambda: sim.size(J, throughput=math.inf),
    "throughput: -1 is not more than 0": lambda: sim.size(J, throughput=-1),
    "--setup  -2 h is not more than nothing": lambda: sim.prices_job(M, J, setup="-2 h"),
    "processes: 0 is not at least 1": lambda: sim.sweep(M, J, processes=0),
    "max_gpus: 20000 is not at most 16,384": lambda: sim.size(J, max_gpus=20_000),
    "size  max_gpus: 0 is not at least 1": lambda: sim.size(J, max_gpus=0),
    "size  gpus: 0 is not at least 1": lambda: sim.size(J, gpus=0),
    "size  global_batch: -3 is not at least 1": lambda: sim.size(J, global_batch=-3),
    "exact: 0 is not at least 1": lambda: sim.sweep(M, J, screen="cost_usd", exact=0),
    "plan  replicas: -3 is not at least 0": lambda: sim.plan(M, FLEET, replicas=-3),
    "gpu: takes a list of texts": lambda: sim.size(J, gpu=3),
    "micro_batch: 3 is no list of values; write such as [3]":
        lambda: sim.sweep(M, J, vary={"micro_batch": 3}),
    "jobs: takes a path or a mapping": lambda: sim.plan(M, 3),
    "'x' is not one of 'fifo'": lambda: sim.plan(M, FLEET, policy="x"),
    "'x' is not one of 'all', 'training'": lambda: sim.validate("x"),
    "measured: takes a text": lambda: sim.diagnose(M, J, measured=3),
    "nccl_tests: takes a path or a list of paths": lambda: sim.calibrate(M, nccl_tests=3),
    "emit: takes a list of texts": lambda: sim.export(M, J, emit=3),
    "files: takes a path": lambda: sim.import_job("a.yaml", 3),
    "'pie' is none of 'step-parts', 'memory-peak'": lambda: sim.plot(result(), "pie"),
    "has no charts; to_frame() gives its rows": lambda: sim.plot(sim.entries("gpus")),
    "int 3 is no document": lambda: sim.plot(3),
    "'.png' is neither .svg nor .csv": lambda: sim.plot(result()).write("a.png"),
    "table: 'x' is none of 'rows', 'step'": lambda: result().to_frame("x"),
}  # fmt: skip


def result(**keys):
    return sim.simulate(M, J, nodes=2, fixes=False, **keys)


@pytest.mark.parametrize("said", WRONG)
def test_wrong_arguments_say_what_would_be_right(said):
    with pytest.raises(sim.InputError) as caught:
        WRONG[said]()
    assert said in str(caught.value)


def test_a_missing_argument_is_said_by_python_of_the_function_itself():
    with pytest.raises(TypeError, match=r"simulate\(\) missing 1 required positional argument"):
        sim.simulate(M)


def test_every_annotation_of_the_face_is_known():
    """Else an argument would be checked by nobody."""
    for name in sim.__all__:
        function = getattr(sim, name)
        if not inspect.isfunction(function):
            continue
        for parameter in inspect.signature(function).parameters.values():
            for part in parts_of(parameter.annotation):
                assert part in KINDS or part in ELSEWHERE, (name, parameter)
        assert function is getattr(sim, name)  # wrapped once
        assert function.__doc__
        assert function.__wrapped__.__module__ == function.__module__


def test_a_card_has_the_figures_and_their_bands():
    found = result()
    card = found._repr_html_()
    assert f'<p style="margin: 0 0 .6em">{found.sentence()}</p>' in card
    shown = re.findall(r"<th[^>]*>([^<]*)</th><td[^>]*><b>([^<]*)</b></td><td[^>]*>([^<]*)<", card)
    assert [(h.label, h.text, h.below) for h in found.headline()] == shown
    assert [label for label, *_ in shown] == ["Whole job", "Cost", "Step", "Memory of a GPU"]
    assert shown[2][1] == f"{found.step.time_s:.2f} s"
    assert shown[2][2].startswith(f"80 % band {found.uncertainty.step_time_s.low:.2f} s to ")


def test_charts_stand_alone_and_in_a_notebook(tmp_path):
    made = sim.plot(result())
    assert [chart.name for chart in made.charts] == ["step-parts", "memory-peak", "scaling"]
    curve = sim.plot(result(), "scaling")
    svg = curve.write(tmp_path / "curve.svg").read_text()
    assert svg.startswith("<svg xmlns")
    assert "--s0:" in svg  # its colours are within
    assert 'id="hatch"' in svg
    rows = curve.write(tmp_path / "curve.csv").read_text().splitlines()
    assert rows[0].startswith("nodes,gpus,tokens_per_s")
    assert len(rows) == 5
    frame = made._repr_html_()
    assert frame.startswith('<iframe title="charts"')
    assert "&lt;figure data-name=&quot;step-parts&quot;&gt;" in frame
    line = sim.timeline("a100-x1", "llama3-8b-lora", gradient_accumulation=1)
    assert [c.name for c in sim.plot(line).charts] == ["timeline", "memory"]
    compared = sim.compare([M, "dgx-a100"], J)
    assert "throughput" in [c.name for c in sim.plot(compared).charts]


def test_one_text_stands_for_a_list_of_it(tmp_path):
    """A text is a sequence of its letters, too: never meant."""
    alone = sim.size(J, max_gpus=8, gpu="H100", residency="EU")
    assert alone.to_json() == sim.size(J, max_gpus=8, gpu=["H100"], residency=["EU"]).to_json()
    grid = sim.sweep_grid(M, J, vary=["nodes=1,2"], where="nodes>1", require="mfu>0.1")
    assert (grid.where, grid.require) == (("nodes>1",), ("mfu>0.1",))
    assert sim.export(M, J, emit="yaml", folder=tmp_path)


def test_one_path_stands_for_a_list_of_it(tmp_path):
    runs, held = tmp_path / "runs.yaml", tmp_path / "held.yaml"
    for file, seconds in ((runs, 4.1), (held, 4.2)):
        file.write_text(f"- {{topology: {M}, workload: {J}, step_time_s: {seconds}}}\n")
    several = sim.calibrate(M, measured=[runs], holdout=(held,))
    assert len(several.records()) > 0
    assert sim.calibrate(M, measured=runs, holdout=str(held)).to_json() == several.to_json()


def test_a_share_is_a_number_or_a_text_in_every_function(tmp_path):
    """All that take one name its type, so that none reads less than another."""
    taken = {
        (name, parameter.name)
        for name in sim.__all__
        if inspect.isfunction(function := getattr(sim, name))
        for parameter in inspect.signature(function).parameters.values()
        if {"WrittenShare", *SHARES}.intersection(parts_of(parameter.annotation))
    }
    assert taken == {
        ("simulate", "jitter"), ("trace", "jitter"), ("size", "risk"), ("size", "slack"),
        ("diff", "tolerance"), ("need_bandwidth", "efficiency"), ("plan", "on_time"),
        ("compare_plans", "on_time"),
    }  # fmt: skip
    sets = ["nodes=2"]
    needs = [sim.need_bandwidth(M, J, efficiency=e, overrides=sets) for e in (0.9, "90%", " 90 %")]
    assert len({found.to_json() for found in needs}) == 1
    sizes = [sim.size(J, max_gpus=8, gpu="H100", slack=s, risk=s) for s in (0.05, "5%", " 5 %")]
    assert len({found.to_json() for found in sizes}) == 1
    plans = [sim.plan(M, FLEET, smallest=True, on_time=s, replicas=0) for s in (0.95, "95%")]
    assert plans[0].to_json() == plans[1].to_json()
    for name in ("a", "b"):
        (tmp_path / name).write_text(plans[0].to_json())
    one, other = (sim.diff(tmp_path / "a", tmp_path / "b", tolerance=t) for t in (0.3, "30 %"))
    assert one == other


def test_numbers_of_numpy_and_pandas_are_numbers():
    """Grids come from them; values are met alone, in mappings, in lists and from iterators."""
    whole, column = np.int64(2), pd.DataFrame({"micro_batch": [1, 2]})["micro_batch"]
    plain = result(micro_batch=2, jitter="5%")
    for five in (np.float64(0.05), np.float32(0.05), Fraction(1, 20), Decimal("0.05")):
        found = sim.simulate(
            M, J, nodes=whole, overrides={"micro_batch": np.uint8(2)}, jitter=five,
            fixes=np.bool_(False), seed=np.int32(0),
        )  # fmt: skip
        assert found.step.time_s == pytest.approx(plain.step.time_s, rel=1e-6)
    grid = sim.sweep_grid(M, J, vary={"micro_batch": [1, 2]})
    for two in (np.array([1, 2]), [np.int8(1), whole], column, iter(np.array([1.0, 2.0]))):
        assert len(sim.sweep_grid(M, J, vary={"micro_batch": two})) == len(grid) == 2
    machine = {"nodes": np.int64(1), "node": {"gpu": "h100-sxm", "gpus": np.int16(4)}}
    keys = {key.path: key.value for key in sim.config(machine, J).keys}
    assert (keys["topology.nodes"], keys["topology.node.gpus"]) == ("1", "4")
    names = pd.Series([M, "dgx-a100"])
    assert sim.compare(names, J).to_json() == sim.compare(list(names), J).to_json()
    line = sim.trace(M, J, ranks=np.arange(2), micro_batch=np.array(1))
    assert line.to_json() == sim.trace(M, J, ranks=[0, 1], micro_batch=1).to_json()


def test_what_no_number_holds_is_still_refused():
    looped = {}
    looped["node"] = looped
    for said, wrong in {
        "overrides  nodes: complex 1j is no": {"overrides": {"nodes": 1j}},
        "overrides  nodes: type <class 'numpy.int64'>": {"overrides": {"nodes": np.int64}},
        "overrides  node: dict": {"overrides": looped},
        "vary  nodes: float nan": {"vary": {"nodes": np.array([np.nan])}},
        "vary  nodes: 3 is no list": {"vary": {"nodes": np.array(3)}},
        "vary  a table's rows or all": {"vary": pd.DataFrame({"nodes": [1, 2]})},
    }.items():
        with pytest.raises(sim.InputError) as caught:
            sim.sweep_grid(M, J, **wrong)
        assert said in str(caught.value)
    with pytest.raises(sim.InputError, match="nested deeper"):
        sim.config(looped, J)


def test_tables_of_a_result_are_its_figures():
    found = result()
    assert sum(row["seconds"] for row in found.tables()["step"]) == pytest.approx(found.step.time_s)
    curve = found.to_frame("curve")
    assert list(curve.gpus) == [8, 16, 32, 64]
    peak = found.tables()["peak"]
    assert sum(row["bytes"] for row in peak) == pytest.approx(found.memory.peak_allocated_bytes)
    assert found.to_frame("rows").shape == found.to_frame().shape


def test_without_pandas_it_says_so(monkeypatch):
    import builtins

    real = builtins.__import__

    def hidden(name, *rest):
        if name == "pandas":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", hidden)
    with pytest.raises(sim.InputError, match="pip install pandas"):
        sim.entries("gpus").to_frame()


def test_types_are_those_of_the_functions():
    """A checker sees each name that exists, from where it comes, and no other."""
    source = (ast.parse(inspect.getsource(sim))).body
    block = next(node for node in source if isinstance(node, ast.If))
    seen = {(node.module, alias.name, alias.asname) for node in block.body
            if isinstance(node, ast.ImportFrom) for alias in node.names}  # fmt: skip
    assert seen == {(home, name, name) for name, home in sim._HOMES.items()}
    assert not any(isinstance(node, ast.FunctionDef) for node in source)  # no __getattr__


def test_every_face_takes_a_question_from_its_signature():
    """Words, bounds and defaults of options are not said twice."""
    given = {option.name: option for option in sizing.params}
    for name, parameter in inspect.signature(sim.size).parameters.items():
        if name in given and parameter.default not in (None, (), False, parameter.empty):
            assert given[name].default == parameter.default, name
    assert given["objective"].type.choices == CHOICES["Objective"]
    assert (given["gpus"].type.min, given["gpus"].type.max) == (1, 16_384)
    assert given["throughput"].type.min_open
    assert given["vary"].multiple
    assert given["spot"].is_flag


def test_a_set_of_machines_is_taken_by_name():
    found = sim.compare({"h100-x1", "a100-x1"}, "llama3-8b-lora")
    assert found.to_json() == sim.compare(["a100-x1", "h100-x1"], "llama3-8b-lora").to_json()


def test_a_list_where_topology_and_workload_are_two():
    """A list is no path: the error says what stands there."""
    with pytest.raises(sim.InputError, match="list is no sweep file; give a sweep file, or"):
        sim.sweep(["dgx-h100", "llama3-8b-lora"], vary=["micro_batch=1,2"])


def test_an_offer_by_name_is_an_argument_of_its_own():
    with pytest.raises(sim.InputError, match="take one by name: --offer cheapest"):
        sim.simulate("dgx-h100", "llama3-8b-lora", overrides=["offer=cheapest"])


def test_numbers_of_a_spec_are_kept_beside_one_that_is_set():
    """In SI units, which texts state: what stood beside it was refused as having none."""
    machine = sim.simulate("dgx-h100", "llama3-8b-lora", scaling=False, fixes=False)
    assert machine.cost.storage_usd > 0.0
    spec = load_topology("dgx-h100")
    for key in ("offer.price_per_gpu_hour=3 USD", "network.switch_latency=1 us"):
        found = sim.simulate(spec, "llama3-8b-lora", overrides=[key], scaling=False, fixes=False)
        assert found.cost.storage_usd == pytest.approx(machine.cost.storage_usd, rel=1e-6)


def test_what_is_printed_is_the_answer():
    found = sim.simulate(M, J, scaling=False, fixes=False)
    assert str(found) == found.sentence()
    assert str(sim.compare([M, "dgx-a100"], J)).startswith("dgx-a100 does 0.")
    sized = sim.size(J, deadline="24 h", max_gpus=8, gpu=["h100"])
    gpus, machine = sized.winner.candidate.gpus, sized.contenders[0].machine.name
    assert re.match(rf"Take {gpus} GPUs? of {machine}: ", str(sized))
    assert str(sim.config(M, J)).startswith("Configuration (")  # of no single answer


def test_a_key_where_a_verb_takes_none_is_led_to_overrides():
    with pytest.raises(TypeError, match=r'compare\(\) takes no nodes; .* by overrides=\{"nodes": '):
        sim.compare([M, "dgx-a100"], J, nodes=2)
