#!/usr/bin/env python3
"""Writes tokenizer_golden.json: what Hugging Face's tokenizers (0.23.3) make of the same components and texts.

Run by hand where `tokenizers` is installed; the result is committed. Layout:
  {"models": {name: model}, "setups": [{"name", "model", "components": {...}, "cases": [[text, special, ids, decoded]]}]}
The test puts model and components of a setup together to a tokenizer.json.
"""
import json
import random
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "Anna has 13 stickers. Emma gives 8 more to Anna, then Anna loses 9 and finds 2.",
    "How many stickers does Anna have now? She'll say: it's 14!",
    "The boxes hold 1200 red pens and 36 blue pens; they've 5 more than Tom's box.",
] * 4
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
MARK = "\u2581"


def train(pre, vocab, special, alphabet=()):
    t = Tokenizer(models.BPE(unk_token=special[0] if special else None))
    t.pre_tokenizer = pre
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=list(alphabet), show_progress=False))
    return json.loads(t.to_str())["model"]


def added(i, content, **flags):
    d = dict(id=i, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    d.update(flags)
    return d


def split(behavior, invert, pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = dict(BYTE_LEVEL, use_regex=False)


def setups(byte_model, mark_model, plain_model):
    nb, nm, npl = (len(m["vocab"]) for m in (byte_model, mark_model, plain_model))
    end = added(nb, "<|end|>", special=True)
    yield "gpt2", "bytes", {"added_tokens": [end, added(nb + 1, "   ", normalized=True)],
                            "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}
    yield "gpt2-prefix", "bytes", {"added_tokens": [end], "decoder": BYTE_LEVEL,
                                   "pre_tokenizer": dict(BYTE_LEVEL, add_prefix_space=True)}
    yield "llama3", "bytes-whole", {"added_tokens": [end], "decoder": BYTE_LEVEL, "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [split("Isolated", False, LLAMA3), BYTES_ONLY]}}
    yield "byte-normalizer", "bytes", {"added_tokens": [end], "normalizer": {"type": "ByteLevel"}, "decoder": BYTE_LEVEL}
    yield "llama2", "marks-bytes", {
        "added_tokens": [added(0, "<unk>", special=True), added(1, "<s>", special=True), added(2, "</s>", special=True)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}
    for scheme in ("first", "always", "never"):
        for cut in (True, False):
            meta = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": cut}
            yield f"metaspace-{scheme}-{cut}", "marks", {
                "added_tokens": [added(0, "<unk>", special=True), added(1, "<s>", special=True)],
                "pre_tokenizer": meta, "decoder": meta}
    flags = [added(npl, "<m>", lstrip=True, rstrip=True), added(npl + 1, "has", single_word=True),
             added(npl + 2, "<l>", lstrip=True), added(npl + 3, "<r>", rstrip=True, special=True),
             added(npl + 4, "<r><m>")]
    yield "flags", "plain", {"added_tokens": flags, "pre_tokenizer": {"type": "Whitespace"}}
    yield "digits-punctuation", "plain", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "MergedWithPrevious"},
        {"type": "WhitespaceSplit"}]}}
    yield "digits-runs", "plain", {"pre_tokenizer": {"type": "Digits", "individual_digits": False}}
    yield "trim-replace", "plain-fused", {"pre_tokenizer": {"type": "WhitespaceSplit"}, "normalizer": {
        "type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True},
                                            {"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "NUM "}]}}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"split-{behavior}-{invert}", "plain", {"pre_tokenizer": split(behavior, invert, "[aeiou ]")}
    yield "words", "words", {
        "added_tokens": [added(0, "<unk>", special=True), added(1, "<s>", special=True)],
        "pre_tokenizer": split("Removed", True, r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")}


def texts(rng):
    letters = list("aeinost hbAEST  '2136.,!?-\t\n\r") + list("\u00e9\u00df\u0449\u65e5\U0001f999\u00bc\u00a0\u2003\u0301\u200d\ud55c")
    bits = ["<|end|>", "<unk>", "<s>", "</s>", "<m>", "<l>", "<r>", " has ", "hash", "<0x41>", "   ", MARK, "\n\n",
            "'ll", " pens", "Anna"]
    yield from ("", " ", "  Anna  ", "Anna has 13 stickers.", "She'll <s> say <|end|>", "has<m> has", "12345 67")
    for _ in range(14):
        yield "".join(rng.choice(letters) if rng.random() < .8 else rng.choice(bits) for _ in range(rng.randint(3, 30)))


def main():
    byte_model = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 300, [], pre_tokenizers.ByteLevel.alphabet())
    mark_special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    mark_model = train(pre_tokenizers.Metaspace(), 360, mark_special)
    plain_model = train(pre_tokenizers.Whitespace(), 80, ["<unk>"])
    words = ["<unk>", "<s>", "Anna", "has", "stickers", "13", "say", ".", "'", "ll", "<", ">", "s", "She"]
    book = {"bytes": byte_model, "bytes-whole": dict(byte_model, ignore_merges=True), "marks": mark_model,
            "marks-bytes": dict(mark_model, byte_fallback=True, fuse_unk=True), "plain": plain_model,
            "plain-fused": dict(plain_model, fuse_unk=True),
            "words": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "<unk>"}}
    out = []
    for name, model, components in setups(byte_model, mark_model, plain_model):
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": None, "post_processor": None, "decoder": None, **components, "model": book[model]}
        t = Tokenizer.from_str(json.dumps(whole))
        rng = random.Random(name)
        cases = []
        for text in texts(rng):
            for special in (True, False):
                t.encode_special_tokens = not special
                ids = t.encode(text, add_special_tokens=False).ids
                cases.append([text, special, ids, t.decode(ids)])
        out.append({"name": name, "model": model, "components": components, "cases": cases})
    json.dump({"models": book, "setups": out}, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
