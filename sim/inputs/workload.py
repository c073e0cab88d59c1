"""The job: `workload.yaml` as frozen specs. All values SI, only counts are bare."""

from __future__ import annotations

from typing import Literal

from sim.inputs.base import (
    AtLeastOne,
    Count,
    CountOrZero,
    Dollars,
    Duration,
    Factor,
    Fraction,
    Length,
    NotNegative,
    Positive,
    Seconds,
    Spec,
    StrategyName,
)
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.post_training import PostTraining
from sim.inputs.recipes import USUAL


class Precision(Spec):
    """Compute dtype and, for FP8 and FP4, its recipe."""

    kind: Literal["bf16", "fp16", "fp32", "fp8", "fp4"] = "bf16"
    # Transformer Engine's (te-...) or torchao's; fp4 is te-nvfp4
    recipe: Literal[
        "none", "te-delayed", "te-current", "te-blockwise", "te-mxfp8", "te-nvfp4", "tensorwise",
        "rowwise", "mxfp8",
    ] = "none"  # fmt: skip
    all_gather: Literal["bf16", "fp8"] = "bf16"
    # layers at either end whose products stay in bf16, as recipes of NVFP4 have it: Megatron-LM's
    # --first-last-layers-bf16 is one and one
    bf16_first: NotNegative = 0
    bf16_last: NotNegative = 0
    master: Literal["fp32", "bf16"] = "fp32"  # dtype of sharded parameters: bf16 is "pure bf16"
    # products of fp32 tensors on tensor cores, in TF32: torch.set_float32_matmul_precision("high"),
    # transformers' tf32. PyTorch has it off since 1.12
    tf32: bool = False

    @property
    def low(self) -> bool:
        """Whether linear layers multiply in fewer than 16 bits, by a recipe."""
        return self.kind in USUAL

    @property
    def bf16_ends(self) -> tuple[int, int]:
        """Layers at either end whose products stay in bf16."""
        return (self.bf16_first, self.bf16_last) if self.low else (0, 0)

    @property
    def activations(self) -> str:
        """Dtype of what is between products: of 8 and 4 bits bf16."""
        return "bf16" if self.low else self.kind

    @property
    def told(self) -> str:
        """In words: the kind, and the recipe of one that has recipes."""
        return f"{self.kind} {self.recipe}" if self.low else self.kind


