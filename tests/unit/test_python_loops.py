"""Training loops of one's own in Python: accelerate, PyTorch's wrappers, DeepSpeed, Lightning."""

import pytest

import sim
from sim.errors import InputError
from sim.inputs.loader import load

MODEL = """\
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B", torch_dtype=torch.bfloat16)
"""
#: as examples of PEFT and of the Hub have it
ACCELERATE = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int, default=4)
args = parser.parse_args()
LONGEST = 2048
def main():
    accelerator = Accelerator(gradient_accumulation_steps=8, mixed_precision="bf16")
    model = AutoModelForCausalLM.from_pretrained(
        "meta-llama/Llama-3.1-8B", attn_implementation="flash_attention_2")
    model.gradient_checkpointing_enable()
    model = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"]))
    ds = ds.map(lambda x: tokenizer(x["text"], max_length=LONGEST, padding="max_length"))
    train_dl = DataLoader(ds["train"], batch_size=args.batch, num_workers=4)
    eval_dl = DataLoader(ds["test"], batch_size=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for batch in train_dl:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
"""
FSDP1 = (
    MODEL
    + """\
policy = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
model = FSDP(model, auto_wrap_policy=wrap, mixed_precision=policy, device_id=rank,
             sharding_strategy=ShardingStrategy.SHARD_GRAD_OP, limit_all_gathers=True,
             cpu_offload=CPUOffload(offload_params=False))
"""
)
FSDP2 = (
    MODEL.replace("bfloat16", "float32")
    + """\
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for layer in model.model.layers:
    fully_shard(layer, mp_policy=policy, reshard_after_forward=False)
fully_shard(model, mp_policy=policy, offload_policy=CPUOffloadPolicy())
model = torch.compile(model)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
accumulate = 4
for batch in DataLoader(train, 2):
    loss = model(**batch).loss / accumulate
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""
)
ENGINE = (
    MODEL
    + """\
config = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 8,
          "bf16": {"enabled": True}, "zero_optimization": {
              "stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True}}}
engine, _, _, _ = deepspeed.initialize(model=model, config=config)
engine.backward(loss)
"""
)
ONE_GPU = """\
bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
model = AutoModelForCausalLM.from_pretrained("mistralai/Mistral-7B-v0.3", quantization_config=bits)
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
train_dl = DataLoader(train, batch_size=4)
val_dl = DataLoader(val, batch_size=8)
optimizer = bnb.optim.PagedAdamW8bit(model.parameters(), lr=2e-4)
with torch.autocast("cuda", dtype=torch.bfloat16):
    loss = model(**batch).loss
loss /= 4
loss.backward()
"""
LIGHTNING = """\
class LM(L.LightningModule):
    def __init__(self):
        self.model = AutoLigerKernelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B")
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
trainer = L.Trainer(devices=4, num_nodes=2, strategy="fsdp", precision="bf16-true",
                    accumulate_grad_batches=4)
"""


def read(tmp_path, text, machine="dgx-h100"):
    path = tmp_path / "train.py"
    path.write_text(text)
    found = sim.import_job(path)
    told = {row["theirs"]: row["why"] for row in found.aside if row["matters"]}
    sets = ["sequence_length=1024"] if found.missing else []
    return load(machine, path, sets).workload, told


def test_a_loop_with_accelerate(tmp_path):
    job, told = read(tmp_path, ACCELERATE)
    assert told == {}
    assert (job.model.name, job.sequence_length, job.micro_batch) == ("llama-3.1-8b", 2048, 4)
    assert (job.gradient_accumulation, job.precision.kind, job.trainer) == (8, "bf16", "accelerate")
    assert (job.method.kind, job.method.rank, job.method.targets) == ("lora", 16, ("q", "v"))
    assert (job.optimizer_implementation, job.attention) == ("foreach", "flash2")
    assert (job.parallelism.strategy, job.parallelism.clip_gradients) == ("ddp", True)
    assert (job.activation_checkpointing.kind, job.data.workers) == ("full", 4)
    assert job.data.packing  # rows are filled up to the longest


@pytest.mark.parametrize(
    ("plugin", "strategy", "offload"),
    [
        ("deepspeed_plugin=DeepSpeedPlugin(zero_stage=3, offload_optimizer_device='cpu')",
         "zero3", "optimizer"),
        ("deepspeed_plugin=DeepSpeedPlugin(hf_ds_config={'zero_optimization': {'stage': 2}})",
         "zero2", "none"),
        ("fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)", "fsdp2", "none"),
        ("fsdp_plugin=FullyShardedDataParallelPlugin()", "fsdp1", "none"),
    ],
)  # fmt: skip
def test_plugins_of_accelerate(tmp_path, plugin, strategy, offload):
    job, told = read(tmp_path, ACCELERATE.replace("Accelerator(", f"Accelerator({plugin}, "))
    assert (job.parallelism.strategy, job.parallelism.offload) == (strategy, offload)
    assert told == {}


def test_fsdp1_by_hand(tmp_path):
    job, told = read(tmp_path, FSDP1)
    spread = job.parallelism
    assert (spread.strategy, spread.sharding_strategy) == ("fsdp1", "shard-grad-op")
    assert (spread.reduce_dtype, spread.offload) == ("bf16", "none")
    assert (spread.use_orig_params, spread.clip_gradients) == (False, False)
    assert (job.precision.kind, job.trainer, told) == ("bf16", "none", {})
    assert not job.data.packing
    whole = FSDP1.replace("auto_wrap_policy=wrap, ", "").replace("=False", "=True")
    job, told = read(tmp_path, whole)
    assert job.parallelism.offload == "all"
    assert "the model is one unit" in told["auto_wrap_policy"]


