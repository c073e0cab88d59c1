"""Specs as Python makes them: checked, frozen, copied, sent to other processes."""

import copy
import pickle
import subprocess
import sys

import pytest

from sim.errors import InputError
from sim.inputs.topology import Nics, Pcie, Vertex
from sim.inputs.workload import Data, Parallelism, SampleLengths


def faults(cls, **values):
    with pytest.raises(InputError) as caught:
        cls(**values)
    return [str(fault) for fault in caught.value.faults]


def test_all_faults_are_told_and_what_would_be_right():
    assert faults(Pcie, generation="5", lanes=0, lane=16) == [
        "Pcie  generation: '5' is not a whole number",
        "Pcie  lanes: 0 is not at least 1",
        "Pcie  lane: is no field; there are generation, lanes, gpus_per_switch, nics_per_switch, "
        "p2p",
    ]
    assert faults(Pcie) == ["Pcie  generation: is missing"]


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (Nics, {"count": True}),
        (Nics, {"count": 8.0}),
        (Nics, {"rate": float("inf")}),
        (Nics, {"rate": "400 Gb/s"}),
        (Nics, {"rate": 0.0}),
        (Nics, {"kind": "myrinet"}),
        (Nics, {"gpudirect": 1}),
        (Nics, {"efa": 5}),
        (Parallelism, {"strategy": "fsdp3"}),
        (Data, {"sequence_lengths": {"mean": -1.0}}),
        (Data, {"sequence_lengths": 7}),
    ],
)
def test_nothing_is_guessed(cls, values):
    assert len(faults(cls, **values)) == 1


def test_numbers_and_inner_specs_are_taken_as_they_are_meant():
    assert Nics(rate=50_000_000_000) == Nics()
    assert type(Nics(rate=50_000_000_000).rate) is float
    assert Nics(efa=None).efa is None
    lengths = {"mean": 700, "maximum": 4096}
    assert Data(sequence_lengths=lengths).sequence_lengths == SampleLengths(**lengths)


def test_a_spec_is_frozen_and_copies_differ_in_what_is_said():
    nics = Nics(count=4)
    with pytest.raises(AttributeError, match="frozen"):
        nics.count = 8
    with pytest.raises(AttributeError, match="frozen"):
        del nics.count
    other = nics.model_copy(update={"rate": 1e9})
    assert (nics.rate, other.rate, other.count) == (50e9, 1e9, 4)
    assert other.model_fields_set == {"count", "rate"}
    assert other.model_dump(exclude_defaults=True) == {"count": 4, "rate": 1e9}
    assert hash(nics) == hash(Nics(count=4)) != hash(other)
    assert nics != other
    assert repr(Vertex(id="a", kind="gpu")).startswith("Vertex(id='a', kind='gpu'")
    with pytest.raises(TypeError, match="Nics has no field counts"):
        Nics.model_construct(counts=4)


def test_copies_and_other_processes_have_equal_specs():
    nics = Nics(kind="roce")
    hash(nics)
    assert copy.deepcopy(nics) == copy.copy(nics) == pickle.loads(pickle.dumps(nics)) == nics
    code = (  # where texts have other hashes
        f"import pickle; n = pickle.loads({pickle.dumps(nics)})\n"
        "from sim.inputs.topology import Nics; print({n: 1}[Nics(kind='roce')], n.model_fields_set)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 frozenset({'kind'})\n"
