"""Products in 8 and 4 bits: bytes of casts and copies by hand, GPUs that have them, their words."""

import math
from dataclasses import replace

import pytest

import sim
from sim.blocks.footprint import layer_footprint
from sim.blocks.from_workload import setting_of
from sim.blocks.layer import block_kinds, describe
from sim.blocks.linear import linear
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.unroll import PHASES, unroll
from sim.cost.kernel_cost import CostModel
from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.loader import load
from sim.inputs.recipes import RECIPES
from sim.inputs.rows import run_on
from sim.result.bands import band, evidence
from sim.result.likeness import JobTraits
from sim.step.step import memory_of
from tests.unit.decoders import LLAMA

TOKENS, WIDE, OUT = 1000, 256, 512
X, W, Y = TOKENS * WIDE, WIDE * OUT, TOKENS * OUT


def played(recipe):
    """A linear layer under torch.compile: bytes by kernel forward and backward, and its op."""
    t = Tape(Setting(model=LLAMA, tokens=TOKENS, recipe=recipe, compiled=True), True)
    linear(t, "w", t.tensor(2.0 * X), WIDE, OUT)
    forward = [r for op in t.ops for r in op.forward]
    backward = [r for op in t.ops for r in op.backward]
    casts = [
        {r.name[2:]: r.bytes for r in rows if r.kind == "quantize"} for rows in (forward, backward)
    ]
    return *casts, t.ops[-1]


@pytest.mark.parametrize(
    ("recipe", "forward", "backward", "kept"),
    [
        # read once in bf16, written by row and by column
        ("te-delayed", {"input.cast": 4 * X, "weight.cast": 4 * W}, {"grad.cast": 4 * Y}, X),
        # and read once more for its maximum
        ("te-current",
         {"input.amax": 2 * X, "input.cast": 4 * X, "weight.amax": 2 * W, "weight.cast": 4 * W},
         {"grad.amax": 2 * Y, "grad.cast": 4 * Y}, X),
        # on Blackwell one copy of each serves all three products
        ("te-delayed, one copy",
         {"input.cast": 3 * X, "weight.cast": 3 * W}, {"grad.cast": 3 * Y}, X),
        ("te-current, one copy",
         {"input.amax": 2 * X, "input.cast": 3 * X, "weight.amax": 2 * W, "weight.cast": 3 * W},
         {"grad.amax": 2 * Y, "grad.cast": 3 * Y}, X),
        # an fp32 scale for 128 elements of an input or a gradient, for 128 x 128 of a weight
        ("te-blockwise",
         {"input.cast": (4 + 2 / 32) * X, "weight.cast": (4 + 2 / 4096) * W},
         {"grad.cast": (4 + 2 / 32) * Y}, (1 + 1 / 32) * X),
        # a byte for 32 elements, laid out anew: read and written, of two copies
        ("te-mxfp8",
         {"input.cast": (4 + 2 / 32) * X, "input.swizzle": 4 / 32 * X,
          "weight.cast": (4 + 2 / 32) * W, "weight.swizzle": 4 / 32 * W},
         {"grad.cast": (4 + 2 / 32) * Y, "grad.swizzle": 4 / 32 * Y}, (1 + 1 / 32) * X),
        # half a byte and a scale for 16; by row and by column are two kernels, of a weight one
        ("te-nvfp4",
         {"input.amax": 2 * X, "input.cast": (2 + 2 + 1 + 2 / 16) * X, "input.swizzle": 4 / 16 * X,
          "weight.amax": 2 * W, "weight.cast": (2 + 1 + 2 / 16) * W, "weight.swizzle": 4 / 16 * W},
         {"grad.amax": 2 * Y, "grad.cast": (2 + 2 + 1 + 2 / 16) * Y, "grad.swizzle": 4 / 16 * Y},
         (1 / 2 + 1 / 16) * X),
        # torchao: by row in forward, by column of input and weight in backward, from 16 bits
        ("mxfp8",
         {"input.cast": (3 + 1 / 32) * X, "input.swizzle": 2 / 32 * X,
          "weight.cast": (3 + 1 / 32) * W, "weight.swizzle": 2 / 32 * W},
         {"grad.cast": (6 + 2 / 32) * Y, "grad.swizzle": 4 / 32 * Y,
          "input.cast": (3 + 1 / 32) * X, "input.swizzle": 2 / 32 * X,
          "weight.cast": (3 + 1 / 32) * W, "weight.swizzle": 2 / 32 * W}, 0),
    ],
)  # fmt: skip
def test_casts_move_and_keep_what_is_counted_by_hand(recipe, forward, backward, kept):
    found_forward, found_backward, op = played(recipe)
    small = {"input.amax": 4096, "weight.amax": 4096}  # delayed: histories of maxima
    if RECIPES[recipe].delayed:
        forward, backward = {**forward, **small}, {**backward, "grad.amax": 4096}
    assert found_forward == pytest.approx(forward)
    assert found_backward == pytest.approx(backward)
    assert op.extra == pytest.approx(kept)
    assert bool(op.saves) is (kept == 0)  # torchao's backward has the input in 16 bits
    products = [r for r in (*op.forward, *op.backward) if r.kind == "gemm"]
    assert {r.dtype for r in products} == {RECIPES[recipe].dtype}
    assert len(products) == 3  # NVFP4 too: forward, the input's gradient, the weight's


