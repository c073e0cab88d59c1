"""A job is the same however it is written: order of keys, JSON or YAML, ``--set``, units."""

import json
import random
from io import StringIO

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from bench.drawn import DRAWN
from sim.errors import InputError
from sim.inputs.loader import load

JOBS = st.tuples(st.sampled_from(sorted(DRAWN)), st.integers(0, 10**9))


def drawn(job):
    """A topology and a workload as mappings, which may have faults."""
    kind, seed = job
    return DRAWN[kind](random.Random(seed))


def told(topology, workload, sets=()):
    """What is bound and assumed of a job; of one with faults, what is wrong with it."""
    try:
        machine, job, notes = load(topology, workload, sets)
    except InputError as error:
        return sorted((fault.path, fault.message) for fault in error.faults)
    said = sorted((one.code, one.path, one.message) for one in notes.warnings)
    return machine, job, said, sorted(map(str, notes.assumed))


def shuffled(value, draw):
    if not isinstance(value, dict):
        return value
    keys = draw.sample(sorted(value), len(value))
    return {key: shuffled(value[key], draw) for key in keys}


@settings(max_examples=25, deadline=None)
@given(JOBS, st.randoms(use_true_random=False))
def test_the_order_of_keys_says_nothing(job, draw):
    pair = drawn(job)
    assert told(*(shuffled(half, draw) for half in pair)) == told(*pair)


@settings(max_examples=10, deadline=None)
@given(JOBS)
def test_files_of_json_and_of_yaml_say_what_mappings_do(tmp_path_factory, job):
    folder = tmp_path_factory.mktemp("written")
    pair = drawn(job)
    for suffix in ("json", "yaml"):
        files = []
        for name, half in zip(("topology", "workload"), pair, strict=True):
            text = StringIO()
            if suffix == "json":
                json.dump(half, text)
            else:
                YAML().dump(half, text)
            (folder / f"{name}.{suffix}").write_text(text.getvalue())
            files.append(folder / f"{name}.{suffix}")
        assert told(*files) == told(*pair)


def leaves(value, path=()):
    """Paths of the values of nested mappings."""
    for key, part in value.items():
        if isinstance(part, dict):
            yield from leaves(part, (*path, key))
        else:
            yield (*path, key)


def without(value, path):
    key, *rest = path
    kept = {k: v for k, v in value.items() if k != key}
    return {**kept, key: without(value[key], rest)} if rest else kept


@settings(max_examples=50, deadline=None)
@given(JOBS, st.data())
def test_a_key_that_is_set_is_a_key_of_the_file(job, data):
    pair = drawn(job)
    half = data.draw(st.sampled_from((0, 1)))
    paths = [path for path in leaves(pair[half]) if path != ("name",)]
    path = data.draw(st.sampled_from(paths))
    value = pair[half]
    for key in path:
        value = value[key]
    halves = [without(side, path) if i == half else side for i, side in enumerate(pair)]
    assert told(*halves, [f"{'.'.join(path)}={json.dumps(value)}"]) == told(*pair)


#: the same quantity in other units
UNITS = {
    "Gb/s": ((1e-3, "Tb/s"), (0.125, "GB/s"), (1e3, "Mb/s"), (125, "MB/s")),
    "GB/s": ((1e-3, "TB/s"), (8, "Gb/s"), (1e3, "MB/s")),
    "h": ((60, "min"), (3600, "s")), "min": ((60, "s"),), "s": ((1e3, "ms"),),
}  # fmt: skip


def respelled(value, draw):
    if isinstance(value, dict):
        return {key: respelled(part, draw) for key, part in value.items()}
    number, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if unit not in UNITS:
        return value
    factor, other = draw.choice(UNITS[unit])
    return f"{float(number) * factor:g} {other}"


@settings(max_examples=25, deadline=None)
@given(JOBS, st.randoms(use_true_random=False))
def test_units_say_nothing(job, draw):
    pair = drawn(job)
    assert told(*(respelled(half, draw) for half in pair)) == told(*pair)
