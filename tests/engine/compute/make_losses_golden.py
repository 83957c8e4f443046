#!/usr/bin/env python3
"""Writes losses_golden.json: losses on pairs and their gradients by PyTorch's autograd in double (torch 2.15.0).

Run by hand where torch is installed; the result is committed. Layout:
  {"pairs": [{"loss", "settings": {...}, "pair": {...}, "value", "chosen", "rejected", "plain_chosen"}],
   "policy": [{"settings": {...}, "logps", "old", "ref", "sampler", "advantages", "share", "loss", "slopes"}],
   "advantages": [{"kind", "rewards", "expected"}],
   "values": [{"clip", "share", "values", "old", "returns", "loss", "slopes"}],
   "gae": [{"gamma", "lambda", "rewards", "values", "advantages", "returns"}],
   "soft_pairs": [as pairs: sppo_soft, with rewards_are_rates among the settings]}
The formulas are written from the papers' and TRL's definitions; tests/evidence/trl_curves.sh runs TRL itself.
"""
import json
import random

import torch
from torch.nn.functional import logsigmoid, relu

random.seed(5)
torch.set_default_dtype(torch.float64)


def smooth(z, e):
    return -(1 - e) * logsigmoid(z) - e * logsigmoid(-z)


def log_odds(x):
    return x - torch.log(-torch.expm1(x))


def soft(s, p):
    lead = torch.tensor(s["reward_scale"] * p["margin"])
    return (lead.clamp(-1, 1) / 2 if s.get("rewards_are_rates") else torch.sigmoid(lead) - 0.5)


# c, r: log-ratios of the chosen and rejected answer (per token where the loss is); s: settings; p: the pair.
PAIRED = {
    "dpo": lambda c, r, s, p: smooth(s["beta"] * (c - r), s["label_smoothing"]),
    "hinge": lambda c, r, s, p: relu(1 - s["beta"] * (c - r)),
    "ipo": lambda c, r, s, p: (c - r - 0.5 / s["beta"]) ** 2,
    "robust": lambda c, r, s, p: (-(1 - s["label_smoothing"]) * logsigmoid(s["beta"] * (c - r))
                                  + s["label_smoothing"] * logsigmoid(-s["beta"] * (c - r)))
    / (1 - 2 * s["label_smoothing"]),
    "exo_pair": lambda c, r, s, p: sum(
        torch.sigmoid(sign * s["beta"] * (c - r)) * (logsigmoid(sign * s["beta"] * (c - r)) - torch.log(q))
        for sign, q in ((1, torch.tensor(1 - s["label_smoothing"])), (-1, torch.tensor(s["label_smoothing"])))),
    "nca_pair": lambda c, r, s, p: -logsigmoid(s["beta"] * c) - 0.5 * logsigmoid(-s["beta"] * c)
    - 0.5 * logsigmoid(-s["beta"] * r),
    "bco_pair": lambda c, r, s, p: -logsigmoid(s["beta"] * c) - logsigmoid(-s["beta"] * r),
    "sppo_hard": lambda c, r, s, p: (c - 0.5 / s["beta"]) ** 2 + (r + 0.5 / s["beta"]) ** 2,
    # Wu et al. 2024, eta = 1 / beta; P by Bradley and Terry, or from win rates
    "sppo_soft": lambda c, r, s, p: (c - soft(s, p) / s["beta"]) ** 2 + (r + soft(s, p) / s["beta"]) ** 2,
    "apo_zero": lambda c, r, s, p: 1 - torch.sigmoid(s["beta"] * c) + torch.sigmoid(s["beta"] * r),
    "apo_down": lambda c, r, s, p: torch.sigmoid(s["beta"] * c) + 1 - torch.sigmoid(s["beta"] * (c - r)),
    "discopop": lambda c, r, s, p: (
        -logsigmoid(s["beta"] * (c - r)) * (1 - torch.sigmoid(s["beta"] * (c - r) / s["discopop_tau"]))
        + torch.exp(-s["beta"] * (c - r)) * torch.sigmoid(s["beta"] * (c - r) / s["discopop_tau"])),
    "sigmoid_norm": lambda c, r, s, p: -logsigmoid(s["beta"] * (c - r)),
    "simpo": lambda c, r, s, p: smooth(s["beta"] * (c - r) - s["gamma"], s["label_smoothing"]),
    "orpo": lambda c, r, s, p: -c - s["beta"] * logsigmoid(log_odds(c) - log_odds(r)),
    "kto": lambda c, r, s, p: s["desirable_weight"] * (1 - torch.sigmoid(s["beta"] * (c - p["baseline"])))
    + s["undesirable_weight"] * (1 - torch.sigmoid(s["beta"] * (p["baseline"] - r))),
    "dno": lambda c, r, s, p: smooth(s["beta"] * (c - r),
                                     1 - torch.sigmoid(torch.tensor(s["reward_scale"] * p["margin"]))),
    "rebel": lambda c, r, s, p: (s["beta"] * (c - r) - s["reward_scale"] * p["margin"]) ** 2,
    # of a scalar head: c and r are the scores
    "bradley_terry": lambda c, r, s, p: -logsigmoid(c - r),
    "bradley_terry_margin": lambda c, r, s, p: -logsigmoid(c - r - s["reward_scale"] * p["margin"]),
    "margin": lambda c, r, s, p: relu(s["reward_scale"] * p["margin"] - (c - r)),
}
PER_TOKEN = {"ipo", "sigmoid_norm", "simpo", "orpo"}
WITHOUT_REFERENCE = {"simpo", "orpo", "bradley_terry", "bradley_terry_margin", "margin"}