class Parallelism(Spec):
    """Strategy and its knobs, by PyTorch's or DeepSpeed's own names."""

    strategy: StrategyName = "fsdp2"
    wrap: Literal["block+root", "torchtitan", "linear", "peft"] = (
        "block+root"  # peft: fsdp1, adapters apart
    )
    reshard_after_forward: bool | int = True
    root_reshard_after_forward: bool | None = None
    replicate: Positive = 1
    shard: Positive | None = None  # None: world / replicate
    context_parallel: Positive = 1
    context_parallel_kind: Literal["ring", "all-gather", "ulysses"] = "ring"
    context_parallel_rotation: Literal["all-gather", "all-to-all"] = "all-gather"  # of a ring
    context_parallel_load_balance: bool = True  # of ring and all-gather: equal work for all ranks
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1  # micro-steps are its micro-batches
    # in which order a stage's forwards and backwards run (docs/axes.md)
    pipeline_schedule: Literal[
        "1f1b", "gpipe", "interleaved-1f1b", "looped-bfs", "interleaved-zero-bubble", "zbv",
        "dualpipev",
    ] = "1f1b"  # fmt: skip
    # which layers a stage holds: equally many, or of equal work with the head (nanotron)
    pipeline_split: Literal["layers", "cost"] = "layers"
    # layers of every stage, where they are said one by one (an embedding or a head alone: 0)
    pipeline_layers: tuple[NotNegative, ...] = ()
    virtual_stages: Positive | None = None  # stages a rank; None: 1, or 2 where it takes several
    # layers that the embedding stands for; None: 1 (torchtitan), 0 under megatron
    pipeline_first_stage_less_layers: NotNegative | None = None
    pipeline_last_stage_less_layers: NotNegative | None = None  # that norm and head stand for
    pipeline_defer_receives: bool = False  # just before what needs them; not of 1f1b and gpipe
    pipeline_reshard_after_forward: bool = False  # gather a stage for every micro-batch
    expert_parallel: Positive = 1  # ranks that experts are spread over: of the axes above
    # how tokens get to them: an all-to-all of every choice, or once to each rank (and, between
    # nodes, once to each node)
    expert_dispatch: Literal["all-to-all", "deepep"] = "all-to-all"
    sequence_parallel: bool = True  # of tensor_parallel: the residual stream is split too
    loss_parallel: bool = True  # of tensor_parallel: each rank's loss is of its own logits
    # whose linear layers share matrices; None: PyTorch's DTensor, or Megatron's under `megatron`
    tensor_parallel_style: (
        Literal["dtensor", "dtensor-per-linear", "dtensor-async", "megatron", "nanotron"] | None
    ) = None
    # of the `megatron` style: exchanges beside products, by Transformer Engine's userbuffers
    tp_comm_overlap: bool = False
    # of gradients that FSDP and DDP reduce; null: as computed; auto: as computed where the trainer
    # that is named has it so under this strategy, else fp32
    reduce_dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = "auto"
    forward_prefetch: NotNegative = 0
    backward_prefetch: NotNegative | Literal["pre", "post", "none"] = (
        "pre"  # FSDP2: depth, FSDP1: name
    )
    limit_all_gathers: bool = True
    use_orig_params: bool = True
    sharding_strategy: Literal["full-shard", "shard-grad-op", "no-shard"] = "full-shard"  # FSDP1
    separate_reduce_scatter_group: bool = False
    reduce_scatter_max_input_buffers: Positive = 1
    # gradients are reduced in every micro-step or, under no_sync(), in the last; None: as a trainer
    # that is named does under this strategy, else in every
    gradient_sync: Literal["every", "last"] | None = None
    requires_all_reduce: Literal["every", "last"] = "every"
    reshard_after_backward: bool = True
    unshard_embedding_in_backward: bool = True
    # AC inside FSDP or FSDP inside AC; None: as PEFT's users have it (outside), or else inside
    checkpoint_wrapper: Literal["inside", "outside"] | None = None
    offload: Literal["none", "optimizer", "parameters", "all"] = "none"
    offload_device: Literal["cpu", "nvme"] = "cpu"
    # of what is offloaded, by FSDP2 or DeepSpeed (whose own default is False): without, the host
    # waits for every copy
    pin_memory: bool = True
    cpu_ram_efficient_loading: bool = True  # False: every rank builds the model in host memory
    clip_gradients: bool = True
    loss_all_reduce: bool = False
    stage3_max_live_parameters: CountOrZero = 1e9
    stage3_max_reuse_distance: CountOrZero = 1e9
    stage3_prefetch_bucket_size: CountOrZero | Literal["auto"] = 5e7
    stage3_param_persistence_threshold: CountOrZero | Literal["auto"] = 1e5
    reduce_bucket_size: Count | Literal["auto"] = 5e8
    allgather_bucket_size: Count = 5e8
    reduce_scatter: bool = True
    overlap_comm: bool | None = None
    sub_group_size: Count = 1e9
    # deepspeed.utils.set_z3_leaf_modules on mixtures: their experts are fetched as one module
    z3_leaf_experts: bool = False
    zero_hpz_partition_size: Positive = 1
    zero_quantized_weights: bool = False
    zero_quantized_gradients: bool = False
    communication_data_type: Literal["fp32", "bf16", "fp16"] | None = None
    deepspeed_version: str = "0.19.8"  # left out beside a written stack.torch: one of its time
    bucket_cap_mb: Count = 25.0  # DDP
    gradient_as_bucket_view: bool = False  # DDP
    use_distributed_optimizer: bool = True  # Megatron: ZeRO-1
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = False
    gradient_accumulation_fusion: bool = True  # False: gradients are added in a pass of their own
    # elements; None: Megatron's 40e6, or 1e6 a data-parallel rank, and whole stages but the first
    grad_bucket_size: Count | None = None

    @property
    def sharing(self) -> int:
        """Ranks that work on the same sequences, along the axes that split no batch. [1]"""
        return self.context_parallel * self.tensor_parallel * self.pipeline_parallel


