#!/usr/bin/env python3
"""Runs an experiment file of `bench` with PyTorch, transformers and PEFT, and writes records that `bench compare` and
`bench report` read.

run.py EXPERIMENT --out DIR [--only LABEL]

Runs `[[method]] name = "lora"` on causal-lm tasks with random_rows, on LLaMA-shaped models with random weights: what is
needed to compare time and memory. Everything else is refused, not approximated. Each cell is a process of its own, as
with `bench`. Precision as with `bench`: frozen weights and activations in the model's dtype, trained tensors, loss and
optimizer in f32.
"""
import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import tomllib

from common import Watch, nvml, reset_resident_peak, resident_peak, write_json


def refuse(message):
    sys.exit(f"error: {message}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--out", required=True, help="results folder")
    parser.add_argument("--only", action="append", default=[], metavar="LABEL", help="this method's cells alone")
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def cells(experiment, path):
    """The grid, in `bench`'s order."""
    if experiment["model"].get("weights") != "random":
        refuse(f"{path}: [model]: only weights = \"random\" is done here")
    for task in experiment["task"]:
        if task["kind"] != "causal-lm" or "random_rows" not in task["train"]:
            refuse(f"{path}: task `{task['name']}`: only causal-lm with random_rows is done here")
    for method in experiment["method"]:
        if method["name"] != "lora":
            refuse(f"{path}: method `{method['name']}`: only lora is done here")
    return [(seed, task, row, method)
            for seed in experiment.get("seeds", [0])
            for task in experiment["task"]
            for row, method in enumerate(experiment["method"])]


def label(method):
    return method.get("label") or f"lora r={method.get('rank', 8)} q,v"


def stem(row, method, task, seed):
    def plain(text):
        return "-".join(part for part in "".join(c if c.isascii() and (c.isalnum() or c == ".") else "-" for c in text).split("-") if part)

    return f"{row:02}-{plain(label(method))}--{plain(task['name'])}--seed{seed}"


