#!/usr/bin/env python3
"""Write tests/fixtures/trajectories: thirty steps of training in torch, for tests/trajectories.rs to repeat.

Every step sees all rows, so that no order of examples matters. The networks are those of transformers, the adapters
PEFT's, the optimizers torch's (Adafactor transformers'), the schedules and the parameters that decay transformers'.

    python tools/reference/trajectories.py
"""

import json
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, get_scheduler
from transformers.optimization import Adafactor
from transformers.trainer_pt_utils import get_parameter_names

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/trajectories"
STEPS = 30
PAD = 0
# transformers.Trainer.get_decay_parameter_names
UNDECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

BASES = {
    "bert": (
        BertForSequenceClassification,
        BertConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=40,
                   max_position_embeddings=16, num_labels=3, pad_token_id=PAD, hidden_dropout_prob=0.0,
                   attention_probs_dropout_prob=0.0),
    ),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, vocab_size=40, max_position_embeddings=16, pad_token_id=PAD,
                    tie_word_embeddings=False),
    ),
}
TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}


def adamw(**changes):
    return {"name": "adamw", **changes}


def case(base, method, optimizer, rate, schedule="constant", dtype="f32", **training):
    training = {"optimizer": optimizer, "learning_rate": rate, "schedule": schedule, "steps": STEPS, "batch_size": 10,
                "max_grad_norm": None, **training}
    return {"base": base, "method": method, "dtype": dtype, "training": training}


CASES = {
    "bert-adamw": case("bert", "full", adamw(), 1e-3),
    "bert-adamw-linear": case("bert", "full", adamw(), 1e-3, "linear", warmup_steps=6),
    "bert-adamw-undecayed": case("bert", "full", adamw(weight_decay=0.3), 1e-3, decay_biases_and_norms=False),
    "bert-adamw-lora": case("bert", "lora", adamw(), 1e-2, "cosine", warmup_steps=5),
    "bert-sgd": case("bert", "full", {"name": "sgd"}, 1e-2),
    "bert-sgd-momentum": case("bert", "full", {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}, 1e-3, "linear"),
    "bert-adafactor": case("bert", "full", {"name": "adafactor", "weight_decay": 0.1}, 1e-3),
    "llama-adamw": case("llama", "full", adamw(), 1e-3, "cosine", max_grad_norm=0.5),
    "llama-adamw-undecayed": case("llama", "full", adamw(weight_decay=0.3), 1e-3, decay_biases_and_norms=False),
    # four batches in a window that would take eight
    "llama-adamw-accumulated": case("llama", "full", adamw(), 1e-3, batch_size=3, gradient_accumulation=8),
    "llama-adamw-lora": case("llama", "lora", adamw(), 1e-2, batch_size=3, gradient_accumulation=8, max_grad_norm=0.5),
    "llama-sgd-momentum": case("llama", "lora", {"name": "sgd", "momentum": 0.9}, 1e-2, "linear", warmup_steps=6),
    "llama-adafactor": case("llama", "full", {"name": "adafactor"}, 1e-3, "cosine", warmup_steps=3),
    "llama-adafactor-lora": case("llama", "lora", {"name": "adafactor"}, 1e-2),
    "llama-bf16": case("llama", "full", adamw(), 1e-4, dtype="bf16"),
    "llama-bf16-norms": case("llama", "ln-tuning", adamw(), 1e-3, dtype="bf16"),
}


def network(base):
    """Every tensor is random: a bias of zero or a norm of one hides mistakes."""
    kind, config = BASES[base]
    config._attn_implementation = "eager"
    model = kind(config)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        norm = "norm" in name.lower() and name.endswith("weight")
        parameter.data = 1 + 0.1 * drawn if norm else 0.2 * drawn
    return model.eval()


