#!/usr/bin/env python3
"""Write a tiny language model with texts, and what PEFT makes of prompt tuning on them, with and without first tokens.

    tools/reference/virtual_tokens.py target/debug/bench tests/fixtures/virtual-tokens

`bench` is asked for the vectors that it begins with; from there on all is PEFT's, transformers' and torch's, in f64. With
first tokens, the labels are as PEFT takes them; without, those of each row's first token are -100. Needs torch,
transformers, peft, tokenizers.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

WORDS, END, LENGTH, VIRTUAL, STEPS, RATE = 60, 1, 12, 3, 10, 3e-2

EXPERIMENT = """name = "virtual-tokens"
device = "cpu"
[model]
source = "{out}/model"
[training]
steps = {steps}
batch_size = 64
learning_rate = {rate}
[[task]]
name = "words"
kind = "causal-lm"
train = "{out}/train.tsv"
validation = "{out}/validation.tsv"
max_length = {length}
[[method]]
name = "prompt-tuning"
num_virtual_tokens = {virtual}
"""


def make(out, generator):
    """The model, its tokenizer and the texts."""
    vocabulary = {"<unk>": 0, "<end>": END} | {f"w{i}": i + 2 for i in range(WORDS)}
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, vocab_size=len(vocabulary), max_position_embeddings=64,
                         tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=END)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    model.save_pretrained(out / "model")
    (out / "model/generation_config.json").unlink(missing_ok=True)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(out / "model/tokenizer.json"))
    for name, texts in [("train", 7), ("validation", 4)]:
        lines = []
        for _ in range(texts):
            count = int(torch.randint(3, 12, (1,), generator=generator))
            words = torch.randint(0, WORDS, (count,), generator=generator)
            lines.append(" ".join(f"w{int(w)}" for w in words))
        (out / f"{name}.tsv").write_text("\n".join(["text", *lines]) + "\n")
    return tokenizer


def rows(path, tokenizer):
    """Texts with their ends, packed into rows; the last is shorter."""
    stream = []
    for line in path.read_text().splitlines()[1:]:
        stream += [*tokenizer.encode(line).ids, END]
    found = [stream[i:i + LENGTH] for i in range(0, len(stream), LENGTH)]
    return [row for row in found if len(row) > 1]


def batch(found, first):
    ids = torch.zeros(len(found), max(map(len, found)), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(found):
        ids[i, :len(row)], mask[i, :len(row)], labels[i, :len(row)] = torch.tensor(row), 1, torch.tensor(row)
    if not first:
        labels[:, 0] = -100
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def train(out, tokenizer, start, first):
    base = LlamaForCausalLM.from_pretrained(out / "model").double()
    model = peft.get_peft_model(base, peft.PromptTuningConfig(num_virtual_tokens=VIRTUAL, task_type="CAUSAL_LM"))
    model = model.double().eval()
    prompt = [p for p in model.parameters() if p.requires_grad]
    prompt[0].data.copy_(start.double())
    seen, unseen = (batch(rows(out / f"{name}.tsv", tokenizer), first) for name in ("train", "validation"))
    look = lambda: model(**unseen).loss.item()
    optimizer = torch.optim.AdamW(prompt, lr=RATE, eps=1e-8, weight_decay=0.01)
    before, losses = look(), []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        loss = model(**seen).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prompt, 1.0)
        optimizer.step()
        losses.append(loss.item())
    after = look()
    return dict(tokens=int((unseen["labels"] >= 0).sum()), losses=losses, before=before, after=after,
                perplexity=math.exp(after))


def main():
    bench, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = make(out, torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        # a rate of next to nothing: what is written is what was begun with
        text = EXPERIMENT.format(out=out, steps=1, rate=1e-30, length=LENGTH, virtual=VIRTUAL)
        Path(folder, "x.toml").write_text(text)
        subprocess.run([bench, "run", "x.toml", "--out", "out"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        [file] = Path(folder, "out/runs").glob("*.safetensors")
        [start] = load_file(file).values()
    expected = dict(
        reference=f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
        virtual_tokens=VIRTUAL, length=LENGTH, steps=STEPS, learning_rate=RATE,
        with_first=train(out, tokenizer, start, True), without_first=train(out, tokenizer, start, False),
    )
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
