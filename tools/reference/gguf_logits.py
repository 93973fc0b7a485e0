"""Tiny LLaMAs in GGUF and what `transformers` computes with their weights, for tests/gguf_logits.rs.

    python tools/reference/gguf_logits.py tests/fixtures/gguf

llama31.gguf has its rope scaling in rope_freqs.weight alone, as convert_hf_to_gguf.py writes it; yarn.gguf in keys, with biases of
attention and weights in Q8_0; logits.json the logits of both.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = Path(sys.argv[1])
HEADS, KEY_HEADS, HEAD = 4, 2, 8
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}


def name(hub):
    if hub in TOP:
        return TOP[hub]
    _, _, layer, *part, end = hub.split(".")
    return f"blk.{layer}.{NAMES['.'.join(part)]}.{end}"


def permute(values, heads):
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def write(file, scaling, keys, quantised, bias):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=24, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, max_position_embeddings=128, initializer_range=0.3, rms_norm_eps=1e-5,
        attention_bias=bias, rope_parameters={"rope_theta": 10000.0, **scaling},
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 and not bias else 0.3, 0.3)
    writer = gguf.GGUFWriter(OUT / file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD)
    keys(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "</s>", *"abcdefghijklmnopqrstu", "ab"])
    writer.add_token_types([3, 3] + [1] * 22)
    writer.add_token_merges(["a b"])
    if scaling["rope_type"] == "llama3":
        plain = 1 / 10000.0 ** (np.arange(0, HEAD, 2) / HEAD)
        frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        writer.add_tensor("rope_freqs.weight", (plain / frequencies.numpy()).astype(np.float32))
    for hub, parameter in model.state_dict().items():
        values = parameter.numpy()
        heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(hub.split(".")[-2])
        if heads:
            values = permute(values, heads)
        if quantised and values.ndim == 2:
            blocks = gguf.quantize(np.ascontiguousarray(values), Type.Q8_0)
            writer.add_tensor(name(hub), blocks, raw_dtype=Type.Q8_0)
            values = gguf.dequantize(blocks, Type.Q8_0)
            if heads:
                values = values.reshape(heads, HEAD // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
            parameter.copy_(torch.from_numpy(values.copy()))
        else:
            writer.add_tensor(name(hub), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = [0, *(2 + (7 * i * i + i) % 22 for i in range(99))]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, ::9]
    return {"file": file, "ids": ids, "every": 9, "logits": [[round(float(x), 6) for x in row] for row in logits]}


def nothing(_):
    pass


def yarn(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
found = [write("llama31.gguf", LLAMA3, nothing, False, False), write("yarn.gguf", YARN, yarn, True, True)]
(OUT / "logits.json").write_text(json.dumps(found) + "\n")
