"""transformers on the shapes of tests/gpu/bench, bf16, random weights: the same work, printed in the same form."""
import sys
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "0.5B": (24, 896, 14, 2, 4864, 151936, True),
    "1.5B": (28, 1536, 12, 2, 8960, 151936, True),
    "7B": (28, 3584, 28, 4, 18944, 152064, False),
}
TOKENS = 128


def timed(work):
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def train(model, vocab, pairs=4, prompt=128, answer=448):
    """A DPO step as the trainer of this project does it: float32 weights, bf16 products, AdamW, a micro-batch of one pair."""
    model = model.float().train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    tokens = torch.randint(0, vocab, (pairs, 2, prompt + answer), device="cuda")
    tokens[:, 1, :prompt] = tokens[:, 0, :prompt]

    def step():
        for pair in tokens:
            with torch.autocast("cuda", torch.bfloat16):
                logits = model(pair).logits[:, prompt - 1:-1]
            logps = -torch.nn.functional.cross_entropy(
                logits.float().transpose(1, 2), pair[:, prompt:], reduction="none").sum(-1)
            (-torch.nn.functional.logsigmoid(0.1 * (logps[0] - logps[1])) / pairs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return tokens.numel() / timed(step)


def main(name):
    layers, d, heads, kv, ff, vocab, tied = SHAPES[name]
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=d, intermediate_size=ff, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, max_position_embeddings=4096, tie_word_embeddings=tied)
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
    kept = dict(do_sample=True, min_new_tokens=TOKENS, max_new_tokens=TOKENS, pad_token_id=0, eos_token_id=None)
    one = torch.ones((1, 16), dtype=torch.long, device="cuda")
    many = one.repeat(64, 1)
    whole = torch.randint(0, vocab, (8, 512), device="cuda")

    @torch.inference_mode()
    def score():
        logits = model(whole).logits
        torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, whole[:, 1:, None])

    print(f"{name}  transformers  decode 1    {TOKENS / timed(lambda: model.generate(one, **kept)):9.0f} tokens/s")
    print(f"{name}  transformers  decode 64   {64 * TOKENS / timed(lambda: model.generate(many, **kept)):9.0f} tokens/s")
    print(f"{name}  transformers  score 8x512 {whole.numel() / timed(score):9.0f} tokens/s", flush=True)
    if name != "7B":
        print(f"{name}  transformers  train 4 pairs {train(model, vocab):7.0f} tokens/s", flush=True)


main(sys.argv[1])
