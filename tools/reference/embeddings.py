#!/usr/bin/env python3
"""Write reference sentence embeddings of all-MiniLM-L6-v2 (any BERT encoder works).

    tools/reference/embeddings.py MODEL_FOLDER tests/fixtures/minilm

writes minilm.safetensors (input_ids, attention_mask, token_type_ids in i64; pooled, normalized in
f32) and minilm.json (the sentences). One batch, padded on the right to its longest sentence, f32 on the CPU.
`pooled` is the mean over real tokens of the last hidden layer, `normalized` is that divided by its l2 norm, which
is what sentence-transformers returns. Needs torch, transformers, safetensors.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

SENTENCES = [
    "Hello.",
    "A man is playing a guitar on the stage.",
    "Someone performs music in front of an audience with a stringed instrument.",
    "The stock market fell sharply on Monday, wiping out most of last year's gains.",
    "Café-au-lait tastes best at 7:30 a.m., doesn't it?",
    "Parameter-efficient fine-tuning keeps the pretrained weights frozen and trains a small number of additional "
    "parameters, which makes it cheap to store one adapter for each of many tasks.",
    "no",
    "Straßenbahn, naïve coöperation and 東京 test how the tokenizer splits words it has hardly ever seen; 3.14159 and "
    "supercalifragilisticexpialidocious do as well.",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder with config.json, model.safetensors, tokenizer.json")
    parser.add_argument("out", type=Path, help="path without extension")
    args = parser.parse_args()
    torch.set_num_threads(1)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = BertModel.from_pretrained(args.model, dtype=torch.float32).eval()
    batch = tokenizer(SENTENCES, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    normalized = torch.nn.functional.normalize(pooled, dim=1)

    tensors = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                   token_type_ids=batch["token_type_ids"], pooled=pooled, normalized=normalized)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, args.out.with_suffix(".safetensors"))
    args.out.with_suffix(".json").write_text(json.dumps(dict(
        model="sentence-transformers/all-MiniLM-L6-v2",
        weights_sha256=hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest(),
        reference=f"transformers {transformers.__version__}, torch {torch.__version__}",
        pooling="mean of the last hidden layer over tokens with attention_mask 1; normalized: divided by the l2 norm",
        sentences=SENTENCES,
        tokens=batch["attention_mask"].sum(1).tolist(),
        cosine=[[round(v, 6) for v in row] for row in (normalized @ normalized.T).tolist()],
    ), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("tokens", batch["attention_mask"].sum(1).tolist(), "pooled norms", pooled.norm(dim=1).tolist())
    # Padding must not matter: each sentence alone gives the same.
    alone = []
    for sentence in SENTENCES:
        with torch.no_grad():
            alone.append(model(**tokenizer([sentence], return_tensors="pt")).last_hidden_state.mean(1))
    print("largest difference to one sentence at a time:", (torch.cat(alone) - pooled).abs().max().item())
    print("cosine of sentences 2 and 3:", (normalized[1] @ normalized[2]).item())


if __name__ == "__main__":
    main()
