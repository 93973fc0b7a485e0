//! What a report of many records takes: `cargo test --release -p peftlab-report speed -- --ignored --nocapture`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use peftlab_record::{Environment, Parameters, Record};
use serde_json::{Value, json};

use crate::grid::Grid;
use crate::options::{Columns, Options};
use crate::{plot, table};

const ROWS: usize = 60;
const TASKS: usize = 2;
const SEEDS: usize = 42;
const ITEMS: usize = 200;
const STEPS: usize = 100;

/// A number between 0 and 1 that looks drawn, always the same of `key`.
fn noise(key: u64) -> f64 {
    let mut x = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 11) as f64 / (1u64 << 53) as f64
}

fn record(row: usize, task: usize, seed: usize, score: f64) -> Value {
    let spread = json!({ "p10": 1.0, "median": 1.5, "p90": 2.0 });
    let scores = json!([{ "metric": "accuracy", "value": score, "standard_error": 0.03, "items": ITEMS }]);
    json!({
        "schema": 1, "experiment": "large", "identity": format!("{row}-{task}-{seed}"), "row": row,
        "label": format!("method {row}"), "method": "lora", "family": "reparameterized", "seed": seed,
        "task": { "name": format!("task {task}"), "kind": "classification", "metric": "accuracy",
            "higher_is_better": true, "in_points": true, "index": task, "digest": "data" },
        "model": { "name": "model", "architecture": "bert", "source": "", "digest": "model", "dtype": "f32" },
        "status": "done", "message": "",
        "parameters": Parameters { trained: 1000 + row as u64, base_total: 4_000_000, ..Parameters::default() },
        "settings": { "device": "cpu", "jobs": 2, "method": { "rank": 8, "alpha": 16.0, "targets": ["q", "v"] },
            "model": { "weights": "pretrained", "name": "model", "config": { "hidden_size": 128 } },
            "task": { "name": format!("task {task}"), "max_length": 128, "metrics": ["accuracy"] },
            "training": { "learning_rate": 1e-3, "steps": STEPS, "epochs": null, "batch_size": 16,
                "optimizer": { "name": "adamw", "betas": [0.9, 0.999] }, "schedule": "linear" } },
        "measured": {
            "training": { "steps": STEPS, "planned_steps": STEPS, "batch_size": 16, "learning_rate": 1e-3,
                "tokens": 100_000, "samples": 1600, "stopped_early": false, "best_step": STEPS,
                "final_loss": 0.5, "validation_loss_before": null, "validation_loss_after": 0.5 },
            "validation": scores, "test": scores,
            "time": { "load": 1.0, "train": 1.0, "evaluate": 1.0, "warmup_steps": 0, "step": spread,
                "tokens_per_second": spread, "samples_per_second": spread },
            "memory": { "host_allocated_peak": 1_000_000, "host_allocated_before": 500_000 },
            "checks": { "frozen_unchanged": 1, "trained_updated": 1, "step0_difference": 0.0 },
            "weights_digest": "", "losses_digest": "",
        },
        "environment": Environment { device: "cpu".to_owned(), threads: 1, jobs: 2, ..Environment::default() },
    })
}

/// Writes a results folder of [`ROWS`] methods.
fn write(dir: &Path) -> std::io::Result<()> {
    let runs = dir.join("runs");
    fs::create_dir_all(&runs)?;
    for (row, task, seed) in
        (0..ROWS * TASKS * SEEDS).map(|i| (i / (TASKS * SEEDS), i / SEEDS % TASKS, i % SEEDS))
    {
        let key = |item: usize| ((row * 1000 + task * 100 + seed) * 100_000 + item) as u64;
        let skill = 0.6 + 0.3 * row as f64 / ROWS as f64;
        let mut predictions = "item,expected,predicted,loss\n".to_owned();
        let mut right = 0;
        for item in 0..ITEMS {
            let (expected, hit) = (item % 2, noise(key(item)) < skill);
            right += usize::from(hit);
            let predicted = if hit { expected } else { 1 - expected };
            let _ = writeln!(predictions, "{item},{expected}.0,{predicted}.0,{}", noise(key(item)));
        }
        let mut steps = "step,loss,learning_rate,seconds,tokens,used_bytes\n".to_owned();
        for step in 1..=STEPS {
            let loss = 0.7 - 0.3 * step as f64 / STEPS as f64 + 0.1 * noise(key(step));
            let _ = writeln!(steps, "{step},{loss},0.001,0.0512345,384,100000");
        }
        let stem = runs.join(format!("{row:02}-{task}-{seed:02}"));
        let text = serde_json::to_vec_pretty(&record(row, task, seed, right as f64 / ITEMS as f64))?;
        fs::write(stem.with_extension("json"), text)?;
        fs::write(stem.with_extension("predictions.csv"), predictions)?;
        fs::write(stem.with_extension("steps.csv"), steps)?;
    }
    Ok(())
}

/// Tells what a stage took.
struct Stage {
    since: Instant,
    cpu: f64,
}

impl Stage {
    fn new() -> Self {
        Self { since: Instant::now(), cpu: cpu_seconds() }
    }

    fn end(&mut self, name: &str) {
        let (wall, cpu) = (self.since.elapsed().as_secs_f64(), cpu_seconds() - self.cpu);
        println!("{name:>8}: {wall:.2} s, of the processors {cpu:.2} s");
        *self = Self::new();
    }
}

/// Seconds of processor time that this process has taken, where Linux tells: on a busy machine they say more than the clock.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // user and system time are fields 14 and 15, in hundredths; the second, a name, may hold blanks
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

#[test]
#[ignore = "timed, and only of use in a release build"]
fn five_thousand_records_take_less_than_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).unwrap();
    let start = Instant::now();
    let mut stage = Stage::new();
    let records = Record::read_all(dir.path()).unwrap();
    stage.end("records");
    let mut grid = Grid::unmarked(None, records).unwrap();
    stage.end("grid");
    let columns = Columns::new(&Options::default(), &grid).unwrap();
    let tables = [table::terminal(&grid, &columns, 120), table::csv(&grid), table::latex(&grid, &columns)];
    stage.end("tables");
    plot::all(&grid, &dir.path().join("plots")).unwrap();
    stage.end("plots");
    grid.mark_columns();
    stage.end("marks");
    let taken = start.elapsed();
    println!("{} records: {taken:?}", ROWS * TASKS * SEEDS);
    assert!(tables.iter().all(|table| table.contains("method 59")));
    assert!(taken < Duration::from_secs(2), "{taken:?}");
}
