//! A results folder like those that `bench run` leaves, for tests: numbers are drawn, everything else is as it is there.

use std::path::Path;

use peftlab_record::{Look, Prediction, Record, Step, predictions_path, steps_path, write_table};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Methods: label, name, family, trained parameters, and how far it is from the best score, in points.
const METHODS: [(&str, &str, &str, u64, f64); 26] = [
    ("full", "full", "full", 4_386_178, 0.0),
    ("head", "head", "partial", 258, 14.0),
    ("bitfit", "bitfit", "partial", 3_330, 6.0),
    ("ln-tuning", "ln-tuning", "partial", 1_538, 8.0),
    ("fish-mask 0.5 %", "fish-mask", "partial", 21_931, 3.0),
    ("diff pruning", "diff-pruning", "partial", 43_862, 2.5),
    ("bottleneck d=16 (Houlsby)", "bottleneck", "additive", 17_474, 2.0),
    ("bottleneck d=16 (Pfeiffer)", "bottleneck", "additive", 8_866, 2.2),
    ("prefix n=10", "prefix", "additive", 5_378, 7.0),
    ("prompt n=20", "prompt", "additive", 2_818, 10.0),
    ("p-tuning", "p-tuning", "additive", 36_226, 9.0),
    ("ia3", "ia3", "additive", 1_794, 6.5),
    ("lst", "lst", "additive", 66_370, 4.0),
    ("lora r=8", "lora", "reparameterized", 8_450, 1.8),
    ("lora r=8 q,k,v,o", "lora", "reparameterized", 16_642, 1.2),
    ("lora r=64", "lora", "reparameterized", 65_794, 1.0),
    ("lora+ r=8", "lora", "reparameterized", 8_450, 1.6),
    ("rslora r=64", "lora", "reparameterized", 65_794, 0.8),
    ("dora r=8", "dora", "reparameterized", 8_962, 1.5),
    ("pissa r=8", "pissa", "reparameterized", 8_450, 1.7),
    ("adalora r=8", "adalora", "reparameterized", 12_570, 2.0),
    ("vera r=256", "vera", "reparameterized", 1_794, 5.0),
    ("oft b=32", "oft", "reparameterized", 16_128, 3.0),
    ("boft", "boft", "reparameterized", 12_000, 3.5),
    ("unipelt", "unipelt", "hybrid", 28_900, 1.9),
    ("mam", "mam", "hybrid", 22_000, 1.4),
];

const TASKS: [(&str, &str, &str); 2] =
    [("sentiment", "classification", "accuracy"), ("rating", "regression", "pearson")];

/// A folder to be made.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) rows: usize,
    pub(super) tasks: usize,
    pub(super) seeds: u64,
    pub(super) steps: u64,
    /// Test items with predictions; none where 0.
    pub(super) items: u64,
    /// What the label of the last row says, and that row's warnings.
    pub(super) hostile: Option<&'static str>,
}

impl Default for Sample {
    fn default() -> Self {
        Self { rows: METHODS.len(), tasks: 2, seeds: 3, steps: 300, items: 200, hostile: None }
    }
}

impl Sample {
    /// Writes the records and the tables beside them into the results folder `dir`.
    pub(super) fn write(&self, dir: &Path) {
        let runs = dir.join(peftlab_record::RUNS);
        std::fs::create_dir_all(&runs).unwrap();
        for row in 0..self.rows {
            for task in 0..self.tasks {
                for seed in 0..self.seeds {
                    let path = runs.join(format!("{row:02}-{task}-seed{seed}.json"));
                    self.run(&path, row, task, seed);
                }
            }
        }
    }

