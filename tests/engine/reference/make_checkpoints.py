"""Small random checkpoints of every family, as transformers writes them, and what transformers computes with them.

    make_checkpoints.py OUT [NAME...]    makes OUT/NAME/{config.json, *.safetensors, expected.safetensors}
    make_checkpoints.py --check DIR...   loads folders that Joust wrote and compares with expected.safetensors beside
                                         them in the folder of the same name here

expected.safetensors: tokens (n) as floats; logits (n, vocab) and logps (n - 1) of the next token in float32 or, for a
scalar head, score (1); hidden (n, d): the final norm's output. Written with torch 2.15 and transformers 5.23; needed
only to make these files again.
"""

import json
import os
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

LENGTH = 96
SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             pad_token_id=None)


def llama3_rope(theta):
    return dict(rope_theta=theta, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=32)


def yarn_rope(theta, **more):
    return dict(rope_theta=theta, rope_type="yarn", original_max_position_embeddings=32, **more)


# name: (class, config, dtype on disk, shard size or None, form of config.json)
CASES = {
    "llama2": ("Llama", dict(num_key_value_heads=4), "float32", None, "old"),
    "llama3": ("Llama", dict(rope_parameters=llama3_rope(5000.0), eos_token_id=[2, 3]), "bfloat16", None, "old"),
    "llama3-tied": ("Llama", dict(rope_parameters=llama3_rope(500.0), tie_word_embeddings=True, head_dim=16),
                    "bfloat16", None, "new"),
    "llama-linear": ("Llama", dict(rope_parameters=dict(rope_theta=100.0, rope_type="linear", factor=4.0)), "float16",
                     None, "old"),
    "smollm2": ("Llama", dict(tie_word_embeddings=True, rope_parameters=dict(rope_theta=100000.0, rope_type="default")),
                "bfloat16", None, "old"),
    "mistral": ("Mistral", dict(sliding_window=11), "float16", "20KB", "old"),
    "mistral-null": ("Mistral", dict(sliding_window=None), "bfloat16", None, "new"),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_parameters=dict(rope_theta=1e6, rope_type="default")),
              "bfloat16", None, "old"),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=21, max_window_layers=1,
                                   num_hidden_layers=3), "bfloat16", None, "new"),
    "qwen3": ("Qwen3", dict(head_dim=24, rope_parameters=dict(rope_theta=1e6, rope_type="default")), "bfloat16",
              "20KB", "new"),
    "qwen3-window": ("Qwen3", dict(head_dim=16, use_sliding_window=True, sliding_window=7, max_window_layers=0),
                     "float32", None, "old"),
    "llama-reward": ("LlamaForSequenceClassification", dict(num_labels=1), "bfloat16", None, "new"),
    "qwen2-reward": ("Qwen2ForSequenceClassification", dict(num_labels=1), "float32", None, "old"),
    "llama-biases": ("Llama", dict(attention_bias=True, mlp_bias=True), "bfloat16", None, "old"),
    "qwen3-bias": ("Qwen3", dict(head_dim=16, attention_bias=True), "bfloat16", None, "new"),
    "qwen2-yarn": ("Qwen2", dict(rope_parameters=yarn_rope(1e6, factor=4.0)), "bfloat16", None, "old"),
    "llama-yarn": ("Llama", dict(rope_parameters=yarn_rope(100.0, factor=2.0, beta_fast=16.0, beta_slow=0.5, mscale=1.2,
                                                           mscale_all_dim=0.7, truncate=False), head_dim=24),
                   "bfloat16", None, "new"),
}


def to_old_form(path):
    """config.json as transformers 4 wrote it: rope_theta and rope_scaling apart, torch_dtype, no layer_types."""
    with open(path) as f:
        c = json.load(f)
    rope = c.pop("rope_parameters")
    c["rope_theta"] = rope.pop("rope_theta")
    c["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    c["torch_dtype"] = c.pop("dtype")
    c.pop("layer_types", None)
    with open(path, "w") as f:
        json.dump(c, f, indent=2)


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=generator)
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.3 * x)
            elif name.endswith("bias"):
                p.copy_(0.5 * x)
            else:
                p.copy_(1.3 * x / p.shape[-1] ** 0.5)


def load(folder, scalar):
    kind = transformers.AutoModelForSequenceClassification if scalar else transformers.AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                       output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


def compute(folder, tokens, scalar):
    model = load(folder, scalar)
    with torch.no_grad():
        hidden = model.model(tokens[None]).last_hidden_state[0]
        logits = model(tokens[None]).logits[0]
    result = {"tokens": tokens.float(), "hidden": hidden.contiguous()}
    if scalar:
        result["score"] = logits.contiguous()
    else:
        result["logits"] = logits.contiguous()
        result["logps"] = torch.log_softmax(logits[:-1], -1).gather(1, tokens[1:, None])[:, 0].contiguous()
    return result


def make(out, number, name):
    family, options, dtype, shard, form = CASES[name]
    scalar = family.endswith("ForSequenceClassification")
    config_class = getattr(transformers, family.removesuffix("ForSequenceClassification") + "Config")
    model_class = getattr(transformers, family if scalar else family + "ForCausalLM")
    model = model_class(config_class(**{**SIZES, **options}))
    randomise(model, number)
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard or "5GB")
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    if form == "old":
        to_old_form(os.path.join(folder, "config.json"))
    tokens = torch.randint(0, SIZES["vocab_size"], (LENGTH,), generator=torch.Generator().manual_seed(1000 + number))
    save_file(compute(folder, tokens, scalar), os.path.join(folder, "expected.safetensors"))


def check(folder):
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.path.basename(os.path.normpath(folder)))
    expected = load_file(os.path.join(here, "expected.safetensors"))
    scalar = "score" in expected
    got = compute(folder, expected["tokens"].long(), scalar)
    what = "score" if scalar else "logits"
    gap = (got[what] - expected[what]).abs().max() / expected[what].abs().max()
    with open(os.path.join(here, "config.json")) as a, open(os.path.join(folder, "config.json")) as b:
        lost = sorted(set(json.load(a)) - set(json.load(b)))
    print(f"{os.path.basename(folder)}: largest difference {gap:.2g} of the largest value; keys not kept: {lost}")
    return gap < 1e-4


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--check":
        sys.exit(0 if all([check(folder) for folder in sys.argv[2:]]) else 1)
    for i, case in enumerate(CASES):
        if len(sys.argv) == 2 or case in sys.argv[2:]:
            make(sys.argv[1], i, case)
