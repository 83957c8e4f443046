"""Writes a Llama checkpoint with a tied head, as `joust bench engine --save` makes it, as float32 GGUF: without a vocabulary, or with
that of llama2.c's tokenizer.bin.

usage: engine_peers_gguf.py DIR OUT.gguf [TOKENIZER.bin]
"""

import json
import struct
import sys

import gguf
import numpy
from safetensors.numpy import load_file


def interleaved(w, n_heads):
    """From pairs (i, i + half) of a head, as Hugging Face rotates, to pairs (2 i, 2 i + 1), as GGUF's llama does."""
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def add_vocabulary(writer, path):
    """SentencePiece's pieces: unknown, begin and end, 256 bytes, then the others, each with its score."""
    with open(path, "rb") as file:
        data = file.read()
    at, tokens, scores, types = 4, [], [], []
    while at < len(data):
        score, n = struct.unpack_from("<fi", data, at)
        text = data[at + 8 : at + 8 + n].decode()
        at += 8 + n
        i = len(tokens)
        tokens.append(["<unk>", "<s>", "</s>"][i] if i < 3 else text.replace(" ", "\u2581"))
        scores.append(score)
        types.append([gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL][i] if i < 3
                     else gguf.TokenType.BYTE if text.startswith("<0x") else gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)


def main(folder, out, tokenizer=None):
    with open(folder + "/config.json") as file:
        config = json.load(file)
    tensors = load_file(folder + "/model.safetensors")
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if tokenizer:
        add_vocabulary(writer, tokenizer)
    else:
        writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, w in tensors.items():
        w = numpy.ascontiguousarray(w, dtype=numpy.float32)
        parts = name.removesuffix(".weight").split(".")
        if name == "model.embed_tokens.weight":
            new = "token_embd"
        elif name == "model.norm.weight":
            new = "output_norm"
        elif name == "lm_head.weight":
            new = "output"
        else:
            kind = ".".join(parts[3:])
            new = f"blk.{parts[2]}.{names[kind]}"
            if kind == "self_attn.q_proj":
                w = interleaved(w, heads)
            elif kind == "self_attn.k_proj":
                w = interleaved(w, kv_heads)
        writer.add_tensor(new + ".weight", w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(*sys.argv[1:])