def test_a_product_in_4_bits_takes_the_gpus_own_peak():
    """9 PFLOP/s of a B200, half a byte an element; what it makes is bf16."""
    gpu = catalogue.gpu("b200-sxm-180gb")
    model = CostModel(gpu)
    assert model.peak("fp4") == 2 * model.peak("fp8") == 9e15
    t = Tape(Setting(model=LLAMA, tokens=8192, recipe="te-nvfp4", compiled=True), True)
    linear(t, "w", t.tensor(1.0), 8192, 8192)
    product = next(r for r in t.ops[-1].forward if r.kind == "gemm")
    assert product.bytes == 8192**2 * (0.5 + 0.5 + 2)
    four, eight = model.cost(product), model.cost(product._replace(dtype="fp8"))
    assert 0.5 < four.time_s / eight.time_s < 0.75


BLACKWELL = ["stack={torch: '2.9', cuda: '12.9', nccl: '2.27'}", "compile=true"]


@pytest.mark.parametrize(
    ("machine", "precision", "said"),
    [
        ("dgx-h100", "mxfp8", r"Blackwell's instructions .*; h100-sxm-80gb has .* capability 9;"),
        ("dgx-h100", "{fp8: {recipe: te-mxfp8}}", "write bf16, or {fp8: {recipe: te-current}}"),
        ("dgx-h100", "nvfp4", "te-nvfp4 does not run on h100-sxm-80gb: stochastic rounding"),
        ("rtx-5090-x1", "nvfp4", "capability 12"),
        ("l40s-8", "{fp8: {recipe: te-blockwise}}", "cuBLAS's from Hopper on"),
        ("dgx-h100", "{fp8: {recipe: te-nvfp4}}", "no recipe of fp8; write te-delayed"),
        ("dgx-h100", "{fp4: {recipe: te-mxfp8}}", "no recipe of fp4; write te-nvfp4"),
        ("dgx-b200", "{fp4: {bf16_first: 16, bf16_last: 16}}", "16 and 16 of 32 layers leave none"),
        ("dgx-b200", "{bf16: {bf16_first: 1}}", "has no meaning for bf16"),
        ("dgx-h100", "{fp8: {all_gather: fp8, bf16_last: 1}}", "fsdp2 gathers all of a model's"),
        ("dgx-h100", "{fp4: {all_gather: fp8}}", "has no meaning for fp4"),
        ("dgx-a100", "{fp8: {recipe: te-current}}", "has no FP8"),
    ],
)
def test_a_recipe_that_a_gpu_lacks_is_refused_with_its_reason(machine, precision, said):
    with pytest.raises(InputError, match=said):
        load(machine, "llama3-8b-sft", [f"precision={precision}", *BLACKWELL])


