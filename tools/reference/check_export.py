#!/usr/bin/env python3
"""Load exported adapters into Hugging Face PEFT itself, and compare the loss and the accuracy that it gives with ours.

    tools/reference/check_export.py target/debug/bench assets/bert-tiny [METHOD..]

Trains every method for some steps on the bundled sentences with `bench`, exports the adapter, loads it by
`PeftModel.from_pretrained`, and prints the loss and accuracy on validation of both, and the tensors that PEFT's model does
not hold as they are in the file. Needs torch, transformers, peft, tokenizers.
"""

import csv
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

EXPERIMENT = """name = "check"
device = "cpu"
[model]
source = "{model}"
[training]
steps = 60
batch_size = 8
learning_rate = 1e-2
[[task]]
name = "sentiment"
kind = "classification"
train = {{ path = "{data}-train.tsv", take = 240 }}
validation = {{ path = "{data}-validation.tsv", take = {rows} }}
labels = ["negative", "positive"]
max_length = 32
"""
ROWS = 150
# no prefix tuning: with transformers 5 PEFT refuses its own on BERT
METHODS = ["lora", "rslora", "lora lora_bias = true", "lora bias = \"lora_only\"", "lora bias = \"all\"", "dora", "pissa",
           "olora", "adalora", "loha rank_pattern = { query = 2 }", "lokr alpha_pattern = { value = 3 }", "ia3", "vera",
           "vb-lora", "oft", "boft", "glora", "ln-tuning", "prompt-tuning"]

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def accuracy_and_loss(model, tokenizer, rows):
    right, loss = 0, 0.0
    for text, label in rows:
        ids = tokenizer.encode(text).ids
        ids = ids if len(ids) <= 32 else [*ids[:31], ids[-1]]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()).logits[0]
        right += int(logits.argmax() == label)
        loss += torch.nn.functional.cross_entropy(logits, torch.tensor(label)).item()
    return right / len(rows), loss / len(rows)


def main():
    bench, source = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    data = source.parent / "snippets/sentiment"
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation(), tokenizer.no_padding()
    with open(f"{data}-validation.tsv") as file:
        read = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = [(row["text"], ["negative", "positive"].index(row["label"])) for row in read][:ROWS]
    with tempfile.TemporaryDirectory() as folder:
        text = EXPERIMENT.format(model=source, data=data, rows=ROWS)
        for method in sys.argv[3:] or METHODS:
            name, _, settings = method.partition(" ")
            text += f"[[method]]\nname = '{name}'\nlabel = '{method}'\n{settings}\n"
        Path(folder, "check.toml").write_text(text)
        call = lambda *arguments: subprocess.run([bench, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        call("run", "check.toml", "--out", "out")
        for record in sorted(Path(folder, "out/runs").glob("*.json")):
            measured = json.loads(record.read_text())
            out = Path(folder, "adapter", record.stem)
            call("export", str(record), "--experiment", "check.toml", "--out", str(out))
            base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                model = peft.PeftModel.from_pretrained(base.float(), str(out)).eval()
            keys = peft.get_peft_model_state_dict(model)
            saved = load_file(out / "adapter_model.safetensors")
            differ = sorted({k for k in keys if k not in saved or not torch.equal(keys[k], saved[k].to(keys[k].dtype))}
                            | (saved.keys() - keys.keys()))
            accuracy, loss = accuracy_and_loss(model, tokenizer, rows)
            ours = measured["measured"]["training"]["validation_loss_after"]
            score = measured["measured"]["validation"][0]["value"]
            print(f"{measured['label']:32} ours {ours:.7f} {score:.4f} PEFT {loss:.7f} {accuracy:.4f}  "
                  f"difference {abs(loss - ours):.1e}  tensors that differ {differ}", flush=True)
            for warning in told:
                if "adapter" in str(warning.message).lower():
                    print("   ", str(warning.message)[:200])


if __name__ == "__main__":
    main()
