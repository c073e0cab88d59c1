"""The resolved configuration and the JSON schemas."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from sim.inputs import loader
from sim.inputs.config import resolved
from sim.inputs.schema import file_schema

ROOT = Path(__file__).parents[2]


def test_every_value_has_its_source():
    loaded = loader.load("dgx-h100", "llama3-8b-lora", ["node.gpu.power_limit=500 W", "nodes=2"])
    lines = {line.path: line for line in resolved(loaded).keys}
    assert lines["topology.nodes"].origin.kind == "override"
    assert lines["topology.node.nics.rate"].value == "50 GB/s"
    assert lines["topology.node.nics.rate"].origin.kind == "user"
    assert lines["topology.node.nics.rate"].origin.place.endswith("dgx-h100.yaml:11:26")
    assert lines["topology.node.gpu.power_limit"].value == "500 W"
    assert lines["topology.node.gpu.power_limit"].origin.kind == "override"
    assert lines["topology.node.gpu.sms"].origin.kind == "catalogue"
    assert lines["workload.model.layers"].origin.kind == "catalogue"
    assert lines["workload.cuda_graphs"] == ("workload.cuda_graphs", "false", ("default", ""))
    assert lines["workload.checkpoint.interval"].value == "30 min"


def test_the_written_values_read_back():
    first = loader.load("dgx-h100", "llama3-70b-qlora")
    sets = [
        f"{line.path}={line.value}"
        for line in resolved(first).keys
        if line.path.startswith(("topology.node.", "workload.parallelism", "workload.data"))
        and not line.path.endswith(("source", "base", "confidence", "name", "borrowed"))
    ]
    again = loader.load("dgx-h100", "llama3-70b-qlora", sets)
    assert again.topology == first.topology
    assert again.workload == first.workload


@pytest.mark.parametrize("side", ["topology", "workload"])
def test_schema_knows_every_key_and_every_reference(side):
    document = file_schema(side).to_dict()
    text = json.dumps(document)
    name = side.capitalize()
    cls = {"Topology": loader.Topology, "Workload": loader.Workload}[name]
    assert set(document["definitions"][name]["properties"]) == set(cls.model_fields)
    references = {part.split('"')[0] for part in text.split("#/definitions/")[1:]}
    assert references <= set(document["definitions"])


@pytest.mark.parametrize(
    ("side", "folder"), [("topology", "topologies"), ("workload", "workloads")]
)
def test_shipped_files_satisfy_the_schema(side, folder):
    published = (ROOT / "schemas" / f"{side}.schema.json").read_text()
    assert published == file_schema(side).to_json() + "\n"  # scripts/write_reference.py
    validator = jsonschema.Draft7Validator(file_schema(side).to_dict())
    for path in sorted((ROOT / folder).glob("*.yaml")):
        first = path.read_text().splitlines()[0]
        assert first == f"# yaml-language-server: $schema=../schemas/{side}.schema.json"
        assert [e.message for e in validator.iter_errors(YAML(typ="safe").load(path))] == []
