"""Screening: the surrogate against its own algebra, the best of a grid against all of it."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.errors import InputError
from sim.report.formats import rendered
from sim.report.sweep import view
from sim.study.axes import Axis, Grid
from sim.study.expressions import parse_condition
from sim.study.screen import Screen
from sim.study.screened import screened, space_of
from sim.study.surrogate import Levels, Surrogate, predicted
from sim.study.sweep import sweep

SIZES = (6, 5, 4, 3, 2)
LEVELS = Levels(tuple(tuple(range(1, size + 1)) for size in SIZES))
POINTS = np.array(list(itertools.product(*map(range, SIZES))), np.uint16)
JOB = {
    "name": "small", "model": "gpt2", "sequence_length": 512, "tokens": "1e8",
    "parallelism": "fsdp2",
}  # fmt: skip


def learnt(values, count=60, seed=1):
    chosen = np.random.default_rng(seed).choice(len(POINTS), count, replace=False)
    return Surrogate(LEVELS).fit(POINTS[chosen], values[chosen])


def test_a_product_is_learnt_from_few_samples():
    x = 1.0 + POINTS
    values = np.log(x[:, 0] * x[:, 1] ** 1.5 / x[:, 2] * np.where(POINTS[:, 3] == 1, 1.3, 1.0))
    found = predicted([learnt(values)], POINTS)[0]
    assert np.abs(found - values).max() < 0.06
    assert np.sqrt(np.mean((found - values) ** 2)) < 0.02


def test_tables_say_what_the_kernel_says():
    values = np.random.default_rng(2).normal(size=len(POINTS))
    one, other = learnt(values), learnt(values, 90, 3)
    found = predicted([one, other], POINTS)
    for surrogate, said in zip((one, other), found, strict=True):
        gram = surrogate._gram(POINTS, surrogate.codes, surrogate.setting[0])
        mean = gram @ surrogate._alpha + surrogate._mean
        assert said == pytest.approx(mean, abs=1e-9)


def test_a_sample_kept_back_is_one_that_was_not_learnt_from():
    values = np.sin(POINTS @ np.array([1.0, 2.0, 0.5, 3.0, 0.2]))
    whole = learnt(values)
    at = np.flatnonzero((POINTS[:, None] == whole.codes[7]).all(-1).any(-1))
    rest = np.arange(len(whole.codes)) != 7
    samples = np.array([np.flatnonzero((c == POINTS).all(1))[0] for c in whole.codes])
    again = Surrogate(LEVELS, whole.setting)
    centred = values[samples] - values[samples].mean()  # the mean is that of all samples
    again.fit(whole.codes[rest], centred[rest] - centred[rest].mean())
    gram = again._gram(whole.codes[rest], whole.codes[rest], whole.setting[0])
    gram[np.diag_indices_from(gram)] += whole.setting[1]
    beside = again._gram(whole.codes[[7]], whole.codes[rest], whole.setting[0])
    said = (beside @ np.linalg.solve(gram, centred[rest]))[0]
    assert at.size == 1
    assert whole.left_out[7] == pytest.approx(said - centred[7], abs=1e-7)


def steps(place):
    """A step like those of the model: the longer of compute and communication, and memory."""
    nodes, batch, length, kept, kind = (int(c) + 1 for c in POINTS[place])
    compute = batch * length * (1.0 + 0.3 * kept) / kind**0.3
    communication = 3.0 * (1 - 1 / (1 + nodes)) * kind
    return {
        "step_time_s": max(compute, communication) + 0.1 * min(compute, communication),
        "compute_s": compute, "communication_s": communication,
        "tokens_per_s": nodes * batch * length / max(compute, communication),
        "memory_bytes": 20.0 / nodes + 4.0 * batch * length / kept, "capacity_bytes": 40.0,
        "fits": 20.0 / nodes + 4.0 * batch * length / kept <= 40.0,
    }  # fmt: skip


ROWS = [None if p[0] == 2 and p[1] == 3 else steps(i) for i, p in enumerate(POINTS)]


@pytest.mark.parametrize(("measure", "less"), [("step_time_s", True), ("tokens_per_s", False)])
def test_the_best_is_found_among_few_and_has_room(measure, less):
    asked: list[int] = []

    def ask(places):
        asked.extend(places)
        return [ROWS[place] for place in places]

    said = Screen(LEVELS, POINTS, measure, less, ask).run(len(POINTS))
    fitting = [row[measure] for row in ROWS if row is not None and row["fits"]]
    best = (min if less else max)(fitting)  # several points are as good but for the last digit
    assert ROWS[said.winner][measure] == pytest.approx(best, rel=1e-12)
    assert ROWS[said.winner]["fits"]
    assert said.open == 0
    assert said.exact == len(asked) == len(set(asked)) < len(POINTS) // 3
    assert said.invalid == sum(ROWS[place] is None for place in asked)
    assert 0.0 < said.error <= said.worst


def test_a_search_that_is_cut_says_what_is_open():
    said = Screen(LEVELS, POINTS, "tokens_per_s", False, lambda at: [ROWS[i] for i in at]).run(40)
    assert said.exact == 40
    assert said.open > 0


def test_nothing_is_claimed_where_nothing_is_valid():
    said = Screen(LEVELS, POINTS, "tokens_per_s", False, lambda at: [None for _ in at]).run(300)
    assert (said.winner, said.error, said.invalid) == (None, None, said.exact)
    assert said.open == len(POINTS) - said.exact


def grid(**more):
    axes = {
        "nodes": "1 2 3 4 6 8", "micro_batch": "1 2 4 8 16 32", "gradient_accumulation": "1 2 4",
        "optimizer": "adamw sgd", "parallelism.reshard_after_forward": "true false",
    }  # fmt: skip
    crossed = tuple(Axis((k,), tuple((v,) for v in vs.split())) for k, vs in axes.items())
    return Grid("small", "dgx-h100", JOB, crossed, **more)


def test_a_screened_grid_has_the_best_of_the_whole_one(tmp_path):
    limits = {"where": ("gpus <= 48",), "require": ("fits and step_time_s < 0.25 s",)}
    whole = sweep(grid(**limits), tmp_path / "whole.sqlite")
    best = max(
        row.measures["tokens_per_s"]
        for row, met in zip(whole.rows, whole.meets, strict=True) if met
    )  # fmt: skip
    found = screened(grid(**limits), tmp_path / "few.sqlite", "tokens_per_s")
    assert found.rows[0].measures["tokens_per_s"] == best
    assert found.meets[0]
    assert found.filtered == whole.filtered == 72
    assert found.screening.points == len(whole.rows) == 360
    assert found.screening.open == 0
    assert len(found.rows) == found.screening.exact < 200
    again = screened(grid(**limits), tmp_path / "few.sqlite", "tokens_per_s")
    assert (again.computed, again.reused) == (0, found.computed)
    said = rendered(view(found), "table")
    assert "The best by tokens_per_s of 360 configurations" in said
    assert "no other one is better" in said
    assert found.to_dict()["screening"]["exact"] == found.screening.exact


def test_keys_of_an_axis_together_are_columns_of_their_own():
    axes = (Axis(("a", "b"), (("1", "x"), ("2", "x"), ("2", {"k": 1}))), Axis(("c",), ((4,), (8,))))
    keys, levels, codes = space_of(Grid("g", axes=axes))
    assert keys == ("a", "b", "c")
    assert levels.values == (("1", "2"), ("x", {"k": 1}), (4, 8))
    assert codes.tolist() == [
        [0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["a < 2", "a * b >= 6 and not a == 3", "1 < a <= 3", "a in [1, 3] or b > 7", "c == 'x'",
     "c not in ['y'] and -a < -1", "d > 1"],
)  # fmt: skip
def test_a_condition_of_columns_is_that_of_each_row(text):
    rows = [
        {"a": a, "b": b, "c": c, "d": math.nan} for a in (1, 2, 3) for b in (2, 8) for c in "xy"
    ]
    condition = parse_condition(text, "where")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    held = np.broadcast_to(condition.over(columns.__getitem__), len(rows))
    assert held.tolist() == [condition.holds(row.__getitem__) for row in rows]


def test_a_condition_of_columns_says_what_it_cannot_compare():
    condition = parse_condition("c > 3", "where")
    with pytest.raises(InputError, match="compares unlike things"):
        condition.over({"c": np.array(["x", "y"])}.__getitem__)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--screen", "cost"], "--screen  cost: none can be the best by it; write one of"),
        (["--screen", "mfu", "--pareto", "mfu,cost_usd"], "leave pareto out, or --screen"),
        (["--screen", "mfu", "-j", "2"], "sweep  processes: a screening computes few"),
        (["--exact", "5"], "sweep  exact: is of a screening; write screen=MEASURE as well"),
        (["--screen", "mfu", "--where", "nodes > 9"], "where leaves no configuration"),
        (["--screen", "mfu", "--vary", "steps=1..999", "--vary", "seed=1..999"],
         "seed: unknown key"),
        (["--screen", "mfu", "--vary", "steps=1..999", "--vary", "sequence_length=1..999"],
         "takes 6,000 exact configurations, and 2,000 may be computed"),
        (["--screen", "cost_usd", "--set", "offer=null"], "cost_usd: none of 2 configurations has"),
        (["--pareto", "mfu,cost_usd", "--set", "offer=null"],
         "--pareto  cost_usd: none of 2 configurations has one, so that none can be the best; it "
         "takes offer: {price_per_gpu_hour: 2 USD}"),
    ],
)  # fmt: skip
def test_what_cannot_be_screened_is_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ["sweep", "dgx-h100", "llama3-8b-sft", "--vary", "nodes=1,2", *options]
    result = CliRunner().invoke(group, call)
    assert isinstance(result.exception, InputError)
    assert " ".join(said.split()) in " ".join(str(result.exception).split())


def test_from_python(tmp_path):
    found = sim.sweep(grid(), screen="mfu", exact=120, processes=1, store=tmp_path / "s.sqlite")
    assert found.screening.exact <= 120
    with pytest.raises(InputError, match="is not at least 1"):
        sim.sweep(grid(), screen="mfu", exact=0, store=tmp_path / "s.sqlite")


def test_a_table_of_three_wide_keys_is_no_larger_than_it_has_to_be():
    """64 x 64 x 256 entries of 8 bytes are 8 MiB; with each of 300 samples beside them, 2.3 GiB."""
    levels = Levels(tuple(tuple(range(1, count + 1)) for count in (64, 256, 64)))
    draw = np.random.default_rng(3)
    codes = np.stack([draw.integers(0, len(v), 300) for v in levels.values], 1).astype(np.uint16)
    found = Surrogate(levels).fit(codes, draw.normal(size=300))
    tracemalloc.start()
    table = found.table((0, 1, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table.shape == (64, 256, 64)
    assert peak < 64 * 2**20
    at = (5, 200, 63)
    kernels = [k[a, codes[:, i]] for i, (k, a) in enumerate(zip(levels.kernels, at, strict=True))]
    by_hand = found.setting[0][2] * np.sum(found._alpha * kernels[0] * kernels[1] * kernels[2])
    assert table[at] == pytest.approx(by_hand, rel=1e-9)
