"""Origins of constants: every number says where it is from, and scripts give what they claim.

The slow fits (GEMM, collectives, training) are not run; their errors are held elsewhere.
"""

from pathlib import Path

import pytest

from bench.fit import attention, elementwise, memory
from sim.cost.constants import attention_of, part_of
from sim.data import DATA, table

ROOT = Path(__file__).parents[2]
GENERATIONS = ("a100", "b200", "h100", "l40s")


def numbers(generation):
    """Addresses of a file's own numbers: ``bandwidth.cast``, ``attention.flash2.forward``."""
    for part, values in table(f"constants/{generation}").items():
        if part == "origin" or not isinstance(values, dict):
            continue
        for key, value in values.items():
            if key == "table":
                yield from sorted({f"{part}.{kind}.{way}" for kind, way, *_ in value})
            elif key != "borrow":
                yield f"{part}.{key}"


def origin(generation, address):
    """The text of the longest entry that an address begins with; "" if none does."""
    said = table(f"constants/{generation}")["origin"]
    while address:
        if address in said:
            return said[address]
        address = address.rpartition(".")[0]
    return ""


def from_script(name):
    path = f"bench/fit/{name}.py"
    return [(g, a) for g in GENERATIONS for a in numbers(g) if origin(g, a) == path]


@pytest.mark.parametrize("generation", [*GENERATIONS, "kernels", "variation"])
def test_every_number_has_an_origin(generation):
    assert [a for a in numbers(generation) if not origin(generation, a)] == []
    for address in table(f"constants/{generation}")["origin"]:
        assert any(a.startswith(address) for a in numbers(generation)), address
    for text in table(f"constants/{generation}")["origin"].values():
        assert not text.startswith("bench/") or (ROOT / text).is_file()


def test_shares_of_bandwidth_are_those_of_their_script():
    """To two places, as they ship."""
    claimed = [(g, a) for g, a in from_script("elementwise") if a.startswith("bandwidth")]
    assert len(claimed) == 6
    fits = {gpu: elementwise.fit(gpu)[0] for gpu in ("A100", "H100")}
    for generation, address in claimed:
        name = address.removeprefix("bandwidth.")
        shipped = part_of(generation, "bandwidth")[name]
        assert fits[generation.upper()][name] == pytest.approx(shipped, abs=0.005), address


def test_what_an_sm_moves_is_that_of_the_script():
    """To three figures, as it ships."""
    assert part_of("h100", "sm_bytes") == pytest.approx(elementwise.sm_bytes(), rel=0.005)


def test_attention_is_that_of_its_script():
    claimed = from_script("attention")
    assert len(claimed) == 10
    fits = attention.constants()
    for generation, address in claimed:
        _, kind, way = address.split(".")
        rows = {key: c for key, c in attention_of(generation).items() if key[:2] == (kind, way)}
        assert rows
        for (_, _, size), shipped in rows.items():
            (rate, knee, full), _ = fits[generation.upper(), kind, way, size]
            assert shipped.rate == pytest.approx(rate, abs=6e-4)
            assert (shipped.knee, shipped.knee_full) == (round(knee), round(full))


def test_fragmentation_is_that_of_its_script():
    found = memory.fragmentation()
    assert found == pytest.approx(table("constants/memory")["fragmentation"], abs=5e-5)


def test_borrowed_shares_follow_their_lender():
    a100, l40s = (part_of(g, "bandwidth") for g in ("a100", "l40s"))
    assert l40s["rows"] == pytest.approx(1.17 * a100["rows"])
    assert l40s["cast"] == 0.90  # 1.17 x 0.80, no more than copies reach
    assert l40s["stream"] == 0.88  # its own
    assert attention_of("l40s") == attention_of("a100")
    assert part_of("b200", "bandwidth") == part_of("h100", "bandwidth")
    h100, b200 = attention_of("h100"), attention_of("b200")
    assert {kind for kind, *_ in b200} == {"flash2", "cudnn"}
    key = ("flash2", "forward", 128)
    assert b200[key].rate == pytest.approx(0.528 * h100[key].rate)
    assert (b200[key].knee, b200[key].knee_full) == (h100[key].knee, h100[key].knee_full)


def test_what_all_have_in_common_may_be_told_otherwise():
    assert part_of("a100", "power")["exponent"] == 2.4
    assert part_of("h100", "power")["exponent"] == 1.8
    assert {part_of(g, "interference")["compute_loss"] for g in GENERATIONS} == {2.0}


def test_no_file_of_constants_is_left_out():
    """A generation's file is named by an architecture."""
    named = {row["constants"] for row in table("architectures")["architecture"].values()}
    assert named == set(GENERATIONS)
    found = {p.stem for p in (DATA / "constants").glob("*.toml")}
    assert {g for g in found if "gemm" in table(f"constants/{g}")} == named