class Routing(Spec):
    """Where a mixture's router sends tokens."""

    imbalance: AtLeastOne = 1.0  # tokens of a layer's busiest expert over the mean
    seed: NotNegative = 0  # of the draw of the others' shares


class Checkpointing(Spec):
    """Activation checkpointing."""

    kind: Literal["none", "full", "selective-op", "selective-blocks"] = "none"
    every: Positive = 1  # of selective-blocks: every n-th block
    fraction: Fraction | None = None  # of selective-blocks: share of blocks
    reentrant: bool = False
    early_stop: bool | None = None  # recompute ends at the last saved tensor; None: as PyTorch does
    offload: bool = False  # saved block inputs go to host memory


class Stack(Spec):
    """Software versions."""

    torch: str = "2.5"
    cuda: str = "12.4"
    nccl: str = "2.21"
    # buffers that the program registers with NCCL, and what it then runs inside a node
    nccl_path: Literal["plain", "registered", "symmetric", "copy-engine"] = "plain"
    transformer_engine: str | None = None
    bitsandbytes: str = "0.44"
    expandable_segments: bool = False  # PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
    # whose modelling code runs, where its waits are to count; None: memory as of torch's time
    transformers: str | None = None
    omp_num_threads: Positive | None = None  # of a rank; None: its share of the cores
    # TORCH_DISTRIBUTED_DEBUG: with detail ranks agree on each collective before they launch it
    distributed_debug: Literal["off", "detail"] = "off"
    # CPU time of each message between stages of a pipeline, sent or awaited, whatever its bytes [s]
    message_time: Seconds = 0.0


class SampleLengths(Spec):
    """Lengths of samples: a shape with its mean and maximum, or the lengths themselves."""

    shape: Literal["lognormal", "constant"] = "lognormal"
    mean: Count | None = None
    maximum: Positive | None = None  # the longest sample of the set; None: 12.4 times the mean
    lengths: tuple[int, ...] = ()  # of samples, or of the bars of a histogram
    weights: tuple[float, ...] = ()  # of the bars


class Data(Spec):
    """Input pipeline."""

    workers: NotNegative = 8
    bytes_per_token: Factor = 4.0
    preprocess_tokens_per_s_per_worker: Count = 2e5
    # False pads a micro-batch to its longest sample; padding-free: samples one after the other
    packing: bool | Literal["padding-free"] = True
    mean_length: Positive | None = None  # tokens of a sample; None: the sequence length
    sequence_lengths: SampleLengths | None = None  # instead of `mean_length`: a distribution
    document_masks: bool = False  # of packed rows: attention stops at the ends of samples
    group_by_length: bool = False  # not packed: micro-batches of like samples (transformers')
    prefetch: Positive = 2  # batches a worker keeps ready (torch's prefetch_factor)


class Evaluation(Spec):
    """Evaluation between steps: forward passes without gradients."""

    every: NotNegative = 0  # optimizer steps; 0: never
    tokens: CountOrZero = 0.0  # of one evaluation, over all ranks


class CheckpointSave(Spec):
    """Checkpoint saving."""

    interval: Seconds | None = 1800.0  # [s]
    mode: Literal["sharded", "full"] = "sharded"
    offload_to_cpu: bool = True  # of mode full: False collects the whole model on each GPU
    asynchronous: bool = False
    memory_interval: Seconds | None = None  # [s] between copies in host memory; None: no copies
    peers: NotNegative = 0  # other nodes that hold a copy of a node's part in their memory too
    keep: Positive = 2  # checkpoints in storage at a time
    export: Literal["weights", "state", "none"] = "weights"  # what leaves the provider at the end


class Phase(Spec):
    """A part of the job with needs of its own; `size` gives each the machine that suits it."""

    name: str
    kind: Literal["preprocess", "train", "evaluate"]
    tokens: Count | None = None  # None: as many as are trained on
    cores: Positive = 32  # of preprocess: as many processes, at data's rate of one worker
    price_per_hour: Dollars | None = None  # of a machine that you have for preprocess


