//! What a row of a table came to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use peftlab_harness::execute::said_path;
use peftlab_record::{Measured, Record, Status, read_columns, steps_path};
use peftlab_report::text_table;
use serde_json::Value;

use super::curve::curve;
use crate::format::{bytes, duration};
use crate::results::Results;
use crate::{print, terminal};

type Entry = (PathBuf, Record);

pub(super) fn print_row(results: &Results, label: &str, method: &str, records: &[&Entry]) {
    print(format!("{label} ({method})"));
    let Some((_, first)) = records.first() else {
        print("no record: it was not run");
        return;
    };
    print(format!(
        "{} trained of {} parameters ({:.4} %)",
        crate::format::grouped(first.parameters.trained),
        crate::format::grouped(first.parameters.base_total),
        first.parameters.percent
    ));
    settings(results, first);
    let header =
        ["task", "seed", "rate", "status", "score", "loss", "steps", "time", "peak"].map(str::to_owned);
    let lines = records.iter().map(|(_, record)| line(record));
    print(format!("\n{}", text_table(&header, lines, 1, Some(terminal::width())).trim_end()));
    for (path, record) in records.iter().filter(|(_, record)| record.status != Status::Done) {
        print(format!("\nfailed on {}, seed {}: {}", record.task.name, record.seed, record.message));
        let said = said_path(path);
        if said.is_file() {
            print(format!("  {}", said.display()));
        }
    }
    let warnings: BTreeSet<&String> = records.iter().flat_map(|(_, record)| &record.warnings).collect();
    for warning in warnings {
        print(format!("warning: {warning}"));
    }
    curves(records);
}

/// Settings that are not the same in all rows; of the method itself all, where no other row has it.
fn settings(results: &Results, own: &Record) {
    let own_settings = flat(own);
    let mut others: BTreeMap<&str, (&str, BTreeMap<String, Value>)> = BTreeMap::new();
    for (_, record) in results.runs.iter().filter(|(_, record)| record.label != own.label) {
        others.entry(&record.label).or_insert_with(|| (&record.method, flat(record)));
    }
    let alike = others.values().any(|(method, _)| *method == own.method);
    let differs = |key: &str, value: &Value| {
        let of_method = key.starts_with("method.");
        let compared = others.values().filter(|(method, _)| !of_method || *method == own.method);
        (of_method && !alike) || compared.map(|(_, other)| other).any(|other| other.get(key) != Some(value))
    };
    let shown: Vec<String> = own_settings
        .iter()
        .filter(|(key, value)| !value.is_null() && differs(key, value))
        .map(|(key, value)| format!("  {} = {value}", key.strip_prefix("method.").unwrap_or(key)))
        .collect();
    if shown.is_empty() {
        return;
    }
    print(if alike { "settings in which it differs from other rows:" } else { "settings:" });
    shown.iter().for_each(print);
}

/// The settings of method and training by their paths. What differs between seeds and tasks is none of a row.
fn flat(record: &Record) -> BTreeMap<String, Value> {
    fn walk(value: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
        match value.as_object() {
            Some(table) => table.iter().for_each(|(key, value)| walk(value, &format!("{path}.{key}"), found)),
            None => {
                found.insert(path.to_owned(), value.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    for part in ["method", "training"] {
        walk(&record.settings[part], part, &mut found);
    }
    // a search chooses it for each task
    if record.measured.as_ref().is_some_and(|measured| measured.training.searched.is_some()) {
        found.remove("training.learning_rate");
    }
    found
}

fn line(record: &Record) -> Vec<String> {
    let status = match record.status {
        Status::Done => "done",
        Status::Failed => "failed",
        Status::OutOfMemory => "out of memory",
    };
    let of = |text: &dyn Fn(&Measured) -> String| record.measured.as_ref().map_or("-".to_owned(), text);
    let score = |measured: &Measured| {
        let (scores, which) = match measured.test.is_empty() {
            true => (&measured.validation, "validation "),
            false => (&measured.test, ""),
        };
        let one = |score: &peftlab_record::Score| format!("{which}{} {:.4}", score.metric, score.value);
        scores.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let loss = |measured: &Measured| {
        let training = &measured.training;
        let before =
            training.validation_loss_before.map_or(String::new(), |before| format!("{before:.4} → "));
        format!("{before}{:.4}", training.validation_loss_after)
    };
    let steps = |measured: &Measured| {
        let training = &measured.training;
        let early = if training.stopped_early { " (stopped early)" } else { "" };
        format!("{} of {}, best {}{early}", training.steps, training.planned_steps, training.best_step)
    };
    let peak = |measured: &Measured| {
        let peak = measured.memory.device_process_peak.or(measured.memory.host_allocated_peak);
        peak.map_or("-".to_owned(), bytes)
    };
    vec![
        record.task.name.clone(),
        record.seed.to_string(),
        record.settings["training"]["learning_rate"]
            .as_f64()
            .map_or("-".to_owned(), |rate| format!("{rate:e}")),
        status.to_owned(),
        of(&score),
        of(&loss),
        of(&steps),
        of(&|measured| duration(measured.time.load + measured.time.train + measured.time.evaluate)),
        of(&peak),
    ]
}

/// For each task the training loss by step, the mean over those seeds that have as many steps as the first.
fn curves(records: &[&Entry]) {
    let mut tasks: Vec<(&str, Vec<Vec<f64>>)> = Vec::new();
    for (path, record) in records {
        let Ok(Some([losses])) = read_columns(&steps_path(path), ["loss"]) else { continue };
        match tasks.iter_mut().find(|(task, _)| *task == record.task.name) {
            Some((_, known)) if known[0].len() == losses.len() => known.push(losses),
            Some(_) => {}
            None => tasks.push((&record.task.name, vec![losses])),
        }
    }
    for (task, runs) in tasks {
        let mean = |step: usize| runs.iter().map(|losses| losses[step]).sum::<f64>() / runs.len() as f64;
        let losses: Vec<f64> = (0..runs[0].len()).map(mean).collect();
        if let Some(drawn) = curve(&losses, terminal::width()) {
            let seeds = crate::format::counted(runs.len(), "seed");
            print(format!("\ntraining loss on {task} by step, mean of {seeds}\n{}", drawn.trim_end()));
        }
    }
}
