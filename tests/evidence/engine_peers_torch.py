"""Generation with transformers and a DPO step with PyTorch, for engine_peers.sh, in float32 on a few threads.

usage: engine_peers_torch.py generate DIR THREADS PROMPTS SAMPLES PROMPT_TOKENS TOKENS    tokens/s, prompts included
       engine_peers_torch.py train DIR THREADS PAIRS PROMPT_TOKENS TOKENS                 steps/s
"""

import sys
import time

import torch
import transformers


def generate(model, prompts, samples, n_prompt, tokens):
    ids = torch.randint(0, model.config.vocab_size, (prompts, n_prompt))
    with torch.inference_mode():
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                       num_return_sequences=samples, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0,
                       eos_token_id=None)
    return prompts * samples * tokens


def step(model, optimizer, pairs, n_prompt, tokens):
    """TRL's form: chosen and rejected side by side in one batch, the reference's log-probs known beforehand."""
    prompt = torch.randint(0, model.config.vocab_size, (pairs, n_prompt))
    answers = torch.randint(0, model.config.vocab_size, (2 * pairs, tokens))
    ids = torch.cat([prompt.repeat(2, 1), answers], 1)
    logits = model(ids, use_cache=False, logits_to_keep=tokens + 1).logits[:, :-1]
    logps = torch.gather(logits.log_softmax(-1), 2, answers.unsqueeze(2)).squeeze(2).sum(1)
    loss = -torch.nn.functional.logsigmoid(0.1 * (logps[:pairs] - logps[pairs:])).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return 1


def main(what, folder, threads, *sizes):
    torch.set_num_threads(int(threads))
    sizes = [int(size) for size in sizes]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if what == "train":
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0)
        warm = lambda: step(model, optimizer, 1, *sizes[1:])
        run = lambda: step(model, optimizer, *sizes)
    else:
        model.eval()
        warm = lambda: generate(model, 1, 1, sizes[2], 4)
        run = lambda: generate(model, *sizes)
    warm()
    begin = time.monotonic()
    done = run()
    print(f"{done / (time.monotonic() - begin):.4f}")


main(*sys.argv[1:])
