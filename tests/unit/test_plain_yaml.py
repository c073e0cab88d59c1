"""What is read without the YAML parser has the very tree that the parser gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.inputs import plain_yaml, yaml
from sim.inputs.plain_yaml import read_plain
from sim.inputs.tree import plain_of
from sim.inputs.yaml import from_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(
    path
    for folder in ("topologies", "workloads", "docs/examples", "sim/data/studies")
    for path in (ROOT / folder).rglob("*.yaml")
)
TEXTS = [path.read_text(encoding="utf-8") for path in SHIPPED]
MARKS = " \n:-#[]{},'\"&*!|>%@`?ab1.\t~<=\\\u00e9\u2028"
PIECES = (
    "  ", ": ", " #", "- ", '"x"', "'y'", "[a, b]", "{a: 1}", "\n  ", "\n", "key:", "-1", "<<: *a",
    '{a: {b: [1, 2]}, c: "d"}', "key: ", "\n- - a", "[]", "{}", "? a", "key: |\n  a", "\n---\n",
    "'it''s'", '"a\\n"', "[a: b]", "{a, b}", "a:b", "http://x", "k" * 101,
)  # fmt: skip


def parsed(text: str, monkeypatch):
    """The tree, by the parser alone; None where it finds faults."""
    with monkeypatch.context() as patch:
        patch.setattr(yaml, "read_plain", lambda text, source: None)
        try:
            return from_yaml(text, "x")
        except InputError:
            return None


@pytest.mark.parametrize("text", TEXTS, ids=[path.name for path in SHIPPED])
def test_shipped_files(text, monkeypatch):
    found = read_plain(text, "x")
    assert found is None or found == parsed(text, monkeypatch)


def test_machines_and_jobs_are_plain():
    inputs = [t for t, p in zip(TEXTS, SHIPPED, strict=True) if p.parent.parent == ROOT]
    assert len(inputs) > 60
    assert all(read_plain(text, "x") for text in inputs)


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "{a: 1}", "[1, 2]", " {a: {b: [1, x y]}, c: \"d\"} # e", "# a\n[{b: 500 W}]\n",
        "{base: h100-sxm-80gb, power_limit: 500 W, memory_bandwidth: 2.4 TB/s}",
    ],
)  # fmt: skip
def test_brackets_alone_as_settings_have_them(text, monkeypatch):
    found = read_plain(text, "x")
    assert found is not None
    assert found == parsed(text, monkeypatch)


def changed(text: str, draw: random.Random) -> str:
    """A few lines of a text, with some slips of the keyboard."""
    lines = text.split("\n")
    at = draw.randrange(len(lines))
    text = "\n".join(lines[max(0, at - 6) : at + 6]) + "\n" * draw.randrange(2)
    for _ in range(draw.randrange(1, 4)):
        at, how = draw.randrange(len(text) + 1), draw.random()
        if how < 0.4:
            text = text[:at] + draw.choice(MARKS) + text[at:]
        elif how < 0.6:
            text = text[:at] + text[at + 1 :]
        elif how < 0.8:
            text = text[:at] + draw.choice(PIECES) + text[at:]
        else:
            other = draw.randrange(len(text) + 1)
            text = text[:at] + text[other : other + 20] + text[at:]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_slips_are_read_as_the_parser_reads_them_or_not_at_all(seed, monkeypatch):
    draw = random.Random(seed)
    small = [text for text in TEXTS if len(text) < 3000]
    read = 0
    for _ in range(400):
        text = changed(draw.choice(small), draw)
        found = read_plain(text, "x")
        if found is not None:
            read += 1
            assert found == parsed(text, monkeypatch), text
    assert read > 40


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing", "a:", "a: b\n  c", "a: [b,\n c]", "a: *b", "a: &b c", "a: !t b",
        "a: |\n  b", "a: b: c", "a: 'it''s'", 'a: "\\n"', "a: b\na: c", "a: {b: 1, b: 2}", "a:\tb",
        "- - a", "-\n", "a: b\n---\na: c", "? a", "<<: b", "a: b\r\nc: d", "a: [b: c]",
        "{a: 1}\nb: 2", "{a: 1}: 2", "[a]\n- b", "{a: 1}\n{b: 2}", "{a: [1}]", "[a\n]", "{a: 1} b",
        "\ufeffa: b", "a: b\n c: d", "a: {b}", "1: b", "a: @b", "a: `b`", "a: %b", "a: [b,]",
        "a: 'b' c", "a: [b] c", "scalar", "k: " + "[" * 20 + "]" * 20,
    ],
)  # fmt: skip
def test_what_only_the_parser_reads(text):
    assert read_plain(text, "x") is None


def test_characters_that_are_not_plain():
    plain = [range(0x20, 0x7F), range(0xA0, 0x2028), range(0x202A, 0xD800), range(0xE000, 0xFEFF),
             range(0xFF00, 0xFFFE)]  # fmt: skip
    known = {"\n", *(chr(i) for some in plain for i in some)}
    found = {one for one in map(chr, range(0x110000)) if not plain_yaml._NOT_PLAIN.match(one)}
    assert found == known


def test_plain_texts_are_read_to_the_last_value_allowed_and_no_further(monkeypatch):
    monkeypatch.setattr("sim.inputs.plain_yaml.MAX_VALUES", 6)
    tree = from_yaml("a: [1, 2]\nb:\n  - {c: 1}\n", "x")
    assert plain_of(tree) == {"a": ["1", "2"], "b": [{"c": "1"}]}
    with pytest.raises(InputError, match=r"^x:3:16  more than 6 values in one file$"):
        from_yaml("a: [1, 2]\nb:\n  - {c: 1, d: [2]}\n", "x")


def test_a_text_beyond_plain_yaml_is_read_so_far_and_says_where_and_why(monkeypatch):
    monkeypatch.setattr(yaml, "_MOST_EVENTS", 8)
    assert plain_of(from_yaml("a: 'it''s'\n", "x")) == {"a": "it's"}
    # the stream, the document and the mapping begin; a, it's, b, c, d; e is the ninth
    with pytest.raises(InputError, match=r"^x:3:4  this is value, key or bracket 8, .* anchors"):
        from_yaml("a: 'it''s'\nb: c\nd: e\n", "x")


def test_a_text_of_many_faults_is_read_no_further_than_a_hundred():
    with pytest.raises(InputError) as caught:
        from_yaml("a: 1\n" * 5000, "x", [])
    first, *others = map(str, caught.value.faults)
    assert first == "x  has 100 faults up to line 101; it is not read further"
    assert others[0] == "x:2:1  a: written twice; first in line 1"
    assert len(others) == 100
