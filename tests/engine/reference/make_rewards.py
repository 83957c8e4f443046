"""What PyTorch computes when a scalar head is trained: losses and gradients of checkpoints that make_checkpoints.py made.

    make_rewards.py DIR...     writes DIR/training.safetensors of folders here

"scores": those of one pair by bradley_terry_margin, prompt tokens 0..15, chosen 16..35, rejected 50..75, margin 1.5:
the loss; "values": those of one answer by PPO's clipped value loss, prompt tokens 0..15, response 16..39, clip 0.2; and of
both the gradients by the model's tensors, "scores:NAME" and "values:NAME"; "old" and "returns" (24): of the answer. In
double. Written with torch 2.15 and transformers 5.23; needed only to make these files again.
"""

import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from make_checkpoints import load


def outputs(model, tokens):
    return model.score(model.model(tokens[None]).last_hidden_state)[0, :, 0]


def gradients(model, loss, what):
    model.zero_grad()
    loss.backward()
    result = {what: loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        result[what + ":" + name] = p.grad.clone()
    return result


def main(folder):
    model = load(folder, True).double()
    tokens = load_file(os.path.join(folder, "expected.safetensors"))["tokens"].long()
    chosen = outputs(model, tokens[:36])[-1]
    rejected = outputs(model, torch.cat([tokens[:16], tokens[50:76]]))[-1]
    result = gradients(model, -F.logsigmoid(chosen - rejected - 1.5), "scores")
    generator = torch.Generator().manual_seed(77)
    values = outputs(model, tokens[:40])[15:39]
    old = (values.detach() + 0.3 * torch.randn(24, generator=generator).double()).float()
    returns = values.detach() + torch.randn(24, generator=generator).double()
    held = torch.clamp(values, old.double() - 0.2, old.double() + 0.2)
    loss = 0.5 * torch.max((values - returns.float().double()) ** 2, (held - returns.float().double()) ** 2).mean()
    result.update(gradients(model, loss, "values"))
    result.update(old=old, returns=returns)
    save_file({k: v.float().contiguous() for k, v in result.items()}, os.path.join(folder, "training.safetensors"))


for each in sys.argv[1:]:
    main(each)
