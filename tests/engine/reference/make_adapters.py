"""Small random checkpoints with a LoRA adapter, as transformers and PEFT write them, and what PyTorch computes with them.

    make_adapters.py OUT       makes OUT/NAME/{config.json, model.safetensors, adapter_config.json,
                               adapter_model.safetensors, expected.safetensors}
    make_adapters.py --check DIR ...   loads folders that Joust wrote by PEFT and compares with expected.safetensors
                               beside them in the folder of the same name here

expected.safetensors: what make_checkpoints.py says, by the adapted model in float32; then in double: "sft": the loss of one row, all its
tokens predicted but the first; "dpo": that of one pair against the base alone, beta 0.3, prompt tokens 0..15, chosen
16..35, rejected 50..75; and of both the gradients by the adapter's tensors, "sft:NAME" and "dpo:NAME". Written with
torch 2.15, transformers 5.23 and peft 0.21; needed only to make these files again.
"""

import os
import shutil
import sys

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from make_checkpoints import LENGTH, SIZES, randomise

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "lora-llama": ("Llama", dict(), dict(r=6, lora_alpha=9, target_modules=ALL, use_rslora=True)),
    "lora-qwen2": ("Qwen2", dict(tie_word_embeddings=True), dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])),
}
BETA = 0.3


def logps(model, tokens):
    logits = model(tokens[None]).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, tokens[1:, None])[:, 0]


def answer(model, tokens, first, end):
    prompt = tokens[:16]
    return logps(model, torch.cat([prompt, tokens[first:end]]))[len(prompt) - 1:].sum()


def dpo(model, tokens):
    with torch.no_grad(), model.disable_adapter():
        base = answer(model, tokens, 16, 36) - answer(model, tokens, 50, 76)
    return -F.logsigmoid(BETA * (answer(model, tokens, 16, 36) - answer(model, tokens, 50, 76) - base))


def gradients(model, loss, what):
    model.zero_grad()
    loss.backward()
    result = {what: loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        if p.grad is not None:
            result[what + ":" + name.replace(".default", "")] = p.grad.contiguous().clone()
    return result


def compute(model, tokens):
    result = {"tokens": tokens.float()}
    with torch.no_grad():
        result["hidden"] = model.base_model.model.model(tokens[None]).last_hidden_state[0].contiguous()
        result["logits"] = model(tokens[None]).logits[0].contiguous()
        result["logps"] = logps(model, tokens).contiguous()
    model.double()
    result.update(gradients(model, -logps(model, tokens).sum(), "sft"))
    result.update(gradients(model, dpo(model, tokens), "dpo"))
    model.float()
    return {name: value.float() for name, value in result.items()}


def make(out, number, name):
    family, options, lora = CASES[name]
    config = getattr(transformers, family + "Config")(**{**SIZES, **options})
    base = getattr(transformers, family + "ForCausalLM")(config)
    base.config._attn_implementation = "eager"
    randomise(base, 100 + number)
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    base.save_pretrained(folder)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora)).eval()
    generator = torch.Generator().manual_seed(200 + number)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=generator) * (0.2 if "lora_B" in key else 0.3))
    model.save_pretrained(folder)
    for extra in ("README.md", "generation_config.json"):
        if os.path.exists(os.path.join(folder, extra)):
            os.remove(os.path.join(folder, extra))
    tokens = torch.randint(0, SIZES["vocab_size"], (LENGTH,), generator=torch.Generator().manual_seed(2000 + number))
    save_file(compute(model, tokens), os.path.join(folder, "expected.safetensors"))


def check(folder):
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.path.basename(os.path.normpath(folder)))
    expected = load_file(os.path.join(here, "expected.safetensors"))
    config = transformers.AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    base = transformers.AutoModelForCausalLM.from_config(config)
    missing = base.load_state_dict(load_file(os.path.join(folder, "model.safetensors")), strict=False)
    assert not missing.unexpected_keys, missing
    model = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        got = model(expected["tokens"].long()[None]).logits[0]
    gap = (got - expected["logits"]).abs().max() / expected["logits"].abs().max()
    print(f"{os.path.basename(folder)}: largest difference {gap:.2g} of the largest value")
    return gap < 1e-4


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--check":
        sys.exit(0 if all([check(folder) for folder in sys.argv[2:]]) else 1)
    for i, case in enumerate(CASES):
        make(sys.argv[1], i, case)
