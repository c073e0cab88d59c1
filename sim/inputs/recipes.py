"""How products of linear layers run in 8 or 4 bits: one table of recipes.

Sources: Transformer Engine, common/recipe/__init__.py (``DelayedScaling`` and the other classes),
pytorch/csrc/quantizer.cpp (which kernels), pytorch/quantization.py (which GPU has which); torchao,
float8/config.py (``tensorwise``, ``rowwise``), prototype/mx_formats/mx_linear.py (``mxfp8``).
"""

from __future__ import annotations

from sim.records import NamedTuple
from sim.units import DTYPE_BYTES


class Recipe(NamedTuple):
    """What a library does around a product, and which GPU can.

    Attributes
    ----------
    dtype : str
        Of the products.
    feature : str
        What it needs of the software (`data/versions.toml`).
    library : str
        ``te`` casts a tensor once, for all its uses, and keeps for backward the copy by column; of
        ``ao`` backward has the input in 16 bits and casts the weight again.
    scale : float
        Bytes of scales an element of an input or a gradient. [B]
    weight_scale : float
        The same of a weight. [B]
    delayed : bool
        Scales are those of past steps.
    turned : bool
        Products read a copy by row and one by column; else one copy serves all three.
    amax : bool
        A pass of its own reads a tensor for its maximum, before that which casts it.
    apart : bool
        Copies of an input or a gradient by row and by column are cast by kernels of their own, each
        of which reads the tensor.
    copies : int
        Copies that forward makes of an input, and ``te`` of a weight.
    again : bool
        Backward casts the input once more, whose scales run along another axis there.
    swizzled : bool
        Scales are laid out anew for the product's instruction, by a kernel a copy.
    sums_bias : bool
        The kernel that casts a gradient sums that of the bias.
    capability : tuple of (float, float)
        Compute capabilities, from the first to below the second.
    needs : str
        Why others lack it.
    timed : bool
        Its products and casts were measured on some GPU; bands of others are wider.
    """

    dtype: str = "fp8"
    feature: str = "fp8-te"
    library: str = "te"
    scale: float = 0.0
    weight_scale: float = 0.0
    delayed: bool = False
    turned: bool = True
    amax: bool = False
    apart: bool = False
    copies: int = 2
    again: bool = False
    swizzled: bool = False
    sums_bias: bool = False
    capability: tuple[float, float] = (0.0, 99.0)
    needs: str = ""
    timed: bool = True

    @property
    def weight_bytes(self) -> float:
        """Of the copies of an element of a weight. [B]"""
        return self.copies * (DTYPE_BYTES[self.dtype] + self.weight_scale)

    @property
    def compiles(self) -> bool:
        """A compiler fuses its casts, which else are many kernels."""
        return self.library == "ao"


_MX = "scales of 32 elements are Blackwell's instructions (tcgen05)"
RECIPES: dict[str, Recipe] = {
    # a maximum of past steps: one kernel casts, transposes and takes the next maximum
    "te-delayed": Recipe(sums_bias=True, delayed=True),
    "te-current": Recipe(amax=True),
    # fp32 scales: 1 x 128 elements of inputs and gradients, 128 x 128 of weights (DeepSeek-V3)
    "te-blockwise": Recipe(
        feature="fp8-blockwise", scale=4 / 128, weight_scale=4 / 128**2, timed=False,
        capability=(9.0, 99.0), needs="products of scaled blocks are cuBLAS's from Hopper on",
    ),
    # E8M0 scales of 32 elements, along either axis
    "te-mxfp8": Recipe(
        feature="fp8-mx", scale=1 / 32, weight_scale=1 / 32, swizzled=True, sums_bias=True,
        capability=(10.0, 12.0), needs=_MX, timed=False,
    ),
    # E4M3 scales of 16 elements, an fp32 one of the tensor, whose maximum comes first; a Hadamard
    # matrix turns what the weight's gradient reads, gradients are rounded stochastically
    "te-nvfp4": Recipe(
        "fp4", feature="fp4-te", scale=1 / 16, weight_scale=1 / 16, amax=True, apart=True,
        swizzled=True, capability=(10.0, 12.0), timed=False,
        needs="stochastic rounding to 4 bits is capability 10's (PTX, cvt.rs)",
    ),
    "tensorwise": Recipe(feature="fp8-torchao", library="ao", amax=True),
    "rowwise": Recipe(feature="fp8-torchao", library="ao", amax=True, again=True),
    "mxfp8": Recipe(
        feature="fp8-mx-torchao", library="ao", scale=1 / 32, weight_scale=1 / 32, apart=True,
        copies=1, again=True, swizzled=True, capability=(10.0, 12.0), needs=_MX, timed=False,
    ),
}  # fmt: skip
WRITTEN = tuple(RECIPES)
#: Where FP8 products take operands as they lie, tensors of one scale have one copy.
#: Source: Transformer Engine 2.8, pytorch/utils.py, ``is_non_tn_fp8_gemm_supported``;
#: pytorch/csrc/quantizer.cpp, ``Float8Quantizer::create_tensor``
ONE_COPY = {name: f"{name}, one copy" for name in ("te-delayed", "te-current")}
for _name, _once in ONE_COPY.items():
    RECIPES[_once] = RECIPES[_name]._replace(copies=1, turned=False)


def needs_one_copy(capability: float) -> bool:
    """Whether a GPU's FP8 products take operands by row and by column alike."""
    return 10.0 <= capability < 12.0 or capability >= 13.0


#: what a precision means without a recipe: what torchao does, and the only one of 4 bits
USUAL = {"fp8": "tensorwise", "fp4": "te-nvfp4"}
#: recipes by the names that people write in place of a precision
SPOKEN = {"mxfp8": "mxfp8", "nvfp4": "te-nvfp4"}
