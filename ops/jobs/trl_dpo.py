"""DPO by TRL for trl.yaml: one round, on the files and variables that Joust gives (worker/external.h).

Not run by Joust's own tests."""

import json
import os

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

env = os.environ
main = int(env.get("RANK", "0")) == 0


class Tell(TrainerCallback):
    """Figures as JSON lines, and where a checkpoint is once it is complete."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if main and logs and "loss" in logs:
            print(json.dumps({"step": state.global_step, **logs}), flush=True)

    def on_save(self, args, state, control, **kwargs):
        if main:
            print(json.dumps({"checkpoint": f"checkpoint-{state.global_step}"}), flush=True)


class OnTokens(DPOTrainer):
    """Trains on the tokens that the policy saw and drew; TRL (1.16) would encode their texts again, with another bos and eos."""

    def _prepare_dataset(self, dataset, *args):
        return dataset.rename_columns({f"{name}_tokens": f"{name}_ids" for name in ("prompt", "chosen", "rejected")})


config = DPOConfig(
    output_dir=env["JOUST_STATE"],
    loss_type="sigmoid" if env["JOUST_LOSS"] == "dpo" else env["JOUST_LOSS"],
    beta=float(env["JOUST_BETA"]),
    learning_rate=float(env["JOUST_LEARNING_RATE"]),
    per_device_train_batch_size=max(1, int(env["JOUST_BATCH_SIZE"]) // int(env.get("WORLD_SIZE", "1"))),
    max_steps=int(env["JOUST_MAX_STEPS"]),
    seed=int(env["JOUST_SEED"]) % 2**31,
    logging_steps=1,
    save_steps=50,
    bf16=torch.cuda.is_available(),
    use_cpu=not torch.cuda.is_available(),
    report_to=[],
    disable_tqdm=True,
)
load = lambda folder: AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto")
trainer = OnTokens(
    model=load(env["JOUST_BASE"]),
    ref_model=load(env["JOUST_REFERENCE"]) if env["JOUST_REFERENCE"] else None,
    args=config,
    train_dataset=load_dataset("json", data_files=env["JOUST_PAIRS"], split="train").select_columns(
        ["prompt", "chosen", "rejected", "prompt_tokens", "chosen_tokens", "rejected_tokens"]),
    processing_class=AutoTokenizer.from_pretrained(env["JOUST_BASE"]),
    callbacks=[Tell()],
)
trainer.train(resume_from_checkpoint=env["JOUST_RESUME"] or None)
trainer.save_model(env["JOUST_OUTPUT"])