def test_a_gpu_of_ones_own_says_that_it_has_fp4():
    gpu = {"name": "b999", "architecture": "blackwell", "compute_capability": 10.0,
           "memory": "180 GB", "memory_bandwidth": "8000 GB/s", "sms": 148, "power_limit": "1000 W",
           "peak_bf16": "2250 TFLOP/s", "peak_fp8": "4500 TFLOP/s"}  # fmt: skip
    sets = ["precision=nvfp4", "parallelism=single", *BLACKWELL]
    with pytest.raises(InputError, match="b999 states no peak_fp4"):
        load({"name": "m", "node": {"gpu": gpu, "gpus": 1}}, "llama3-8b-sft", sets)
    gpu["peak_fp4"] = "9 PFLOP/s"
    load({"name": "m", "node": {"gpu": gpu, "gpus": 1}}, "llama3-8b-sft", sets)


def test_a_band_holds_products_of_twice_the_time_where_none_was_timed():
    """Half of the step in products and casts: 1.5 times as long."""
    job = JobTraits("h100", "fsdp2", "full", 8, 8e9, 8192.0, fp8=True)
    plain = band(job, evidence())
    wide = band(job._replace(recipe=math.log(1.5)), evidence())
    assert wide.half_width == pytest.approx(math.hypot(plain.half_width, math.log(1.5)))
    assert wide.beyond[-1] == "the speed of this recipe's products and casts"


def test_only_recipes_that_no_run_timed_are_wider():
    def beyond(recipe):
        sets = [f"precision={{fp8: {{recipe: {recipe}}}}}", *BLACKWELL]
        return sim.simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False,
                            fixes=False).uncertainty.beyond_data  # fmt: skip

    assert not any("recipe" in what for what in beyond("te-current"))
    assert any("recipe" in what for what in beyond("te-blockwise"))


MEGATRON = """\
torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 32 --hidden-size 4096 \\
    --num-attention-heads 32 --seq-length 4096 --max-position-embeddings 4096 \\
    --micro-batch-size 1 --bf16 --vocab-size 128256 {options}
"""


@pytest.mark.parametrize(
    ("options", "written", "told"),
    [
        ("--fp8-format hybrid", "fp8: {recipe: te-delayed}", ()),
        ("--fp8-format hybrid --fp8-recipe tensorwise", "fp8: {recipe: te-current}", ()),
        ("--fp8-format e4m3 --fp8-recipe blockwise", "fp8: {recipe: te-blockwise}", ()),
        ("--fp8-format e4m3 --fp8-recipe mxfp8", "fp8: {recipe: te-mxfp8}", ()),
        ("--fp8-format e4m3 --fp8-recipe custom", "fp8: {recipe: te-delayed}", ("fp8-recipe",)),
        ("--fp4-format e2m1 --fp4-recipe nvfp4", "fp4: {recipe: te-nvfp4}", ()),
        ("--fp4-format e2m1 --first-last-layers-bf16 --num-layers-at-end-in-bf16 3",
         "fp4: {recipe: te-nvfp4, bf16_first: 1, bf16_last: 3}", ()),
        ("--fp4-format e2m1 --num-layers-at-end-in-bf16 3", "fp4: {recipe: te-nvfp4}", ()),
    ],
)  # fmt: skip
def test_megatrons_recipes_are_read(options, written, told, tmp_path):
    path = tmp_path / "pretrain.sh"
    path.write_text(MEGATRON.format(options=options))
    found = sim.import_job(str(path))
    assert f"precision: {{{written}}}" in found.yaml
    assert tuple(r["theirs"] for r in found.to_dict()["aside"] if r["matters"]) == told


@pytest.mark.parametrize(
    ("options", "recipe"),
    [("backend: TE", "te-delayed"), ("backend: AO", "tensorwise"),
     ("backend: TE, use_mxfp8_block_scaling: true", "te-mxfp8")],
)  # fmt: skip
def test_accelerates_recipes_are_read(options, recipe, tmp_path):
    path = tmp_path / "accelerate.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 8\n"
        f"mixed_precision: fp8\nfp8_config: {{{options}}}\n"
    )
    assert f"recipe: {recipe}" in sim.import_job(str(path)).yaml


