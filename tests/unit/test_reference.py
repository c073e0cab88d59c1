"""The references of keys and options say all that the code has (`write_reference.py --check`)."""

from scripts.write_reference import cli_page, keys_page
from sim.cli import VERBS
from sim.inputs.fields import plan_of
from sim.inputs.schema import SIDES


def test_every_verb_and_every_key_stands_there():
    page = cli_page()
    assert [verb for verb in VERBS if f"\n## {verb}" not in page] == []
    keys = keys_page()
    for spec in SIDES.values():
        assert [name for name in plan_of(spec) if f"| `{name}` |" not in keys] == []
    # what stands beside a key in the code is what is told of it
    told = "peer-to-peer over PCIe allowed (false on GeForce)"
    assert f"| `p2p` | boolean | `true` | {told} |" in keys
    assert "asked for often" not in keys
    # left out, a node's links are those of its GPU's board: null is what one writes for none
    assert "| `nvlink` | null \\| NvLink | its GPU's | " in keys
    assert "| `pcie` | Pcie | its GPU's | " in keys