    fn run(&self, path: &Path, row: usize, task: usize, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64((row * 1000 + task * 100) as u64 + seed);
        let points = METHODS[row % METHODS.len()].4;
        let score = (if task.is_multiple_of(2) { 0.80 } else { 0.62 })
            - (points + random.random_range(-1.0..1.0)) / 100.0;
        // a row that has no memory on one task, one that fails with one seed, and one that diverges there
        let (oom, failed) = (row == 12 && task == 1, row == 8 && task == 0 && seed == 1);
        let diverged = row == 20 && task == 1 && seed == 2;
        let steps = self.losses(points, diverged, &mut random);
        let mut record = self.record((row, task, seed), score, &steps);
        if oom || failed {
            record.measured = None;
            record.status =
                if oom { peftlab_record::Status::OutOfMemory } else { peftlab_record::Status::Failed };
            record.message = match oom {
                true => "the process was killed at 3.9 GiB of 4.0 GiB".to_owned(),
                false => "prefix: the loss is NaN at step 41; lower learning_rate (now 0.03)".to_owned(),
            };
        } else if let Some(measured) = &mut record.measured {
            let every = (self.steps / 10).max(1);
            let looks = steps.iter().filter(|step| step.step.is_multiple_of(every));
            measured.training.looks =
                looks.map(|step| Look { step: step.step, loss: step.loss * 1.04 + 0.01 }).collect();
            if diverged {
                measured.training.validation_loss_after = f64::NAN;
            }
        }
        record.write(path).unwrap();
        if !oom {
            let made = if failed { 40.min(steps.len()) } else { steps.len() };
            write_table(&steps_path(path), &steps[..made]).unwrap();
        }
        if self.items > 0 && !oom && !failed {
            write_table(&predictions_path(path), &self.predictions(task, score, &mut random)).unwrap();
        }
    }

    fn losses(&self, points: f64, diverged: bool, random: &mut impl Rng) -> Vec<Step> {
        let step = |step: u64| {
            let done = step as f64 / self.steps as f64;
            let noise: f64 = random.random_range(-0.08..0.08);
            let loss = 0.40 + points / 60.0 + 0.30 * (-5.0 * done).exp() + noise;
            Step {
                step,
                loss: if diverged && done > 0.6 { f64::NAN } else { loss },
                learning_rate: 4e-3 * (1.0 - done),
                seconds: 0.05,
                tokens: 400,
                used_bytes: None,
            }
        };
        (1..=self.steps).map(step).collect()
    }

    fn predictions(&self, task: usize, score: f64, random: &mut impl Rng) -> Vec<Prediction> {
        let item = |item: u64| {
            let expected = (item % 2) as f64;
            let right = random.random_bool(score);
            let predicted = match task.is_multiple_of(2) {
                true => {
                    if right {
                        expected
                    } else {
                        1.0 - expected
                    }
                }
                false => expected + random.random_range(-1.0..1.0),
            };
            Prediction { item, expected, predicted, loss: 0.5 }
        };
        (0..self.items).map(item).collect()
    }

