#!/usr/bin/env python3
"""Trains a tiny random Llama with TRL and with Joust on the same pairs in the same order, and compares every step's loss.

Called by trl_curves.sh. Needs torch, transformers and trl (made with 2.15.0, 5.23.0, 1.16.0); nothing is downloaded.
usage: trl_curves.py TRAIN_CURVE_PROGRAM FOLDER
"""
import json
import os
import random
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

VOCAB, PAIRS, BATCH, STEPS = 128, 120, 8, 50
torch.set_num_threads(1)
BOUND = 0.01


def tokenizer():
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    t = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def make_model(folder):
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.1,
        bos_token_id=None, eos_token_id=1, pad_token_id=0)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def make_pairs():
    rng = random.Random(11)
    ids = lambda low, high: [rng.randrange(3, VOCAB) for _ in range(rng.randint(low, high))]
    return [{"prompt": ids(3, 12), "chosen": ids(1, 20) + [1], "rejected": ids(1, 20) + [1]} for _ in range(PAIRS)]


def common(folder, kind, **more):
    return kind(output_dir=os.path.join(folder, "trl"), per_device_train_batch_size=BATCH, max_steps=STEPS,
                lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.01, max_grad_norm=1.0, optim="adamw_torch",
                logging_strategy="no", report_to="none", save_strategy="no", use_cpu=True, bf16=False, max_length=None,
                disable_tqdm=True, train_sampling_strategy="sequential", gradient_checkpointing=False, **more)


def recorded(kind):
    """The trainer with its rows in order, and each step's loss unrounded in `losses`."""
    class Recorded(kind):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            if "prompt_ids" in dataset.column_names:  # tokens already
                return dataset
            return super()._prepare_dataset(dataset, *args, **kwargs)

        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            self.__dict__.setdefault("losses", []).append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss
    return Recorded


def text(ids):
    return " ".join(f"w{i}" if i > 2 else "<eos>" for i in ids)


def rows_of(pairs, kind):
    if kind == "dpo":
        return [{"prompt_ids": p["prompt"], "chosen_ids": p["chosen"], "rejected_ids": p["rejected"]} for p in pairs]
    if kind == "cpo":
        return [{"prompt": text(p["prompt"]) + " ", "chosen": text(p["chosen"][:-1]),
                 "rejected": text(p["rejected"][:-1])} for p in pairs]  # the trainer adds <eos>
    rows = []  # KTO: a batch is the chosen, then the rejected answers of BATCH / 2 pairs; KL answers shifted by one
    for first in range(0, len(pairs), BATCH // 2):
        batch = pairs[first:first + BATCH // 2]
        rows += [{"prompt_ids": p["prompt"], "completion_ids": p[side], "label": side == "chosen"}
                 for side in ("chosen", "rejected") for p in batch]
    for first in range(0, len(rows), BATCH):
        batch = rows[first:first + BATCH]
        for row, before in zip(batch, [batch[-1]] + batch[:-1]):
            row["KL_completion_ids"] = before["completion_ids"]
    return rows


def trl_losses(folder, pairs, run):
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    kind = run.get("kind", "dpo")
    config, trainer = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer), "cpo": (CPOConfig, CPOTrainer)}[kind]
    settings = {"learning_rate": run["joust"]["learning_rate"], "beta": run["joust"]["beta"], **run["trl"]}
    arguments = {"model": model, "args": common(folder, config, **settings), "processing_class": tokenizer(),
                 "train_dataset": Dataset.from_list(rows_of(pairs, kind))}
    if run.get("reference", kind != "cpo"):
        arguments["ref_model"] = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    t = recorded(trainer)(**arguments)
    t.remove_callback(PrinterCallback)
    t.train()
    return t.losses


def joust_losses(program, folder, pairs, run):
    path = os.path.join(folder, "run.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"settings": {"weight_decay": 0.01, "max_steps": STEPS, **run["joust"]}, "mix": run.get("mix", {}),
                   "batch_size": BATCH // 2 if run.get("kind") == "kto" else BATCH, "pairs": pairs}, f)
    out = subprocess.run([program, folder, path], check=True, capture_output=True, text=True).stdout
    return [float(line.split()[1]) for line in out.splitlines()]


def runs():
    base = {"learning_rate": 3e-4, "beta": 0.1}
    for ours, theirs in (("dpo", "sigmoid"), *((n, n) for n in (
            "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "sigmoid_norm"))):
        yield ours, {"joust": {"loss": ours, **base}, "trl": {"loss_type": [theirs]}}
    for ours in ("robust", "exo_pair"):
        yield ours, {"joust": {"loss": ours, "label_smoothing": 0.1, **base},
                     "trl": {"loss_type": [ours], "label_smoothing": 0.1}}
    yield "dpo, ld_alpha 0.4", {"joust": {"loss": "dpo", "ld_alpha": 0.4, **base},
                                "trl": {"loss_type": ["sigmoid"], "ld_alpha": 0.4}}
    yield "mix of dpo, bco_pair, sft", {
        "joust": {"loss": "dpo", **base}, "mix": {"dpo": 0.8, "bco_pair": 0.2, "sft": 1.0},
        "trl": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}}
    yield "dpo, moving reference", {
        "joust": {"loss": "dpo", "reference_sync_steps": 5, "reference_mixup": 0.6, **base},
        "trl": {"loss_type": ["sigmoid"], "sync_ref_model": True, "ref_model_sync_steps": 5,
                "ref_model_mixup_alpha": 0.6}}
    yield "kto", {"kind": "kto", "joust": {"loss": "kto", "desirable_weight": 1.3, "undesirable_weight": 0.7, **base},
                  "trl": {"desirable_weight": 1.3, "undesirable_weight": 0.7}}
    yield "simpo", {"kind": "cpo", "joust": {"loss": "simpo", "gamma": 0.4, **base, "beta": 2.0},
                    "trl": {"loss_type": "simpo", "simpo_gamma": 0.4, "cpo_alpha": 0.0}}
    yield "dpo, no reference (CPO)", {"kind": "cpo", "joust": {"loss": "dpo", "no_reference": True, **base},
                                      "trl": {"loss_type": "sigmoid", "cpo_alpha": 0.0}}


def main():
    program, folder = sys.argv[1:]
    only = os.environ.get("ONLY")
    make_model(folder)
    pairs = make_pairs()
    worst_of_all = 0
    for name, run in runs():
        if only and only != name:
            continue
        theirs, ours = trl_losses(folder, pairs, run), joust_losses(program, folder, pairs, run)
        assert len(theirs) == len(ours) == STEPS, (len(theirs), len(ours))
        worst = max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(ours, theirs))
        worst_of_all = max(worst, worst_of_all)
        print(f"{name:28} first {ours[0]:9.6f}  last {ours[-1]:9.6f} (TRL {theirs[-1]:9.6f})  "
              f"worst step {100 * worst:.4f}%", flush=True)
        if os.environ.get("CURVES"):
            for i, (a, b) in enumerate(zip(ours, theirs)):
                print(f"    {i:2} {a:.7f} {b:.7f}")
    print(f"worst of all steps: {100 * worst_of_all:.4f}%, bound {100 * BOUND:g}%")
    sys.exit(worst_of_all > BOUND)


main()
