"""Rotary frequencies by `transformers` for crates/backbones/tests/rope.json.

    python tools/reference/rope.py > crates/backbones/tests/rope.json
"""

import json
import logging

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

logging.disable(logging.WARNING)
BASE = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "max_position_embeddings": 256}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
DIVISORS = {"short_factor": [1 + 0.1 * i for i in range(8)], "long_factor": [1 + i * i for i in range(8)]}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES = [
    {},
    {"rope_theta": 500000.0},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 20000.0},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 20000.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "rope_theta": 10000.0},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 100, "head_dim": 32},
    {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32, "rope_theta": 500000.0}},
    {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 128}, "rope_theta": 5000.0},
    {"rope_scaling": LLAMA3},
    {"rope_parameters": {**YARN, "rope_theta": 10000.0}},
    {"rope_scaling": {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": True},
     "max_position_embeddings": 65536, "head_dim": 128, "hidden_size": 512},
    {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0}},
    {"rope_scaling": {**YARN, "beta_fast": 0, "beta_slow": None}},
    {"rope_scaling": {**YARN, "attention_factor": 0.75}},
    {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    {"rope_scaling": {**YARN, "mscale": 0.7}},
    {"rope_scaling": {**YARN, "truncate": False}},
    {"rope_scaling": {**YARN, "truncate": False}, "head_dim": 64, "rope_theta": 1000000.0},
    {"rope_scaling": {**YARN, "factor": None}},
    {"rope_scaling": {**YARN, "factor": 0.5}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    {"rope_scaling": {**YARN, "original_max_position_embeddings": 4}},
    {"rope_scaling": {"rope_type": "longrope", **DIVISORS, "original_max_position_embeddings": 64}},
    {"rope_scaling": {"rope_type": "longrope", **DIVISORS, "factor": 2.0}, "original_max_position_embeddings": 100},
    {"rope_scaling": {"rope_type": "longrope", **DIVISORS, "attention_factor": 1.25, "factor": 8.0}},
]


def case(changes):
    settings = json.loads(json.dumps(BASE | changes))
    config = LlamaConfig(**settings)
    embedding = LlamaRotaryEmbedding(config)
    lengths = [1, 50, 64, 65, 100, 101, 256, 257, 1000]
    frequencies = {}
    for length in lengths:
        if embedding.rope_type == "default":
            inverse = embedding.inv_freq
        else:
            inverse, _ = ROPE_INIT_FUNCTIONS[embedding.rope_type](config, "cpu", seq_len=length)
        frequencies[length] = [float(value) for value in inverse]
    return {"config": BASE | changes, "attention_factor": embedding.attention_scaling, "inverse_frequencies": frequencies}


print("[\n" + ",\n".join(json.dumps(case(changes)) for changes in CASES) + "\n]")
