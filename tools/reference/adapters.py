#!/usr/bin/env python3
"""Write adapters as Hugging Face PEFT saves them, with options that are rarely asked for, and what it computes with them.

    tools/reference/adapters.py tests/fixtures/adapters

Every adapter is put on one of the tiny models in tests/fixtures/parity/base, its tensors are randomised, and it is saved.
Then it is loaded again onto a fresh model by `PeftModel.from_pretrained`: expected.safetensors holds the logits of that
one by the adapter's name (of a language model, those of each row's last position), and the rows of tokens. Needs torch,
transformers, peft.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

BASES = Path(__file__).resolve().parents[2] / "tests/fixtures/parity/base"
QV = ["query", "value"]
QKV = ["query", "key", "value"]

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore")


def cases():
    """Name, which begins with the base's; configuration; and how it is saved, if not plainly."""
    lora, seq, text = peft.LoraConfig, dict(task_type="SEQ_CLS"), dict(task_type="CAUSAL_LM")
    base = dict(r=3, lora_alpha=5)
    yield "bert-lora-layers", lora(**base, target_modules=QV, layers_to_transform=[1], layers_pattern="layer", **seq)
    yield "llama-lora-layers", lora(**base, target_modules=["q_proj", "up_proj"], layers_to_transform=1,
                                    layers_pattern=["layers"], **text)
    yield "llama-lora-exclude", lora(**base, target_modules="all-linear", exclude_modules=["down_proj", "o_proj"],
                                     **text)
    yield "bert-lora-exclude-pattern", lora(**base, target_modules=QKV,
                                            exclude_modules=r".*layer\.(?:0\..*key|1\..*value)", **seq)
    yield "llama-lora-look-around", lora(**base, target_modules=r"model\.layers\.(?!0\.)\d+\..*(?<!k_)(?<!v_)proj",
                                         **text)
    yield "bert-lora-patterns", lora(**base, target_modules=QV, rank_pattern={r"layer\.0\..*query": 2, "value": 4},
                                     alpha_pattern={"query": 7, r"1\.attention\.self\.value": 2.5}, **seq)
    yield "roberta-rslora-patterns", lora(**base, target_modules=QV, use_rslora=True, rank_pattern={"query": 2},
                                          alpha_pattern={r"layer\.1\..*": 7}, **seq)
    yield "bert-dora-rslora", lora(**base, target_modules=QV, use_dora=True, use_rslora=True, **seq)
    yield "llama-dora-patterns", lora(**base, target_modules=["q_proj", "down_proj"], use_dora=True,
                                      rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 2}, **text)
    yield "bert-lora-bias-only", lora(**base, target_modules=QV, bias="lora_only", **seq)
    yield "roberta-lora-bias-all", lora(**base, target_modules=QV, bias="all", **seq)
    yield "bert-lora-lora-bias", lora(**base, target_modules=QV, lora_bias=True, **seq)
    yield "llama-rslora-lora-bias", lora(**base, target_modules=["q_proj", "v_proj"], lora_bias=True, use_rslora=True,
                                         **text)
    yield "bert-pissa", lora(**base, target_modules=QV, init_lora_weights="pissa", **seq)
    yield "llama-pissa-rslora-patterns", lora(**base, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa",
                                              use_rslora=True, rank_pattern={"v_proj": 2}, **text)
    # as it is saved, two loads of it differ by 7e-3, since PEFT draws anew what it takes off the base
    yield "llama-pissa-converted", lora(**base, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa_niter_4",
                                        **text)
    yield "llama-olora", lora(**base, target_modules=["q_proj", "v_proj"], init_lora_weights="olora", **text)
    lycoris = dict(r=3, alpha=5, rank_pattern={"query": 2, r"layer\.1\..*value": 4}, alpha_pattern={"value": 2.5}, **seq)
    yield "bert-loha-patterns", peft.LoHaConfig(target_modules=QV, **lycoris)
    yield "roberta-lokr-patterns", peft.LoKrConfig(target_modules=QV, decompose_both=True, **lycoris)
    ada = dict(init_r=4, target_r=2, lora_alpha=5, total_step=4, tfinal=1)
    yield "bert-adalora-pruned", peft.AdaLoraConfig(target_modules=QV, **ada, **seq)
    yield "llama-adalora-pruned", peft.AdaLoraConfig(target_modules=["q_proj", "v_proj"], **ada, **text)
    yield "llama-lora-state-dict", lora(**base, target_modules=["q_proj", "v_proj"], **text)
    one = dict(r=1, lora_alpha=2)
    yield "bert-lora-all-linear", lora(**one, target_modules="all-linear", **seq)
    yield "roberta-lora-all-linear", lora(**one, target_modules="all-linear", **seq)
    yield "bert-lora-no-task", lora(**base, target_modules=QV)
    yield "bert-lora-saved-pooler", lora(**one, target_modules=["query"], modules_to_save=["pooler"], **seq)
    yield "llama-lora-output-layer", lora(**one, target_modules=["q_proj", "lm_head"], **text)
    yield "llama-lora-saved-layers", lora(**one, target_modules=["q_proj"], modules_to_save=["norm", "embed_tokens"],
                                          **text)
    # PEFT puts nothing inside a module that is saved, and takes a name that no module has for nothing
    yield "llama-lora-saved-targets", lora(**one, target_modules=["q_proj", "k_proj", "c_attn"],
                                           modules_to_save=["k_proj", "lm_head"], **text)
    yield "bert-ia3-saved-pooler", peft.IA3Config(target_modules=["key", "pooler.dense"], feedforward_modules=[],
                                                  modules_to_save=["pooler"], **seq)
    yield "roberta-lora-head", lora(**base, target_modules=QV, modules_to_save=["classifier"], **seq)
    yield "roberta-lora-head-state-dict", lora(**base, target_modules=QV, **seq)
    dense = ["intermediate.dense", "attention.output.dense"]
    yield "bert-ia3-feedforward", peft.IA3Config(target_modules=["key", *dense], feedforward_modules=dense, **seq)
    yield "llama-ia3-patterns", peft.IA3Config(target_modules=r".*\.(?:k|v|up|down)_proj",
                                               feedforward_modules=r".*\.mlp\.down_proj", **text)


