"""What of a model is trained: all, some layers, or adapters beside it."""

from __future__ import annotations

from typing import Literal

from sim.inputs.base import Fraction, NotNegative, Spec

#: keys of a method that say which layers are trained
OF_FREEZE = ("last", "first", "layers", "modules", "extra")


class Method(Spec):
    """Full fine-tuning or pretraining, of some layers alone, LoRA, QLoRA."""

    kind: Literal["full", "freeze", "lora", "qlora"] = "full"
    # of freeze: the layers that are trained, the first one 0: the last so many, the first, or these
    last: NotNegative = 0
    first: NotNegative = 0
    layers: tuple[NotNegative, ...] = ()
    modules: tuple[Literal["attention", "ffn", "norms"], ...] = ("attention", "ffn", "norms")
    extra: tuple[Literal["embedding", "norm", "head"], ...] = ()  # trained beside layers
    rank: NotNegative = 0
    # resolved: "q", "k", "v", "o", "gate", "up", "down", of mixers "in_proj", "out_proj"
    targets: tuple[str, ...] = ()
    quantization: Literal["none", "nf4", "gptq-int4", "int8"] = "none"
    double_quantization: bool = True
    # None: AutoGPTQ's default, cuda-old, or what fused adapters ask for, triton (its v2)
    gptq_kernels: Literal["cuda-old", "triton", "exllama", "marlin"] | None = None
    dropout: Fraction = 0.05
    dora: bool = False  # rows of the weight and its adapters are scaled to trained lengths (PEFT)
    # PEFT's prepare_model_for_kbit_training: what is not of 4 bits is fp32, and so between products
    prepare_kbit: bool = False
    # of what is frozen and not of 4 bits; as-compute: fp32 with prepare_kbit
    frozen_dtype: Literal["as-compute", "fp32", "bf16"] = "as-compute"
    adapters: Literal["eager", "fused"] = "eager"  # PEFT's layers; fused: Unsloth, fms
    # None: PEFT's fp32, unless the strategy hands every parameter over in the compute dtype
    adapter_dtype: Literal["as-compute", "fp32", "bf16"] | None = None
    input_require_grads: bool | None = None  # None: with activation checkpointing, as PEFT does

    @property
    def frozen(self) -> bool:
        """Whether weights of the model are not trained: all, or (freeze) some."""
        return self.kind != "full"

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained beside a base that is not."""
        return self.kind in ("lora", "qlora")

    def trained_layers(self, layers: int) -> frozenset[int]:
        """Of `freeze`, the layers of so many that are trained, the first one 0."""
        ends = {*range(min(self.first, layers)), *range(max(0, layers - self.last), layers)}
        return frozenset(ends | set(self.layers))

    @property
    def quantised(self) -> bool:
        """Whether the base is stored in 4 bits, or in 8."""
        return self.adapted and self.quantization != "none"

    @property
    def told(self) -> str:
        """In a word: ``full``, ``lora``, ``dora``, or how the base is stored."""
        if self.frozen and self.dora:
            return "dora"
        return self.quantization if self.quantised else self.kind