def of(loss, c, r, s, p):
    if not (loss in WITHOUT_REFERENCE or s["no_reference"]):
        c, r = c - p["ref_chosen"], r - p["ref_rejected"]
    if loss in PER_TOKEN:
        c, r = c / p["n_chosen"], r / p["n_rejected"]
    return PAIRED[loss](c, r, s, p)


def case(loss, **changes):
    s = {"beta": random.choice([0.05, 0.1, 0.5, 2.5]), "sft_weight": 0.0, "label_smoothing": 0.0, "gamma": 0.5,
         "desirable_weight": 1.0, "undesirable_weight": 1.0, "discopop_tau": 0.05, "reward_scale": 1.0,
         "no_reference": False, "mix": {}}
    if loss in ("robust", "exo_pair") or (loss in ("dpo", "simpo") and random.random() < 0.5):
        s["label_smoothing"] = random.choice([0.05, 0.2, 0.4])
    if loss == "simpo":
        s["gamma"] = random.uniform(0, 2)
    if loss == "kto":
        s["desirable_weight"], s["undesirable_weight"] = random.uniform(0.5, 2), random.uniform(0.5, 2)
    if loss in ("dno", "rebel"):
        s["reward_scale"] = random.uniform(0.2, 3)
    if loss == "discopop":
        s["discopop_tau"] = random.choice([0.05, 0.5])
    s.update(changes)
    n = [random.randint(1, 40), random.randint(1, 40)]
    logp = [-m * random.uniform(0.01, 4) for m in n]
    spread = random.choice([0, 0.1, 5, 30])
    p = {"chosen": logp[0], "rejected": logp[1], "plain_chosen": logp[0] * random.uniform(1, 1.2),
         "ref_chosen": logp[0] + random.gauss(0, 1) * spread, "ref_rejected": logp[1] + random.gauss(0, 1) * spread,
         "n_chosen": n[0], "n_rejected": n[1], "margin": random.gauss(0, 2), "baseline": abs(random.gauss(0, 1)),
         "sft_mean": random.uniform(0.01, 1)}
    x = [torch.tensor(p[k], requires_grad=True) for k in ("chosen", "rejected", "plain_chosen")]
    weights = dict({loss: 1.0}, **s["mix"])
    value = -s["sft_weight"] * x[2] / n[0]
    for name, weight in weights.items():
        value = value + weight * (-x[2] * p["sft_mean"] if name == "sft" else of(name, x[0], x[1], s, p))
    grads = torch.autograd.grad(value, x, allow_unused=True)
    return {"loss": loss, "settings": s, "pair": p, "value": value.item(),
            **{k: 0.0 if g is None else g.item() for k, g in zip(("chosen", "rejected", "plain_chosen"), grads)}}


def policy_case(surrogate, importance, kl, clip):
    n = random.randint(1, 12)
    logps = torch.tensor([-random.uniform(0, 4) for _ in range(n)], requires_grad=True)
    single = lambda values: torch.tensor(values, dtype=torch.float32).double()  # as the engine stores them
    old = single([x.item() + random.gauss(0, 0.4) for x in logps])
    ref = single([x.item() + random.gauss(0, 0.4) for x in logps])
    sampler = single([x.item() + random.gauss(0, 0.6) for x in old])
    adv = torch.tensor([random.gauss(0, 1.5) for _ in range(n)])
    s = {"surrogate": surrogate, "importance": importance, "kl": kl, "epsilon_low": clip[0], "epsilon_high": clip[1],
         "max_ratio": clip[2], "kl_weight": random.choice([0.0, 0.04, 1.0]), "sampler_cap": random.choice([0.0, 2.0])}
    share = random.uniform(0.01, 1)
    log_ratio = logps - old
    if importance == "sequence":
        log_ratio = log_ratio.mean().expand(n)
    ratio = torch.exp(log_ratio)
    if surrogate == "clipped":
        free = ratio.clamp(max=s["max_ratio"]) if s["max_ratio"] else ratio
        held = ratio.clamp(1 - s["epsilon_low"], 1 + s["epsilon_high"])
        loss = -torch.min(free * adv, held * adv)
    elif surrogate == "truncated":
        loss = -ratio.clamp(max=1 + s["epsilon_high"]).detach() * adv * logps
    else:
        loss = -adv * logps
    if s["sampler_cap"]:
        off = (old - sampler).sum() if importance == "sequence" else old - sampler
        loss = loss * torch.exp(off).clamp(max=s["sampler_cap"])
    d = logps - ref
    loss = loss + s["kl_weight"] * {"k1": d, "k2": d ** 2 / 2, "k3": torch.exp(-d) + d - 1}[kl]
    value = share * loss.sum()
    value.backward()
    return {"settings": s, "share": share, "logps": logps.tolist(), "old": old.tolist(), "ref": ref.tolist(),
            "sampler": sampler.tolist(), "advantages": adv.tolist(), "loss": value.item(),
            "slopes": logps.grad.tolist()}


