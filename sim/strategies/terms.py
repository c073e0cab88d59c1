"""Words for what a step allocates: moments, terms, and the quantities that a plan leaves open."""

from __future__ import annotations

from sim.records import NamedTuple

MOMENTS = ("init", "forward", "backward", "optimizer", "save")
INIT, FORWARD, BACKWARD, OPTIMIZER, SAVE = range(len(MOMENTS))


class Term(NamedTuple):
    """What bytes are for.

    Attributes
    ----------
    name : str
        As reports show it.
    category : str
        One of PyTorch's FSDPMemTracker, which calls temporary whatever backward made and no hook
        has taken over yet.
    pool : str
        Other streams than the compute stream allocate it, or it is freed into a pool of sizes of
        its own: the caching allocator never hands its memory to the compute stream.
    """

    name: str
    category: str
    pool: str = "compute"


TERMS = (
    Term("sharded parameters", "sharded_parameters"),
    Term("quantisation scales", "unsharded_parameters"),
    Term("unsharded parameters", "unsharded_parameters"),
    Term("sharded gradients", "sharded_gradients", "reduced"),
    Term("unsharded gradients", "unsharded_gradients"),
    Term("optimizer states", "optimizer_states"),
    Term("saved activations", "activations"),
    Term("block inputs and gradients kept by hooks", "activations"),
    Term("logits and loss", "activations"),
    Term("all-gather buffers", "all_gather_buffers", "gather"),
    Term("reduce-scatter buffers", "reduce_scatter_buffers", "reduce"),
    Term("gradients of logits", "temporaries"),
    Term("recomputed activations and their gradients", "temporaries"),
    Term("gradients waiting for their unit", "temporaries"),
    Term("last reduce-scatter's input", "temporaries", "reduce"),
    Term("optimizer temporaries", "temporaries"),
    Term("checkpoint staging", "temporaries"),
    Term("inputs", "inputs"),
    Term("buffers of pipeline messages", "pipeline_messages"),
    Term("reference model", "reference_model"),
)
#: words for the same where each GPU holds all of it
WHOLE = {
    "sharded parameters": "parameters",
    "unsharded parameters": "copies of parameters",
    "unsharded gradients": "gradients",
    "reduce-scatter buffers": "buckets of gradients",
}
#: pools of the allocator, and which of them each term is in
POOLS = tuple(dict.fromkeys(term.pool for term in TERMS))
POOL_OF = tuple(POOLS.index(term.pool) for term in TERMS)
(
    SHARDED, SCALES, UNSHARDED, GRADIENTS, FULL_GRADIENTS, STATES, SAVED, KEPT, LOGITS, GATHERS,
    SCATTERS, LOGIT_GRADIENTS, RECOMPUTED, WAITING, LAST_SCATTER, SCRATCH, STAGING, INPUTS,
    MESSAGES, REFERENCE,
) = range(len(TERMS))  # fmt: skip

#: quantities of the job, then those of the head and its loss (`HeadFootprint`), then what a stage
#: of a pipeline receives from another in a step
(
    BYTES, SCALE_BYTES, STATE_BYTES, PAGED_BYTES, SCRATCH_BYTES, INPUT_BYTES, FULL_SAVE,
    CLONED_SAVE, STAGED, HIDDEN, NORM, LOGIT_BYTES, LOSS_FORWARD, LOSS_SAVED, LOSS_BACKWARD,
    HEAD_BACKWARD, HELD, RECEIVED,
) = range(JOB_QUANTITIES := 18)  # fmt: skip
#: quantities of a layer: kept until backward; at most in forward; of what was saved, gone by the
#: peak of backward; all else there; input that comes back from the host
RESIDENT, LAYER_FORWARD, GONE, LAYER_BACKWARD, FETCHED = range(LAYER_QUANTITIES := 5)
