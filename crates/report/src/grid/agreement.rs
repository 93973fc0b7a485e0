//! The records of a folder without a plan that can stand in one table. At each level, from the model to the seeds of a
//! cell, those with the same settings are a group; the largest group stays, the newest of equally large ones, and what
//! differs from it is left out and told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use peftlab_record::{PlannedMethod, PlannedTask, Record};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::selection::{Selection, Slot, preferred};
use crate::format::counted;

type Records = [(PathBuf, Record)];

/// Settings that decide no number of a run: names, places of files whose contents the digests stand for, what is measured
/// besides.
const NEUTRAL: [(&str, &[&str]); 4] = [
    ("", &["jobs"]),
    ("model", &["name", "source"]),
    ("task", &["name", "metrics", "train", "validation", "test"]),
    ("training", &["timing_warmup_steps", "profile_kernels", "evaluate_merged", "evaluate_start"]),
];

/// What of the training settings must be the same in a column: what else is compared there may be the methods' own, such as
/// their learning rates.
const PROTOCOL: [&str; 4] = ["steps", "epochs", "keep", "patience"];

/// What of `records` agrees.
pub(super) fn by_agreement(records: &Records) -> Selection {
    let mut notes = Notes::default();
    let mut kept: Vec<usize> = (0..records.len()).collect();
    let levels: [(Key<'_>, Key<'_>); 5] = [
        (&|_| Value::Null, &model),
        (&task_name, &task),
        (&task_name, &protocol),
        (&|record| json!(record.label), &method),
        (&|record| json!([record.label, record.task.name]), &inputs),
    ];
    for (scope, key) in levels {
        kept = largest_groups(records, &kept, scope, key, &mut notes);
    }
    kept = one_a_seed(records, &kept, &mut notes);
    let seeds = kept.iter().map(|index| records[*index].1.seed).collect::<BTreeSet<_>>().len();
    let by = |name: fn(&Record) -> &str, place: fn(&Record) -> usize| -> Vec<usize> {
        // the newest record says where its row and its column stand
        let mut newest: HashMap<&str, usize> = HashMap::new();
        for index in &kept {
            let record = &records[*index].1;
            let entry = newest.entry(name(record)).or_insert(*index);
            if record.environment.started > records[*entry].1.environment.started {
                *entry = *index;
            }
        }
        let mut all: Vec<usize> = newest.into_values().collect();
        all.sort_by_key(|index| (place(&records[*index].1), name(&records[*index].1)));
        all
    };
    let rows = by(|record| &record.label, |record| record.row);
    let tasks = by(|record| &record.task.name, |record| record.task.index);
    let mut slots = vec![vec![Slot { planned: seeds, runs: Vec::new() }; tasks.len()]; rows.len()];
    let place = |all: &[usize], name: fn(&Record) -> &str| -> HashMap<String, usize> {
        all.iter().enumerate().map(|(place, index)| (name(&records[*index].1).to_owned(), place)).collect()
    };
    let (row, column) = (place(&rows, |record| &record.label), place(&tasks, |record| &record.task.name));
    kept.sort_by_key(|index| records[*index].1.seed);
    for index in &kept {
        let record = &records[*index].1;
        slots[row[&record.label]][column[&record.task.name]].runs.push(*index);
    }
    let newest = kept.iter().map(|index| &records[*index].1).max_by_key(|record| record.environment.started);
    Selection {
        experiment: newest.map(|record| record.experiment.clone()).unwrap_or_default(),
        model: newest.map(|record| record.model.name.clone()).unwrap_or_default(),
        seeds,
        rows: rows.iter().map(|index| planned_method(&records[*index].1)).collect(),
        tasks: tasks.iter().map(|index| planned_task(&records[*index].1)).collect(),
        slots,
        notes: notes.lines(),
    }
}

fn planned_method(record: &Record) -> PlannedMethod {
    PlannedMethod {
        label: record.label.clone(),
        method: record.method.clone(),
        family: record.family.clone(),
    }
}

fn planned_task(record: &Record) -> PlannedTask {
    PlannedTask {
        name: record.task.name.clone(),
        kind: record.task.kind.clone(),
        metric: record.task.metric.clone(),
        higher_is_better: record.task.higher_is_better,
        in_points: record.task.in_points,
    }
}

type Key<'a> = &'a (dyn Fn(&Record) -> Value + Sync);

fn model(record: &Record) -> Value {
    let model = &record.model;
    json!({ "model": { "name": model.name, "digest": model.digest, "dtype": model.dtype } })
}

fn task_name(record: &Record) -> Value {
    json!(record.task.name)
}

fn task(record: &Record) -> Value {
    let task = &record.task;
    let mut settings = without_nulls(&record.settings["task"]);
    remove(&mut settings, NEUTRAL[2].1);
    json!({ "metric": task.metric, "kind": task.kind, "data": task.digest, "task": settings })
}

