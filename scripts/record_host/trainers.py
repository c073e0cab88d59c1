"""What a trainer does beside the model: its host waits and its CPU time, a step and a micro-step.

Real training loops run on a tiny Llama of two and of seven layers; forward, backward and the
optimizer's step are set apart, what remains is the trainer's. CPU time is in the units of
`seconds`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from counting import Watch
from modelling import VOCABULARY, build, stack
from seconds import quiet, reference

STEPS, FIRST, LENGTH = 18, 4, 16
DEPTHS = (2, 7)
#: parts that are the model's, not the trainer's
MODEL = ("forward", "backward", "optimizer")


class Parts:
    """CPU time by part; what runs inside a part's call is not its caller's."""

    def __init__(self) -> None:
        self.stack, self.since = ["own"], time.thread_time()
        self.now: dict[str, float] = {}
        self.steps: list[dict[str, float]] = []

    def switch(self) -> None:
        """Book the time since the last switch."""
        now = time.thread_time()
        self.now[self.stack[-1]] = self.now.get(self.stack[-1], 0.0) + now - self.since
        self.since = time.thread_time()

    def step(self) -> None:
        """A step has ended."""
        self.switch()
        self.steps.append(self.now)
        self.now = {}

    def wrap(self, holder: Any, name: str, part: str) -> None:
        """Time a method of an object."""
        call = getattr(holder, name)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.stack.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.switch()
                self.stack.pop()

        setattr(holder, name, timed)


class Batches(torch.utils.data.Dataset):
    """Samples of equal length."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": [(index + i) % VOCABULARY for i in range(LENGTH)]}


def tokenizer() -> Any:
    """A tokenizer that needs no download."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<pad>": VOCABULARY - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="<pad>"
    )


def model_of(depth: int, method: str) -> Any:
    """A tiny Llama in fp32, with PEFT's adapters or without."""
    model = build("llama", depth, "sdpa").float()
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    return model


def huggingface(depth: int, case: dict[str, Any], parts: Parts, ended: Callable[[], None]) -> None:
    """transformers.Trainer, logging every step."""
    import transformers
    import transformers.utils.import_utils as found
    from transformers.utils import logging as quieter

    quieter.set_verbosity_error()
    found._datasets_available = False  # not needed, and its pyarrow wants another NumPy

    class Ends(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended()

    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=1,
            gradient_accumulation_steps=case["accumulation"], logging_steps=1, report_to=[],
            save_strategy="no", use_cpu=True, disable_tqdm=True, optim="adamw_torch",
            max_grad_norm=case["clip"],
        )  # fmt: skip
        trainer = transformers.Trainer(
            model_of(depth, case["method"]),
            args,
            train_dataset=Batches(),
            callbacks=[Ends()],
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False),
        )
        made = trainer.get_train_dataloader

        def loader() -> Any:
            found = made()
            parts.wrap(found.base_dataloader, "collate_fn", "collate")
            return found

        trainer.get_train_dataloader = loader
        for name, part in (
            ("compute_loss", "forward"), ("_prepare_inputs", "prepare_inputs"),
            ("floating_point_ops", "floating_point_ops"), ("_maybe_log_save_evaluate", "logging"),
        ):  # fmt: skip
            parts.wrap(trainer, name, part)
        parts.wrap(trainer.accelerator, "backward", "backward")
        parts.wrap(trainer.accelerator, "clip_grad_norm_", "clip")
        parts.wrap(trainer.model, "train", "module_train")
        parts.wrap(trainer.model, "zero_grad", "zero_grad")
        for name in ("on_step_begin", "on_step_end", "on_substep_end", "on_pre_optimizer_step"):
            if hasattr(trainer.callback_handler, name):
                parts.wrap(trainer.callback_handler, name, "callbacks")
        create = trainer.create_optimizer_and_scheduler

        def created(*args: Any, **kwargs: Any) -> None:
            create(*args, **kwargs)
            parts.wrap(trainer.optimizer, "step", "optimizer")
            parts.wrap(trainer.lr_scheduler, "step", "schedule")

        trainer.create_optimizer_and_scheduler = created
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            trainer.train()


def accelerate(depth: int, case: dict[str, Any], parts: Parts, ended: Callable[[], None]) -> None:
    """Accelerate's own loop as its documentation has it, the loss read every step."""
    import transformers
    from accelerate import Accelerator

    helper = Accelerator(cpu=True, gradient_accumulation_steps=case["accumulation"])
    collate = transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    data = torch.utils.data.DataLoader(Batches(), batch_size=1, collate_fn=collate)
    plain = model_of(depth, case["method"])
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    parts.wrap(optimizer, "step", "optimizer")
    model, optimizer, data, rate = helper.prepare(plain, optimizer, data, rate)
    parts.wrap(model, "forward", "forward")
    parts.wrap(helper, "backward", "backward")
    parts.wrap(helper, "clip_grad_norm_", "clip")
    parts.wrap(data.base_dataloader, "collate_fn", "collate")
    parts.wrap(optimizer, "zero_grad", "zero_grad")
    parts.wrap(rate, "step", "schedule")
    model.train()
    step = 0
    for batch in data:
        with helper.accumulate(model):
            loss = model(**batch).loss
            helper.backward(loss)
            if helper.sync_gradients and case["clip"]:
                helper.clip_grad_norm_(model.parameters(), case["clip"])
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        if helper.sync_gradients:
            loss.item()
            ended()
            step += 1
            if step == STEPS:
                break