@pytest.mark.parametrize(("recipe", "matters"), [("mxfp8_cublas", False), ("mxfp4_cutlass", True)])
def test_torchtitans_mx_is_read(recipe, matters, tmp_path):
    path = tmp_path / "mx.toml"
    path.write_text(
        '[job]\ndescription = "mine"\n[model]\nname = "llama3"\nflavor = "8B"\n'
        'converters = ["quantize.linear.mx"]\n'
        "[training]\nlocal_batch_size = 1\nseq_len = 8192\n"
        f'[quantize.linear.mx]\nrecipe_name = "{recipe}"\n'
    )
    found = sim.import_job(str(path))
    assert "precision: {fp8: {recipe: mxfp8}}" in found.yaml
    told = [r["why"] for r in found.to_dict()["aside"] if r["matters"]]
    assert any("taken as mxfp8" in why for why in told) is matters


@pytest.mark.parametrize(
    ("tool", "strategy", "precision"),
    [
        ("megatron", "megatron", "{fp8: {recipe: te-current}}"),
        ("megatron", "megatron", "{fp8: {recipe: te-blockwise}}"),
        ("megatron", "megatron", "{fp8: {recipe: te-mxfp8}}"),
        ("megatron", "megatron", "nvfp4"),
        ("megatron", "megatron", "{fp4: {bf16_first: 2, bf16_last: 8}}"),
        ("torchtitan", "fsdp2", "mxfp8"),
        ("accelerate", "fsdp2", "{fp8: {recipe: te-mxfp8}}"),
    ],
)
def test_a_recipe_is_written_so_that_it_is_read_again(tool, strategy, precision, tmp_path):
    sets = [f"precision={precision}", f"parallelism={strategy}", BLACKWELL[0]]
    sets += ["compile=true"] if tool != "megatron" else []
    written = sim.export("dgx-b200", "llama3-8b-sft", emit=[tool], folder=tmp_path, overrides=sets)
    asked = load("dgx-b200", "llama3-8b-sft", sets).workload.precision
    texts = [path.read_text() for path in tmp_path.iterdir()]
    assert written
    script = next(path for path in tmp_path.iterdir() if tool in path.name)
    read = sim.import_job(str(script)).yaml
    assert f"recipe: {asked.recipe}" in read, texts
    assert all(
        f"bf16_{end}: {n}" in read
        for end, n in zip(("first", "last"), asked.bf16_ends, strict=True)
        if n
    )


@pytest.mark.parametrize(
    ("tool", "strategy", "recipe"),
    [("megatron", "megatron", "tensorwise"), ("torchtitan", "fsdp2", "te-delayed"),
     ("axolotl", "fsdp2", "rowwise"), ("accelerate", "fsdp2", "te-current")],
)  # fmt: skip
def test_a_recipe_that_a_tool_would_change_is_refused(tool, strategy, recipe, tmp_path):
    sets = [f"precision={{fp8: {{recipe: {recipe}}}}}", f"parallelism={strategy}", *BLACKWELL]
    with pytest.raises(InputError, match="recipe"):
        sim.export("dgx-h100", "llama3-8b-sft", emit=[tool], folder=tmp_path, overrides=sets)


def test_a_tool_without_words_for_layers_that_stay_in_bf16_is_refused(tmp_path):
    sets = ["precision={fp8: {recipe: mxfp8, bf16_first: 1}}", "parallelism=fsdp2", *BLACKWELL]
    with pytest.raises(InputError, match="bf16_first"):
        sim.export(
            "dgx-b200", "llama3-8b-sft", emit=["torchtitan"], folder=tmp_path, overrides=sets
        )