def load_base(name):
    arch = name.partition("-")[0]
    kind = AutoModelForCausalLM if arch == "llama" else AutoModelForSequenceClassification
    return kind.from_pretrained(BASES / arch).eval()


def randomise(model, generator):
    """Moves all that is trained: a zero B hides most mistakes."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)


def prune(model, rows, generator):
    """Takes ranks away as in training; one module loses all of them."""
    labels = rows if "Causal" in type(model.base_model.model).__name__ else torch.zeros(len(rows), dtype=torch.long)
    for step in range(1, 4):
        model(input_ids=rows, labels=labels).loss.backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    pattern = model.peft_config["default"].rank_pattern
    first = next(iter(pattern))
    pattern[first] = [False] * len(pattern[first])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_E." in name:
                kept = pattern[name.removeprefix("base_model.model.")]
                p.mul_(torch.tensor(kept).reshape(-1, 1))


def write(name, config, rows, out):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = peft.get_peft_model(load_base(name), config).eval()
    last = lambda model: (lambda logits: logits[:, -1] if logits.dim() == 3 else logits)(model(input_ids=rows).logits)
    with tempfile.TemporaryDirectory() as folder:
        if "converted" in name:
            initial = Path(folder, "initial")
            config.init_lora_weights = True
            model.save_pretrained(initial)
            config.init_lora_weights = "pissa_niter_4"
        randomise(model, generator)
        if "pruned" in name:
            prune(model, rows, generator)
        with torch.no_grad():
            before = last(model)
        if "converted" in name:
            model.save_pretrained(out / name, path_initial_model_for_weight_conversion=str(initial))
        elif "state-dict" in name:
            model.save_pretrained(out / name)
            used = ("lora_", "modules_to_save", "original_module")
            tensors = {key: t.contiguous() for key, t in model.state_dict().items() if any(u in key for u in used)}
        else:
            model.save_pretrained(out / name)
    (out / name / "README.md").unlink(missing_ok=True)
    config_path = out / name / "adapter_config.json"
    read = json.loads(config_path.read_text())
    # the same from run to run, and on every machine
    read["base_model_name_or_path"] = f"tests/fixtures/parity/base/{name.partition('-')[0]}"
    for key in ["target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"]:
        if isinstance(read.get(key), list):
            read[key].sort()
    config_path.write_text(json.dumps(read, indent=1, sort_keys=True) + "\n")
    loads = []
    for seed in [2, 3]:
        torch.manual_seed(seed)
        loaded = peft.PeftModel.from_pretrained(load_base(name), out / name).eval()
        with torch.no_grad():
            loads.append(last(loaded))
    if "state-dict" in name:
        save_file(tensors, out / name / "adapter_model.safetensors")
    trained, again = ((a - b).abs().max().item() for a, b in [(before, loads[0]), (loads[0], loads[1])])
    with torch.no_grad():
        moved = (loads[0] - last(load_base(name))).abs().max().item()
    print(f"{name:32} as trained {trained:.1e}  loaded twice {again:.1e}  from the base {moved:.1e}")
    return loads[0]


def main():
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rows = torch.randint(3, 131, (3, 9), generator=torch.Generator().manual_seed(0))
    expected = {"rows": rows}
    for name, config in cases():
        expected[name] = write(name, config, rows, out).contiguous()
    save_file(expected, out / "expected.safetensors", metadata=dict(
        reference=f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"))


if __name__ == "__main__":
    main()