class Workload(Spec):
    """A training job."""

    name: str
    model: Model
    method: Method = Method.model_construct()
    sequence_length: Length
    micro_batch: Positive = 1
    gradient_accumulation: Positive = 1
    global_batch: Positive | None = (
        None  # sequences a step; gives the accumulation if that is left out
    )
    tokens: Count | None = None
    steps: Positive | None = None
    samples: Positive | None = None
    epochs: Factor = 1.0
    deadline: Duration | None = None  # [s] from the start; `run` says how likely it is met
    precision: Precision = Precision.model_construct()
    # muon, galore and apollo: of the layers' matrices, AdamW of all else
    optimizer: Literal[
        "adamw",
        "adamw-bf16",
        "adamw-8bit",
        "adafactor",
        "sgd",
        "lion",
        "lion-8bit",
        "muon",
        "galore",
        "galore-8bit",
        "apollo",
    ] = "adamw"
    optimizer_rank: Positive = 128  # directions that galore and apollo project gradients onto
    optimizer_implementation: Literal["foreach", "fused", "for-loop"] = "fused"
    # states in managed memory (bitsandbytes' paged AdamW, Lion): on the GPU while there is room for
    # all beside the allocator's pools, else paged in and out each step
    optimizer_paged: bool = False
    # each parameter is stepped within backward, as soon as its gradient is there, which is then
    # freed (torchtune's optimizer_in_bwd)
    optimizer_in_backward: bool = False
    parallelism: Parallelism = Parallelism.model_construct()
    activation_checkpointing: Checkpointing = Checkpointing.model_construct()
    # te: Transformer Engine's choice by the GPU, which Megatron-LM leaves it, if nobody else does
    attention: Literal[
        "eager", "sdpa", "flash1", "flash2", "flash3", "triton", "cudnn", "te"
    ] = "flash2"  # fmt: skip
    # padding taken out of q, k and v in each layer: found once a layer (Hugging Face), or for each
    # of them (llm-foundry)
    attention_padding: Literal["none", "unpad", "unpad-each"] = "none"
    compile: bool = False
    cuda_graphs: bool = False
    # whose code the model is; None: what its trainer's mostly is
    modelling: Literal["huggingface", "torchtitan", "composer", "megatron", "nanotron"] | None = (
        None
    )
    # of a mixture: one grouped kernel, Hugging Face's loop, products one by one of tokens that are
    # sorted once, or all experts on every token; None: as the modelling code has it
    experts: Literal["eager", "grouped", "sorted", "all"] | None = None
    # of mixers in attention's place (Gated DeltaNet, Mamba-2): kernels by hand
    # (flash-linear-attention, mamba-ssm, causal-conv1d), or PyTorch's, as transformers has without;
    # None: those by hand
    mixer_kernels: Literal["fused", "torch"] | None = None
    routing: Routing = Routing.model_construct()
    # hand-fused: RMSNorm alone, RoPE too (fms), or the gate as well (Liger); None: as the modelling
    # code has it
    fused_kernels: Literal["none", "norm", "norm+rope", "all"] | None = None
    loss: Literal[
        "eager", "huggingface", "huggingface-fused", "compiled", "fused", "chunked", "fused-linear",
        "tiled",
    ] = "eager"  # fmt: skip
    loss_chunks: Positive = 8  # of a chunked loss
    train_metrics: NotNegative = 0  # times a trainer takes the loss once more, without gradient
    # a frozen model's forward in each micro-step (DPO, KTO): of a copy of the model before
    # training, or of this one with its adapters off; itself: of this one, all before it is trained
    reference: Literal["none", "copy", "adapters-off", "itself"] = "none"
    # of the copy's weights; None: the compute dtype, as trainers load it
    reference_dtype: Literal["bf16", "fp32"] | None = None
    reference_passes: NotNegative = 1  # forwards in a micro-step; 0: all made before training
    # the loop around forward, backward and step; None: what the strategy mostly runs under
    trainer: (
        Literal[
            "huggingface",
            "accelerate",
            "torchtitan",
            "torchtune",
            "composer",
            "deepspeed",
            "megatron",
            "nanotron",
            "none",
        ]
        | None
    ) = None
    stack: Stack = Stack.model_construct()
    data: Data = Data.model_construct()
    checkpoint: CheckpointSave = CheckpointSave.model_construct()
    evaluation: Evaluation = Evaluation.model_construct()
    phases: tuple[Phase, ...] = ()
    post_training: PostTraining | None = None  # `posttrain`: rollouts before each update
    sources: tuple[str, ...] = ()
