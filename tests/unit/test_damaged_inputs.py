"""Whatever is damaged in a file, a value or an override: a list of faults, or it loads."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.inputs import loader
from sim.inputs.yaml import from_yaml
from tests.hostile.samples import TOPOLOGY

_pieces = st.sampled_from(
    [
        *TOPOLOGY,
        "\n",
        "  ",
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "!!",
        "'",
        '"',
        "|",
        ">",
        "#",
        "node:",
        "gpus",
        "8",
        "\t",
        "%",
        "---",
        "...",
        "?",
        "<<",
        "\x00",
        "é",
        "0x",
        "1e999",
        "null",
    ]
)


@settings(max_examples=150)
@given(
    st.integers(0, len(TOPOLOGY)), st.integers(0, 12), st.lists(_pieces, max_size=6).map("".join)
)
def test_any_damage_is_a_fault_or_loads(at, cut, piece):
    text = TOPOLOGY[:at] + piece + TOPOLOGY[at + cut :]
    try:
        tree = from_yaml(text, "t")
    except InputError as error:
        if not error.faults:
            pytest.fail("an error without a fault")
        return
    reader = loader.Reader()
    spec = reader.read(loader.Topology, tree, "")
    assert (spec is None) == bool(reader.faults)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("400 Gb/s"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "gpu",
                    "base",
                    "lora",
                    "rank",
                    "kind",
                    "selective",
                    "strategy",
                    "vertices",
                    "edges",
                    "id",
                    "generation",
                    "fp8",
                    "x",
                    "layers",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


_keys = sorted(("load_workload", k) for k in loader.Workload.model_fields) + sorted(
    ("load_topology", k) for k in loader.Topology.model_fields
)


_whole = {
    "load_workload": {"name": "j", "model": "llama-3-8b", "sequence_length": 8, "tokens": 1e9},
    "load_topology": {"name": "t", "node": {"gpu": "h100-sxm-80gb", "pcie": {"generation": 5}}},
}


@settings(max_examples=300)
@given(st.sampled_from(_keys), _values)
@example(("load_workload", "model"), {"base": []})
def test_any_value_of_any_key_is_a_fault_or_loads(which, value):
    verb, key = which
    try:
        spec = getattr(loader, verb)(_whole[verb] | {key: value})
    except InputError as error:
        if not error.faults:
            pytest.fail("an error without a fault")
    else:
        assert type(spec).model_validate(spec.model_dump()) == spec


@settings(max_examples=150)
@given(
    st.sampled_from([k for _, k in _keys] + ["node.gpu", "node.nics.rate", "graph.edges"]),
    st.sampled_from(["", ".a", "[0]", "[0].b", ".lora.rank", ".base", ".kind", ".5"]),
    st.sampled_from(["=", "==", "", "= "]),
    st.text(alphabet="a1{}[],: \"'&*!#|-.e\n", max_size=12),
)
def test_any_override_is_a_fault_or_loads(key, tail, equals, value):
    try:
        loader.load("dgx-h100", "llama3-8b-lora", [key + tail + equals + value])
    except InputError as error:
        if not error.faults:
            pytest.fail("an error without a fault")
