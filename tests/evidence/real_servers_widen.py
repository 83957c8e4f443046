"""Makes a Llama checkpoint with wider heads that computes the same: vLLM's attention for CPUs has no heads of fewer than 32.

A dimension pair (i, i + d/2) of a head goes to where the wider head has its frequency, the rest is 0; queries are scaled by what the
wider head divides by more (exact for powers of 4). Adds tokenizer_config.json, which servers want.

usage: real_servers_widen.py DIR OUT HEAD_DIM
"""

import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

folder, out, wide = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(out, exist_ok=True)
with open(f"{folder}/config.json") as file:
    config = json.load(file)
narrow, times = config["head_dim"], wide // config["head_dim"]
half = torch.arange(narrow // 2) * times
places = torch.cat([half, half + wide // 2])


def rows(w, scale=1.0):
    """(heads x narrow, k) to (heads x wide, k)"""
    heads = w.shape[0] // narrow
    to = torch.zeros(heads, wide, w.shape[1], dtype=w.dtype)
    to[:, places] = w.reshape(heads, narrow, -1) * scale
    return to.reshape(heads * wide, -1).contiguous()


weights = load_file(f"{folder}/model.safetensors")
for name, w in weights.items():
    if name.endswith("q_proj.weight"):
        weights[name] = rows(w, times**0.5)
    elif name.endswith(("k_proj.weight", "v_proj.weight")):
        weights[name] = rows(w)
    elif name.endswith("o_proj.weight"):
        weights[name] = rows(w.T.contiguous()).T.contiguous()
save_file(weights, f"{out}/model.safetensors", metadata={"format": "pt"})
config["head_dim"] = wide
with open(f"{out}/config.json", "w") as file:
    json.dump(config, file, indent=2)
shutil.copy(f"{folder}/tokenizer.json", out)
with open(f"{out}/tokenizer_config.json", "w") as file:
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
               "model_max_length": config["max_position_embeddings"]}, file)