fn protocol(record: &Record) -> Value {
    let training = &record.settings["training"];
    let of: serde_json::Map<_, _> =
        PROTOCOL.iter().map(|key| ((*key).to_owned(), training[*key].clone())).collect();
    json!({ "training": of })
}

fn method(record: &Record) -> Value {
    json!({ "name": record.method, "method": without_nulls(&record.settings["method"]) })
}

/// What decided a run's numbers, its seed aside: as the record says, or, in records of before that was kept, all settings.
fn inputs(record: &Record) -> Value {
    if record.inputs.is_object() {
        let mut inputs = record.inputs.clone();
        remove(&mut inputs, &["seed"]);
        return inputs;
    }
    let mut settings = without_nulls(&record.settings);
    for (part, keys) in NEUTRAL {
        if part.is_empty() {
            remove(&mut settings, keys);
        } else if let Some(part) = settings.get_mut(part) {
            remove(part, keys);
        }
    }
    settings
}

/// `value` without what is null: a setting that was not there yet when the record was made is one that was not used.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// Of each `scope` of the records `among`, those whose `key` is that of the most, or of the newest of equally many.
fn largest_groups(
    records: &Records,
    among: &[usize],
    scope: Key<'_>,
    key: Key<'_>,
    notes: &mut Notes,
) -> Vec<usize> {
    let mut scopes: BTreeMap<String, HashMap<String, Vec<usize>>> = BTreeMap::new();
    let keys: Vec<(String, String)> = among
        .par_iter()
        .map(|index| &records[*index].1)
        .map(|record| (scope(record).to_string(), key(record).to_string()))
        .collect();
    for (index, (scope, key)) in among.iter().zip(keys) {
        scopes.entry(scope).or_default().entry(key).or_default().push(*index);
    }
    let mut kept = Vec::new();
    for groups in scopes.into_values() {
        let worth = |group: &Vec<usize>| {
            let newest = group.iter().map(|index| records[*index].1.environment.started).max();
            // among those that began at once, the first in the folder
            (group.len(), newest, std::cmp::Reverse(group[0]))
        };
        let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(worth(group)));
        let mut groups = groups.into_iter();
        let Some(largest) = groups.next() else { continue };
        let stays = key(&records[largest[0]].1);
        for other in groups {
            let difference = differences(&stays, &key(&records[other[0]].1));
            other.iter().for_each(|index| notes.add(&difference, &records[*index].1));
        }
        kept.extend(largest);
    }
    kept
}

/// Of records of one cell and seed, the one that is done, or else the newest.
fn one_a_seed(records: &Records, among: &[usize], notes: &mut Notes) -> Vec<usize> {
    let mut best: BTreeMap<(&str, &str, u64), usize> = BTreeMap::new();
    for index in among {
        let record = &records[*index].1;
        let kept = best.entry((&record.label, &record.task.name, record.seed)).or_insert(*index);
        if *kept != *index {
            let mut other = *index;
            if preferred(record, &records[*kept].1) {
                std::mem::swap(kept, &mut other);
            }
            notes.add("the same seed has another record, done or newer", &records[other].1);
        }
    }
    best.into_values().collect()
}

/// Where `other` differs from `stays`, in words: `training.steps is 4 and not 40`.
fn differences(stays: &Value, other: &Value) -> String {
    let mut found = Vec::new();
    walk(String::new(), stays, other, &mut found);
    const SHOWN: usize = 3;
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    let tail = if more > 0 { format!(" and {more} more differ") } else { String::new() };
    found.join(", ") + &tail
}

fn walk(path: String, stays: &Value, other: &Value, found: &mut Vec<String>) {
    if stays == other {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (stays, other) {
        for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(path, &stays[key], &other[key], found);
        }
        return;
    }
    let short = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match text.char_indices().nth(24) {
            Some((end, _)) => format!("{}..", &text[..end]),
            None => text,
        }
    };
    found.push(match (stays, other) {
        // of a digest the reader learns nothing
        _ if path.ends_with("digest") => "other weights".to_owned(),
        _ if path == "data" => "other data".to_owned(),
        (Value::Null, other) => format!("{path} is {}", short(other)),
        (stays, Value::Null) => format!("{path} is not {}", short(stays)),
        (stays, other) => format!("{path} is {} and not {}", short(other), short(stays)),
    });
}

/// What was left out, gathered by why.
#[derive(Default)]
struct Notes(BTreeMap<String, (usize, BTreeSet<String>)>);

impl Notes {
    fn add(&mut self, why: &str, record: &Record) {
        let (count, of) = self.0.entry(why.to_owned()).or_default();
        *count += 1;
        of.insert(format!("{} on {}", record.label, record.task.name));
    }

    fn lines(self) -> Vec<String> {
        const SHOWN: usize = 3;
        let line = |(why, (count, of)): (String, (usize, BTreeSet<String>))| {
            let shown = of.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
            let more = of.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("left out: {} of {shown}{more}: {why}", counted(count, "record"))
        };
        self.0.into_iter().map(line).collect()
    }
}