    fn record(&self, (row, task, seed): (usize, usize, u64), score: f64, steps: &[Step]) -> Record {
        let (label, method, family, trained, _) = METHODS[row % METHODS.len()];
        let hostile = self.hostile.filter(|_| row + 1 == self.rows);
        let label = hostile.map_or_else(
            || {
                if row < METHODS.len() {
                    label.to_owned()
                } else {
                    format!("{label} #{}", row / METHODS.len() + 1)
                }
            },
            str::to_owned,
        );
        let (task_name, kind, metric) = TASKS[task % TASKS.len()];
        let task_name = if task < TASKS.len() { task_name.to_owned() } else { format!("{task_name} {task}") };
        let parameters = json!({ "adapter": trained.saturating_sub(258), "head": 258, "trained": trained, "stored": trained,
            "frozen_buffers": 0, "base_total": 4_386_178, "percent": 100.0 * trained as f64 / 4_386_178.0 });
        let slow = 1.0 + (row % 7) as f64 / 10.0;
        let rate = [5e-4, 2e-3, 8e-3, 3e-2][row % 4];
        let settings = json!({
            "device": "cpu", "jobs": 2,
            "method": method_settings(method, row),
            "model": { "dtype": "f32", "name": "BERT-tiny", "source": "../assets/bert-tiny", "tokenizer": null },
            "task": { "kind": kind, "name": task_name, "max_length": 40, "labels": ["negative", "positive"],
                "train": { "path": "../assets/snippets/sentiment-train.tsv", "skip": 0, "take": 1600 } },
            "training": { "batch_size": 16, "learning_rate": rate, "steps": self.steps, "schedule": "linear",
                "optimizer": { "name": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.01 } },
        });
        let digest = |part: usize| {
            format!(
                "{:064x}",
                (row * 7919 + task * 104_729 + seed as usize * 31 + part + 1) as u128
                    * 0x9e37_79b9_7f4a_7c15_u128
            )
        };
        let score_of = |metric: &str| json!({ "metric": metric, "value": score, "standard_error": 0.0135, "items": self.items });
        let peak = 24_655_737.0 + 9e6 * slow + trained as f64 * 12.0;
        let spread = |median: f64| json!({ "p10": median * 0.8, "median": median, "p90": median * 1.3 });
        let split = |name: &str, rows: u64| json!({ "name": name, "rows": rows, "examples": rows, "tokens": 25 * rows, "cut": rows / 10, "dropped": {} });
        let mut warnings = vec![
            "not in the checkpoint, so drawn anew from the seed: classifier.weight, classifier.bias"
                .to_owned(),
        ];
        warnings.extend(hostile.map(str::to_owned));
        let record = json!({
            "schema": 1, "experiment": "lora-family", "identity": &digest(0)[48..], "row": row, "label": label,
            "method": method, "family": family, "seed": seed,
            "inputs": { "harness": 3, "method": settings["method"], "seed": seed, "training": settings["training"] },
            "task": { "name": task_name, "kind": kind, "metric": metric, "higher_is_better": true, "in_points": true,
                "index": task, "digest": format!("{:064x}", task + 1),
                "splits": [split("train", 1600), split("validation", 200), split("test", 1000)] },
            "model": { "name": "BERT-tiny", "architecture": "bert", "source": "../assets/bert-tiny", "dtype": "f32",
                "digest": format!("{:064x}", 77), "trained_dtype": "f32" },
            "status": "done", "message": "", "parameters": parameters, "settings": settings, "warnings": warnings,
            "measured": {
                "training": { "steps": self.steps, "planned_steps": self.steps, "batch_size": 16, "learning_rate": rate,
                    "tokens": 400 * self.steps, "samples": 16 * self.steps, "stopped_early": false, "best_step": self.steps,
                    "final_loss": steps.last().map_or(0.0, |step| step.loss),
                    "validation_loss_before": null, "validation_loss_after": 1.3 - score },
                "validation": [score_of(metric), score_of("loss")], "test": [score_of(metric), score_of("loss")],
                "merged": [], "parameters_end": parameters,
                "time": { "load": 0.076, "train": 0.05 * slow * self.steps as f64, "evaluate": 1.64, "warmup_steps": 3,
                    "step": spread(0.05 * slow + 0.0001 * seed as f64), "tokens_per_second": spread(8400.0 / slow), "samples_per_second": spread(300.0 / slow) },
                "memory": { "host_allocated_peak": peak as u64 + seed * 1000, "host_allocated_before": 24_655_737_u64, "host_resident_peak": 95_072_256_u64, "base_bytes": 17_544_712 },
                "checks": { "frozen_unchanged": 39, "trained_updated": 10, "step0_difference": 0.0 },
                "weights_digest": digest(1), "losses_digest": digest(2),
            },
            "environment": { "device": "cpu", "threads": 1, "jobs": 2, "os": "linux x86_64", "cpu": "AMD EPYC", "version": "0.1.0",
                "program": format!("{:064x}", 5), "started": 1_795_893_481 + 60 * row as u64 + 7 * seed },
        });
        serde_json::from_value(record).unwrap()
    }
}

fn method_settings(method: &str, row: usize) -> Value {
    match method {
        "lora" => {
            json!({ "rank": if row == 15 || row == 17 { 64 } else { 8 }, "alpha": 16.0, "dropout": 0.0, "bias": "none", "target_modules": if row == 14 { json!(["query", "key", "value", "output"]) } else { Value::Null } })
        }
        "dora" | "pissa" | "adalora" => {
            json!({ "rank": 8, "alpha": 16.0, "dropout": 0.0, "bias": "none", "target_modules": null })
        }
        "bottleneck" => {
            json!({ "size": 16, "activation": "gelu", "place": if row == 6 { "both" } else { "output" } })
        }
        "prefix" | "prompt" => json!({ "length": 10 }),
        _ => json!({}),
    }
}