def rows(base):
    """Ten rows of several lengths: token ids, and a class where that is what is learned."""
    generator = torch.Generator().manual_seed(11)
    draw = lambda low, high, *shape: torch.randint(low, high, shape, generator=generator)
    made = []
    for _ in range(10):
        length = int(draw(5, 13, 1))
        made.append({"input_ids": draw(1, 40, length).tolist(), "label": int(draw(0, 3, 1))})
    return made


def batch(made):
    longest = max(len(row["input_ids"]) for row in made)
    padded = lambda row, what: row["input_ids"] + [what] * (longest - len(row["input_ids"]))
    ids = torch.tensor([padded(row, PAD) for row in made])
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in made])
    return ids, mask, torch.tensor([padded(row, -100) for row in made]), torch.tensor([row["label"] for row in made])


def loss_of(model, made, base, narrow):
    ids, mask, tokens, classes = batch(made)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        logits = model(input_ids=ids, attention_mask=mask).logits
    if base == "bert":
        return cross_entropy(logits.float(), classes)
    # the mean over all tokens that count, the first of a row predicted by none
    return cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-100)


def with_method(model, spec):
    if spec["method"] == "full":
        return model
    if spec["method"] == "ln-tuning":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "norm" in name
        return model
    task = "SEQ_CLS" if spec["base"] == "bert" else "CAUSAL_LM"
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS[spec["base"]], task_type=task)
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(13)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def our_name(name):
    for part in ["base_model.model.", ".default", ".modules_to_save"]:
        name = name.replace(part, "")
    return name


def trained(model):
    return {our_name(name): p.detach().clone().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def make_optimizer(model, training):
    spec = dict(training["optimizer"])
    name, decay = spec.pop("name"), spec.pop("weight_decay", None)
    if decay is None:
        decay = 0.01 if name == "adamw" else 0.0
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = {name for name, _ in named}
    if not training.get("decay_biases_and_norms", True):
        decayed &= set(get_parameter_names(model, [torch.nn.LayerNorm], UNDECAYED))
    groups = [
        {"params": [p for name, p in named if name in decayed], "weight_decay": decay},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = training["learning_rate"]
    if name == "adafactor":
        return Adafactor(groups, lr=rate, relative_step=False, scale_parameter=False)
    return {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name](groups, lr=rate, **spec)


def run(spec, made):
    training = spec["training"]
    model = with_method(network(spec["base"]), spec)
    before = trained(model)
    optimizer = make_optimizer(model, training)
    warmup = training.get("warmup_steps", 0)
    kind = "constant_with_warmup" if training["schedule"] == "constant" else training["schedule"]
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS)
    losses = []
    for _ in range(STEPS):
        loss = loss_of(model, made, spec["base"], spec["dtype"] == "bf16")
        losses.append(loss.item())
        loss.backward()
        if training["max_grad_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), training["max_grad_norm"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return losses, before, trained(model)


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    bases = {}
    for base, (_, config) in BASES.items():
        save_file({k: p.detach().contiguous() for k, p in network(base).named_parameters()}, OUT / f"{base}.safetensors")
        config = {key: value for key, value in config.to_dict().items() if value is not None}
        keep = lambda key: not key.startswith("_") and key not in ("id2label", "label2id", "transformers_version")
        bases[base] = {"config": {k: v for k, v in config.items() if keep(k)}, "rows": rows(base)}
    cases = []
    for name, spec in CASES.items():
        losses, before, after = run(spec, rows(spec["base"]))
        tensors = {f"after.{key}": value for key, value in after.items()}
        # what the base does not hold
        tensors |= {f"before.{key}": value for key, value in before.items() if "lora_" in key}
        save_file(tensors, OUT / f"{name}.safetensors")
        settings = {"rank": 2, "alpha": 4} if spec["method"] == "lora" else {}
        cases.append({"name": name, **spec, "settings": settings, "losses": losses})
        print(f"{name}: {losses[0]:.6f} -> {losses[-1]:.6f}")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    text = json.dumps({"versions": versions, "bases": bases, "cases": cases}, indent=1)
    (OUT / "trajectories.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