def build(model, base, device, length):
    """A LLaMA with random weights, made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    source = os.path.join(base, model["source"])
    with open(source if source.endswith(".json") else os.path.join(source, "config.json")) as file:
        config = json.load(file)
    config.update(model.get("config", {}))
    if config.get("model_type") != "llama":
        refuse(f"{source}: only llama is done here, not {config.get('model_type')}")
    config["max_position_embeddings"] = max(length, config.get("max_position_embeddings", 2048))
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[model.get("dtype", "f32")]
    torch.set_default_dtype(dtype)
    with torch.device(device):
        network = LlamaForCausalLM._from_config(LlamaConfig(**config), attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    return network, config, dtype


def run_cell(experiment, path, out, cell):
    import peft
    import torch
    import transformers

    seed, task, row, method = cell
    base, device = os.path.dirname(os.path.abspath(path)), experiment["device"]
    driver = nvml(device)
    torch.manual_seed(seed)
    training = {**experiment.get("training", {}), **method.get("training", {})}
    batch, length, steps = training.get("batch_size", 16), task.get("max_length", 128), training["steps"]
    begin = time.perf_counter()
    network, config, dtype = build(experiment["model"], base, device, length)
    base_total = sum(p.numel() for p in network.parameters())
    targets = method.get("target_modules", ["q_proj", "v_proj"])
    network = peft.get_peft_model(network, peft.LoraConfig(
        r=method.get("rank", 8), lora_alpha=method.get("alpha", 16), lora_dropout=method.get("dropout", 0.0),
        target_modules=targets))
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    network.train()
    optimizer = torch.optim.AdamW(trained, lr=training.get("learning_rate", 1e-4))
    rows = torch.randint(0, config["vocab_size"], (task["train"]["random_rows"], length))
    load = time.perf_counter() - begin

    gpu = device.startswith("cuda")
    sync = (lambda: torch.cuda.synchronize(device)) if gpu else (lambda: None)
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    reset_resident_peak()
    watch = Watch(driver) if driver else None
    history, begin = [], time.perf_counter()
    for step in range(steps):
        start = time.perf_counter()
        at = torch.arange(step * batch, (step + 1) * batch) % len(rows)
        ids = rows[at].to(device)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        if training.get("max_grad_norm", 1.0):
            torch.nn.utils.clip_grad_norm_(trained, training.get("max_grad_norm", 1.0))
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        sync()
        seconds = time.perf_counter() - start
        used = torch.cuda.memory_allocated(device) if gpu else None
        history.append(dict(step=step + 1, loss=value, learning_rate=training.get("learning_rate", 1e-4),
                            seconds=seconds, tokens=batch * length, used_bytes=used))
        print(f"  step {step + 1}/{steps}, loss {value:.4f}, {batch * length / seconds:.0f} tokens/s", flush=True)
    train = time.perf_counter() - begin
    memory = dict.fromkeys(["host_allocated_peak", "host_allocated_before", "device_process_peak", "device_used",
                            "device_reserved", "energy_joules", "device_utilisation"])
    memory["host_resident_peak"] = resident_peak()
    if gpu:
        memory.update(watch.end(), device_used=torch.cuda.memory_allocated(device),
                      device_reserved=torch.cuda.max_memory_reserved(device))

    warmup = min(training.get("timing_warmup_steps", 3), steps - 1)

    def spread(values):
        ordered = sorted(values)
        at = lambda share: ordered[round(share * (len(ordered) - 1))]  # noqa: E731
        return dict(p10=at(0.1), median=at(0.5), p90=at(0.9))

    timed = history[warmup:]
    count = sum(p.numel() for p in trained)
    program = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    losses = [entry["loss"] for entry in history]
    digest = hashlib.sha256(repr(losses).encode()).hexdigest()
    record = dict(
        schema=1, experiment=experiment["name"], identity=digest[:16], row=row, label=label(method), method="lora",
        family="reparameterized", seed=seed,
        task=dict(name=task["name"], kind=task["kind"], metric="perplexity", higher_is_better=False, in_points=False,
                  index=experiment["task"].index(task), digest=""),
        model=dict(name=experiment["model"].get("name", ""), architecture="llama", source=experiment["model"]["source"],
                   digest="random", dtype=experiment["model"].get("dtype", "f32")),
        status="done", message="",
        parameters=dict(adapter=count, head=0, trained=count, stored=count, frozen_buffers=0, base_total=base_total,
                        percent=100 * count / base_total),
        settings=dict(method=method, training=training, task=task, model=experiment["model"], device=device),
        measured=dict(
            training=dict(steps=steps, planned_steps=steps, batch_size=batch,
                          learning_rate=training.get("learning_rate", 1e-4), tokens=steps * batch * length,
                          samples=steps * batch, stopped_early=False, best_step=steps, final_loss=losses[-1],
                          validation_loss_before=None, validation_loss_after=losses[-1]),
            validation=[], test=[],
            time=dict(load=load, train=train, evaluate=0.0, warmup_steps=warmup,
                      step=spread([entry["seconds"] for entry in timed]),
                      tokens_per_second=spread([entry["tokens"] / entry["seconds"] for entry in timed]),
                      samples_per_second=spread([batch / entry["seconds"] for entry in timed])),
            memory=memory,
            checks=dict(frozen_unchanged=0, trained_updated=0, step0_difference=0.0),
            weights_digest="", losses_digest=digest),
        environment=dict(device=torch.cuda.get_device_name(device) if gpu else "cpu", threads=torch.get_num_threads(),
                         jobs=1, os=f"{platform.system().lower()} {platform.machine()}", cpu=None, version=program,
                         program="", started=int(time.time())))
    target = os.path.join(out, "runs", stem(row, method, task, seed))
    write_json(target + ".json", record)
    with open(target + ".steps.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=history[0])
        writer.writeheader()
        writer.writerows(history)


def main():
    arguments = parse()
    with open(arguments.experiment, "rb") as file:
        experiment = tomllib.load(file)
    grid = cells(experiment, arguments.experiment)
    if arguments.cell is not None:
        run_cell(experiment, arguments.experiment, arguments.out, grid[arguments.cell])
        return
    failed = 0
    for index, (seed, task, _, method) in enumerate(grid):
        if arguments.only and label(method) not in arguments.only:
            continue
        print(f"{label(method)} on {task['name']}, seed {seed}", flush=True)
        command = [sys.executable, __file__, arguments.experiment, "--out", arguments.out, "--cell", str(index)]
        code = subprocess.run(command).returncode
        if code:
            print(f"{label(method)} on {task['name']}: FAILED with {code}", flush=True)
            failed += 1
    sys.exit(1 if failed else 0)


main()