def test_fsdp2_by_hand(tmp_path):
    job, told = read(tmp_path, FSDP2)
    spread = job.parallelism
    assert (spread.strategy, spread.reshard_after_forward, spread.offload) == (
        "fsdp2",
        False,
        "all",
    )
    assert (spread.reduce_dtype, spread.clip_gradients, job.compile) == ("fp32", True, True)
    assert (job.micro_batch, job.gradient_accumulation) == (2, 4)
    assert (job.precision.kind, job.precision.master) == ("bf16", "fp32")
    assert (job.optimizer_implementation, told) == ("fused", {})


def test_weights_in_bf16_that_nothing_casts(tmp_path):
    job, _ = read(tmp_path, MODEL + "fully_shard(model)")
    assert (job.precision.kind, job.precision.master) == ("bf16", "bf16")
    job, _ = read(tmp_path, MODEL.replace(", torch_dtype=torch.bfloat16", "") + "DDP(model)")
    assert (job.precision.kind, job.parallelism.strategy) == ("fp32", "ddp")


def test_deepspeeds_engine(tmp_path):
    job, told = read(tmp_path, ENGINE)
    assert (job.parallelism.strategy, job.parallelism.offload) == ("zero3", "optimizer")
    assert (job.micro_batch, job.gradient_accumulation, job.trainer) == (2, 8, "deepspeed")
    assert (job.precision.kind, told) == ("bf16", {})
    _, told = read(tmp_path, MODEL + "deepspeed.initialize(args=args, model=model)")
    assert "name the JSON too" in told["deepspeed.initialize()"]


def test_one_gpu(tmp_path):
    job, told = read(tmp_path, ONE_GPU, "rtx-4090-x1")
    assert (job.method.kind, job.method.prepare_kbit, job.method.rank) == ("qlora", True, 16)
    assert (job.optimizer, job.optimizer_paged) == ("adamw-8bit", True)
    assert (job.micro_batch, job.gradient_accumulation, job.precision.kind) == (4, 4, "bf16")
    assert (job.parallelism.strategy, told) == ("single", {})


def test_lightning(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(LIGHTNING)
    assert sim.import_job(path).gpus == 8
    job, told = read(tmp_path, LIGHTNING)
    assert (job.parallelism.strategy, job.precision.master) == ("fsdp1", "bf16")
    assert (job.gradient_accumulation, job.loss, job.fused_kernels) == (4, "fused-linear", "all")
    assert told == {}
    zero = LIGHTNING.replace('"fsdp"', '"deepspeed_stage_3_offload"')
    job, _ = read(tmp_path, zero)
    assert (job.parallelism.strategy, job.parallelism.offload) == ("zero3", "all")


def test_what_only_a_run_knows_is_told(tmp_path):
    text = ACCELERATE.replace('mixed_precision="bf16"', "mixed_precision=choose()")
    text = text.replace("flash_attention_2", "sdpa")
    _, told = read(tmp_path, text.replace("batch_size=args.batch", "batch_size=fit()"))
    assert "choose() is known only" in told["Accelerator.mixed_precision"]
    assert "fit() is known only" in told["per_device_train_batch_size"]


def test_a_model_that_is_only_run_is_no_loop(tmp_path):
    path = tmp_path / "infer.py"
    path.write_text(MODEL + "model.generate(**inputs)")
    with pytest.raises(InputError, match="makes a loop"):
        sim.import_job(path)


def test_a_loop_that_never_clips_is_as_parallel_as_one_that_does(tmp_path):
    loop = MODEL + "accelerator = Accelerator(mixed_precision='bf16')\naccelerator.backward(loss)\n"
    clip = "if accelerator.sync_gradients:\n    accelerator.clip_grad_norm_(model.parameters(), 1)"
    for text, clips in ((loop, False), (loop + clip, True)):
        job, told = read(tmp_path, text)
        assert (job.parallelism.strategy, job.precision.master) == ("ddp", "bf16")
        assert (job.parallelism.clip_gradients, told) == (clips, {})


@pytest.mark.parametrize(
    "given",
    ["ds, generator=torch.Generator(device='cuda')", "dataset=ds, collate_fn=lambda x: to(device)",
     "contest", "developers_ds", "values", "ds['train'], sampler=test_sampler(ds)"],
)  # fmt: skip
def test_loaders_of_what_is_trained_on(tmp_path, given):
    text = f"{MODEL}loader = DataLoader({given}, batch_size=8)\nmodel = DDP(model)"
    job, told = read(tmp_path, text)
    assert (job.micro_batch, told) == (8, {})


@pytest.mark.parametrize(
    "loader",
    ["val_dl = DataLoader(ds, batch_size=64)", "loader = DataLoader(ds['test'], batch_size=64)",
     "testloader = DataLoader(ds, batch_size=64)", "x = DataLoader(dataset=evalset, batch_size=64)",
     "x = DataLoader(dev_ds, batch_size=64)", "dl = DataLoader(ds.validation, batch_size=64)"],
)  # fmt: skip
def test_loaders_of_what_is_evaluated(tmp_path, loader):
    text = f"{MODEL}{loader}\ntrain_dl = DataLoader(ds, batch_size=8)\nmodel = DDP(model)"
    job, told = read(tmp_path, text)
    assert (job.micro_batch, told) == (8, {})
    job, told = read(tmp_path, f"{MODEL}{loader}\nmodel = DDP(model)")
    assert job.micro_batch == 1
    assert "no loader to train from is seen" in told["DataLoader()"]