@pytest.mark.parametrize(
    "layout",
    ["fsdp2", "ddp", "zero3", "{strategy: megatron, tensor_parallel: 2}",
     "{strategy: megatron, pipeline_parallel: 4}"],
)  # fmt: skip
def test_layers_that_stay_in_bf16_are_as_those_of_a_job_in_bf16(layout):
    """Of 8 layers 2 and 1: their kernels are those of bf16, and memory lies in between."""
    small = ["model=llama-3.1-8b", "model.layers=8", f"parallelism={layout}", *BLACKWELL]
    small += ["compile=false"]

    def of(precision):
        loaded = load("dgx-b200", "llama3-8b-sft", [*small, f"precision={precision}"])
        blocks, priced = unroll(loaded.workload), CostModel(loaded.topology.node.gpu)
        times = [
            sum(priced.cost(k).time_s for phase in PHASES for k in blocks.kernels[kind, phase])
            for kind in blocks.layer_kinds
        ]
        return times, memory_of(loaded.topology, loaded.workload).peak_allocated_bytes

    (wide, wide_b), (low, low_b), (mixed, mixed_b) = map(
        of, ("bf16", "nvfp4", "{fp4: {bf16_first: 2, bf16_last: 1}}")
    )
    assert mixed == [*wide[:2], *low[2:7], wide[7]]
    assert mixed[0] > mixed[2]
    assert min(wide_b, low_b) <= mixed_b <= max(wide_b, low_b)


@pytest.mark.parametrize(
    ("machine", "copies"),
    [("dgx-h100", 2), ("dgx-b200", 1), ("rtx-5090-x1", 2)],
)
@pytest.mark.parametrize("recipe", ["te-delayed", "te-current"])
def test_blackwells_products_read_one_copy(machine, copies, recipe):
    """Capability 10, not 12: cuBLAS takes FP8 operands as they lie, so nothing is transposed.

    Megatron-LM keeps them beside the weights, a byte each: 32 layers of 218,103,808.
    """
    job = {
        "model": "llama3-8b", "sequence_length": 4096, "micro_batch": 1, "steps": 1,
        "precision": {"fp8": {"recipe": recipe}}, "parallelism": "megatron",
        "stack": {"torch": "2.9", "cuda": "12.9"},
    }  # fmt: skip
    found = load(machine, job)
    run = run_on(found.topology, found.workload)
    assert RECIPES[run.precision.recipe].weight_bytes == copies
    assert found.workload.precision.recipe == recipe
    held = memory_of(found.topology, found.workload).by_moment["forward"]
    blackwell = load("dgx-b200", job)
    least = memory_of(blackwell.topology, blackwell.workload).by_moment["forward"]
    if machine != "rtx-5090-x1":  # whose one GPU holds all states
        assert held - least == (copies - 1) * 32 * 218_103_808


@pytest.mark.parametrize(
    ("recipe", "sets", "each"),
    [
        ("te-delayed", [], 2), ("te-current", [], 2), ("te-blockwise", [], 2 * (1 + 1 / 4096)),
        # whose weights are 8-bit under Megatron, or stay beside them; torchao casts them anew
        ("te-delayed", ["parallelism=megatron"], 0), ("tensorwise", ["compile=true"], 0),
    ],
)  # fmt: skip
def test_a_pass_keeps_its_copies_of_weights_until_backward(recipe, sets, each):
    """By row and by column, of every block that is not checkpointed; 218.1 M weights of 8B's."""
    job = {
        "model": "llama3-8b", "sequence_length": 1024, "micro_batch": 1, "steps": 1,
        "precision": {"fp8": {"recipe": recipe}}, "stack": {"torch": "2.9", "cuda": "12.9"},
    }  # fmt: skip
    workload = load("dgx-h100", job, sets).workload
    setting = setting_of(workload)
    kind = block_kinds(setting.model)["layer"]
    whole, plain = (
        describe(replace(setting, copies_weights=copies), kind).saved_bytes
        for copies in (setting.copies_weights, False)
    )
    weights = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert whole - plain == pytest.approx(each * weights, rel=1e-9)
    kept = {name for name, _ in layer_footprint(workload, "layer", "full").tensors}
    assert kept <= {"input", "positions"}
