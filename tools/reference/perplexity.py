#!/usr/bin/env python3
"""Write the reference perplexity of SmolLM2-135M-Instruct (GGUF) on a State of the Union address.

    tools/reference/perplexity.py MODEL.gguf state-of-the-union.tsv tests/fixtures/smollm2-perplexity.json

The tensors are dequantised to f32 by the `gguf` package, query and key rows are put back from interleaved into
half-split order, and transformers' LlamaForCausalLM runs on them on the CPU. The tokenizer is built from the
vocabulary and merges inside the GGUF. `--via-transformers` lets transformers read the GGUF by itself instead,
to compare. Needs torch, transformers, tokenizers, gguf.
"""

import argparse
import csv
import hashlib
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

WINDOW = 512
TOKENS = 2048
YEAR, SPEAKER, WHICH = "1980", "Carter", 0  # of the two addresses of that year
CONTROL = 3  # token type of special tokens in a GGUF


def read_text(path):
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if row["year"] == YEAR and row["president"] == SPEAKER]
    return rows[WHICH]["text"].replace("\\n", "\n")


def build_tokenizer(field):
    """GPT-2's byte-level BPE with every digit by itself: what `tokenizer.ggml.pre = smollm` stands for."""
    assert (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")) == ("gpt2", "smollm")
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    out = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    out.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens([t for t, kind in zip(tokens, types) if kind == CONTROL])
    return out


def unpermute(rows, heads):
    """GGUF interleaves the two halves of a head: its rows 2j and 2j+1 are the Hub's rows j and j + size/2."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def build_model(reader, field):
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    config = LlamaConfig(
        hidden_size=field("llama.embedding_length"), intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"), num_attention_heads=heads, num_key_value_heads=kv_heads,
        vocab_size=field("llama.vocab_size"), max_position_embeddings=field("llama.context_length"),
        rope_theta=field("llama.rope.freq_base"), rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True)
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for tensor in reader.tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name == "token_embd.weight":
            state["model.embed_tokens.weight"] = state["lm_head.weight"] = torch.from_numpy(values)
        elif tensor.name == "output_norm.weight":
            state["model.norm.weight"] = torch.from_numpy(values)
        else:
            _, layer, kind, _ = tensor.name.split(".")
            if kind in ("attn_q", "attn_k"):
                values = unpermute(values, heads if kind == "attn_q" else kv_heads)
            state[f"model.layers.{layer}.{names[kind]}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--via-transformers", action="store_true", help="let transformers read the GGUF")
    args = parser.parse_args()
    torch.set_num_threads(1)

    reader = gguf.GGUFReader(args.model)
    field = lambda name: reader.fields[name].contents()
    tokenizer = build_tokenizer(field)
    text = read_text(args.text)
    everything = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(everything) == text
    ids = everything[:TOKENS]
    if args.via_transformers:
        model = AutoModelForCausalLM.from_pretrained(args.model.parent, gguf_file=args.model.name, dtype=torch.float32)
    else:
        model = build_model(reader, field)
    model.eval()

    losses = []
    for start in range(0, TOKENS, WINDOW):
        window = torch.tensor([ids[start:start + WINDOW]])
        with torch.no_grad():
            logits = model(input_ids=window, use_cache=False).logits[0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(logits, window[0, 1:]).item())
        if start == 0:
            first_logits = logits[:1, :8].flatten().tolist()
    result = dict(
        model="HuggingFaceTB/SmolLM2-135M-Instruct-GGUF, SmolLM2-135M-Instruct.Q4_1.gguf",
        model_sha256=hashlib.sha256(args.model.read_bytes()).hexdigest(),
        reference=f"transformers {transformers.__version__}, torch {torch.__version__}, "
                  f"tokenizers {tokenizers.__version__}, gguf {version('gguf')}",
        text=f"state-of-the-union.tsv: the first row with year {YEAR} and president {SPEAKER}; backslash n in the file "
             "is a line break; no token is added in front",
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        text_begins=text[:80],
        rule=f"windows of {WINDOW} tokens without overlap, each from position 0, {WINDOW - 1} predictions each; "
             "perplexity is exp of the mean loss over all predictions; f32 forward pass, loss in f64",
        tokens_in_text=len(everything),
        token_ids_sha256={str(n): hashlib.sha256(",".join(map(str, ids[:n])).encode()).hexdigest()
                          for n in (WINDOW, TOKENS)},
        token_ids_sha256_of="decimal ids joined by commas",
        perplexity_512=math.exp(losses[0]),
        perplexity_2048=math.exp(sum(losses) / len(losses)),
        loss_per_window=losses,
        first_logits=first_logits,
        token_ids=ids,
    )
    lines = [f' {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}' for k, v in result.items()]
    args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print({k: v for k, v in result.items() if k not in ("token_ids",)})


if __name__ == "__main__":
    main()