def advantage_case(kind, rewards):
    r = torch.tensor(rewards)
    if len(rewards) < 2:
        return {"kind": kind, "rewards": rewards, "expected": [0.0] * len(rewards)}
    others = (r.sum() - r) / (len(r) - 1)
    expected = {"centred": r - r.mean(), "standardised": (r - r.mean()) / (r.std() + 1e-4),
                "leave_one_out": r - others}[kind]
    return {"kind": kind, "rewards": rewards, "expected": expected.tolist()}


def value_case(clip):
    n = random.randint(2, 14)
    single = lambda values: torch.tensor(values, dtype=torch.float32).double()
    v = torch.tensor([random.gauss(0, 1) for _ in range(n)], requires_grad=True)
    old = single([x.item() + random.gauss(0, 0.4) for x in v])
    returns = torch.tensor([random.gauss(0, 1.5) for _ in range(n)])
    share = random.uniform(0.01, 1)
    held = torch.clamp(v, old - clip, old + clip) if clip else v  # TRL's PPO trainer: vpredclipped
    loss = share * 0.5 * torch.max((v - returns) ** 2, (held - returns) ** 2).sum()
    loss.backward()
    return {"clip": clip, "share": share, "values": v.tolist(), "old": old.tolist(), "returns": returns.tolist(),
            "loss": loss.item(), "slopes": v.grad.tolist()}


def gae_case(gamma, lam):
    n = random.randint(1, 14)
    rewards = [random.gauss(0, 1) for _ in range(n)]
    values = torch.tensor([random.gauss(0, 1) for _ in range(n)], dtype=torch.float32).double().tolist()
    last, reversed_advantages = 0.0, []
    for t in reversed(range(n)):  # TRL's PPO trainer
        after = values[t + 1] if t < n - 1 else 0.0
        last = rewards[t] + gamma * after - values[t] + gamma * lam * last
        reversed_advantages.append(last)
    advantages = reversed_advantages[::-1]
    return {"gamma": gamma, "lambda": lam, "rewards": rewards, "values": values, "advantages": advantages,
            "returns": [a + v for a, v in zip(advantages, values)]}


def main():
    cases = [case(loss) for loss in PAIRED if loss != "sppo_soft" for _ in range(4)]
    cases += [case(loss, no_reference=True, sft_weight=0.7) for loss in ("dpo", "ipo", "hinge")]
    cases += [case("dpo", mix={"dpo": 0.8, "bco_pair": 0.2, "sft": 1.0}),
              case("ipo", mix={"simpo": 0.5, "orpo": 0.1, "apo_zero": 2.0}, sft_weight=0.3),
              case("apo_down", mix={"discopop": 0.5, "nca_pair": 0.25})]
    policy = [policy_case(surrogate, importance, kl, clip)
              for surrogate in ("clipped", "truncated", "plain") for importance in ("token", "sequence")
              for kl, clip in (("k1", (0.2, 0.2, 0.0)), ("k2", (0.2, 0.28, 1.3)), ("k3", (0.1, 0.1, 0.0)))]
    advantages = [advantage_case(kind, rewards) for kind in ("centred", "standardised", "leave_one_out")
                  for rewards in ([1.0, 0.0, 0.0, 1.0, 0.25], [3.5, -2.0], [0.1, 0.1, 0.1], [2.0])]
    with open("losses_golden.json", "w", encoding="utf-8") as f:
        f.write('{"pairs": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n],\n")
        f.write('"policy": [\n' + ",\n".join(json.dumps(c) for c in policy) + "\n],\n")
        f.write('"advantages": [\n' + ",\n".join(json.dumps(c) for c in advantages) + "\n],\n")
        values = [value_case(clip) for clip in (0.0, 0.2, 0.2, 0.5)]
        gae = [gae_case(gamma, lam) for gamma, lam in ((1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.9, 0.0))]
        soft_cases = [case("sppo_soft", reward_scale=random.uniform(0.2, 3), rewards_are_rates=rates)
                      for rates in (False, True) for _ in range(4)]
        f.write('"values": [\n' + ",\n".join(json.dumps(c) for c in values) + "\n],\n")
        f.write('"gae": [\n' + ",\n".join(json.dumps(c) for c in gae) + "\n],\n")
        f.write('"soft_pairs": [\n' + ",\n".join(json.dumps(c) for c in soft_cases) + "\n]}\n")


main()
