"""Llama 3.2 3B on one A100 80 GB with one saving after another, as torchtune measured it."""

JOB = {
    "name": "ladder", "model": "llama-3.2-3b", "sequence_length": 4096, "micro_batch": 2,
    "steps": 100, "precision": {"bf16": {"master": "bf16"}}, "attention": "flash2",
    "stack": {"torch": "2.6"}, "trainer": "torchtune",
}  # fmt: skip

#: all savings but those that only time shows; torchtune takes no norm of gradients
_SAVED = {"compile": True, "loss": "chunked", "activation_checkpointing": "full"}
_WITHIN = {"optimizer_in_backward": True, "parallelism": {"clip_gradients": False}}
_ADAPTERS = {"rank": 8, "targets": "all-linear", "dropout": 0}
_OFFLOADED = {"activation_checkpointing": {"full": {"offload": True}}}
#: Pure bf16, packed: tokens a second, GiB, savings. The row with compile alone keeps eager logits.
#: Source: meta-pytorch/torchtune README.md, table of optimisations.
MEASURED = [
    (7075, 60.0, {}),
    (8998, 51.0, {"compile": True}),
    (9174, 42.9, {"compile": True, "loss": "chunked"}),
    (7210, 24.9, _SAVED),
    (7309, 23.1, _SAVED | _WITHIN),
    (7301, 21.8, _SAVED | _WITHIN | _OFFLOADED),
    # with offloading too, as the command below the table has it
    (8210, 8.5, _SAVED | _OFFLOADED | {"method": {"lora": _ADAPTERS}}),
    (8035, 4.6, _SAVED | _OFFLOADED | {"method": {"qlora": _ADAPTERS}}),
]  # fmt: skip
SPEEDS = [(speed, changes) for speed, _, changes in MEASURED]  # [tokens/s]
PEAKS = [(peak, changes) for _, peak, changes in MEASURED]  # [GiB]