def deepspeed(depth: int, case: dict[str, Any], parts: Parts, ended: Callable[[], None]) -> None:
    """DeepSpeed's engine, ZeRO-1 in bf16 on one imagined rank of eight; loss read every step."""
    os.environ.update(DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="8", LOCAL_RANK="0",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT="29599", LOCAL_SIZE="8")  # fmt: skip
    from wrappers import group

    group("fsdp1")
    import deepspeed as ds

    # shared memory between ranks that are not there
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    logging.disable(logging.WARNING)
    model = model_of(depth, case["method"])
    trained = [p for p in model.parameters() if p.requires_grad]
    config = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": case["accumulation"],
        "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": True},
        "gradient_clipping": case["clip"], "steps_per_print": 10**9,
    }  # fmt: skip
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    parts.wrap(optimizer, "step", "optimizer")
    engine, *_ = ds.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    parts.wrap(engine.module, "forward", "forward")
    batch = {"input_ids": torch.arange(LENGTH)[None], "labels": torch.arange(LENGTH)[None]}
    inner = torch.Tensor.backward
    parts.wrap(torch.Tensor, "backward", "backward")
    try:
        for _ in range(STEPS):
            for _ in range(case["accumulation"]):
                loss = engine(**batch).loss
                engine.backward(loss)
                engine.step()
            loss.item()
            ended()
    finally:
        torch.Tensor.backward = inner  # type: ignore[method-assign]


TRAINERS = {"huggingface": huggingface, "accelerate": accelerate, "deepspeed": deepspeed}


def waits(case: dict[str, Any]) -> dict[str, float]:
    """Host waits a step, by place, in the trainer and the model's loss (attention: SDPA)."""
    watch, parts = Watch(), Parts()
    steps = 0

    def ended() -> None:
        nonlocal steps
        steps += 1
        watch.phase = "step" if FIRST <= steps < STEPS - 1 else ""

    with watch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TRAINERS[case["trainer"]](DEPTHS[0], case, parts, ended)
    counted = STEPS - 1 - FIRST
    found = Counter({where: n / counted for (_, where), n in watch.waits.items()})
    return {
        k: round(v, 2)
        for k, v in sorted(found.items())
        if v >= 0.5 and "modeling" not in k and "Optimizer.step" not in k
    }


def spent(case: dict[str, Any], depth: int) -> dict[str, float]:
    """CPU time a step by part, in units."""
    parts, units = Parts(), []

    def ended() -> None:
        parts.step()
        units.append(reference())
        parts.since = time.thread_time()

    gc.collect()
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TRAINERS[case["trainer"]](depth, case, parts, ended)
    keys = sorted({k for step in parts.steps for k in step})
    unit = quiet(units)
    return {k: quiet([s.get(k, 0.0) for s in parts.steps[FIRST:]]) / unit for k in keys}


def record(case: dict[str, Any]) -> dict[str, Any]:
    """Waits and CPU time a step: what each layer adds, and the rest."""
    torch.set_num_threads(1)
    few, many = DEPTHS
    one, two = spent(case, few), spent(case, many)
    found: dict[str, Any] = {"waits": waits(case), "layer": {}, "rest": {}}
    for key in sorted(one):
        each = max(0.0, (two.get(key, 0.0) - one[key]) / (many - few))
        if key not in MODEL:
            found["layer"][key] = round(each, 1)
            found["rest"][key] = round(one[key] - few * each, 1)
    return case | found


def collation() -> list[dict[str, Any]]:
    """CPU time of a collator that pads, by length and samples."""
    import transformers

    torch.set_num_threads(1)
    words = tokenizer()
    collate = transformers.DataCollatorForLanguageModeling(words, mlm=False)
    rows = []
    for length in (512, 2048, 8192):
        for samples in (1, 8):
            batch = [{"input_ids": [1] * length, "attention_mask": [1] * length}] * samples
            times, units = [], []
            for _ in range(25):
                start = time.thread_time()
                collate(batch)
                times.append(time.thread_time() - start)
                units.append(reference())
            rows.append({"what": "collation", "length": length, "samples": samples,
                         "units": round(quiet(times) / quiet(units), 1)})  # fmt: skip
    return rows


def cases() -> Iterator[dict[str, Any]]:
    """What is recorded."""
    for trainer in TRAINERS:
        for method in ("full", "lora"):
            for accumulation in (1, 4):
                yield {"what": "loop", "trainer": trainer, "method": method,
                       "accumulation": accumulation, "clip": 1.0}  # fmt: skip


def size() -> dict[str, Any]:
    """Modules and tensors of a layer of the tiny Llama."""
    found: dict[str, Any] = {"what": "size"}
    for method in ("full", "lora"):
        one, two = model_of(2, method), model_of(3, method)
        assert len(stack(two)) == 3
        counts = [(len(list(m.modules())), len(list(m.parameters()))) for m in (one, two)]
        modules, tensors = (b - a for a, b in zip(*counts, strict=True))
        found[method] = {"modules": modules, "tensors": tensors}
    return found


def read() -> list[dict[str, Any]]:
    """Loops that were read, not run: waits and collectives of their own, a step."""
    return [
        {"what": "read", "trainer": "composer", "version": "0.25.0",
         "source": "composer/trainer/trainer.py: _train_loop (loss of each key: all-reduce, item), "
         "_accumulate_time_across_ranks (samples and tokens: all-reduce, two items; duration: "
         "broadcast, item)",
         "waits": 4, "every": 1, "collectives": {"all_reduce": 2, "broadcast": 1}},
        {"what": "read", "trainer": "torchtitan", "version": "0.3.0",
         "source": "torchtitan/trainer.py: train_step (logged steps only, log_freq = 10: sum and "
         "maximum of the loss, tokens, gradient norm); valid tokens and the norm are reduced in "
         "every step without being read",
         "waits": 4, "every": 10, "collectives": {"all_reduce": 2}},
    ]  # fmt: skip
