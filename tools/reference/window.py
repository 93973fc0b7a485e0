"""A tiny Mistral with a sliding window and what `transformers` computes with it, for tests/window.rs.

    python tools/reference/window.py tests/fixtures/window

logits.json has the logits of one text of 24 tokens with the window of config.json (8), with the narrowest, with one that
hides a single key, and with none; eager attention. Weights are large, so that a key too many or too few shows.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import MistralConfig, MistralForCausalLM

OUT = Path(sys.argv[1])
LENGTH, VOCABULARY = 24, 32


def logits(window, ids):
    model = MistralForCausalLM.from_pretrained(OUT, sliding_window=window, attn_implementation="eager")
    with torch.no_grad():
        found = model.eval()(torch.tensor([ids])).logits[0]
    return {"sliding_window": window, "logits": [[round(float(x), 6) for x in row] for row in found]}


def main():
    torch.manual_seed(5)
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, sliding_window=8, tie_word_embeddings=False,
        rms_norm_eps=1e-5, pad_token_id=0,
    )
    model = MistralForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3)
    OUT.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(OUT)
    (OUT / "generation_config.json").unlink(missing_ok=True)
    ids = [1 + (7 * i * i + 3 * i) % (VOCABULARY - 1) for i in range(LENGTH)]
    found = {
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "ids": ids, "cases": [logits(window, ids) for window in (8, 1, LENGTH - 1, None)],
    }
    (OUT / "logits.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
