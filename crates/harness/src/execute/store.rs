//! The records of a results folder: which cells are done, and why the others are not.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use peftlab_peft::MergeKind;
use peftlab_record::{Record, Status};
use serde_json::Value;

use super::rescore::completed;
use crate::error::HarnessError;
use crate::plan::{Cell, Plan};

/// The records of one folder, to be found by identity wherever they lie.
pub(crate) struct Store {
    records: Vec<(PathBuf, Record)>,
    by_identity: HashMap<String, usize>,
    /// By label, task and seed, and by method, task and seed: what a cell may have been before.
    by_place: HashMap<[String; 3], Vec<usize>>,
}

/// Why a cell is run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no record of anything like it.
    New,
    /// It failed before.
    Failed,
    /// There is a record, made with something else; in words.
    Again(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Failed => f.write_str("failed before"),
            Self::Again(reason) => write!(f, "run again: {reason}"),
        }
    }
}

impl Store {
    /// Reads the records in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, HarnessError> {
        Ok(Self::of(Record::read_folder(folder)?))
    }

    fn of(records: Vec<(PathBuf, Record)>) -> Self {
        let mut by_identity: HashMap<String, usize> = HashMap::new();
        let mut by_place: HashMap<[String; 3], Vec<usize>> = HashMap::new();
        for (index, (_, record)) in records.iter().enumerate() {
            // of several the one that is done, and of these the last
            let rank = |record: &Record| (record.status == Status::Done, record.environment.started);
            let known = by_identity.entry(record.identity.clone()).or_insert(index);
            if rank(&records[*known].1) < rank(record) {
                *known = index;
            }
            let seed = record.seed.to_string();
            for name in BTreeSet::from([&record.label, &record.method]) {
                let place = [name.clone(), record.task.name.clone(), seed.clone()];
                by_place.entry(place).or_default().push(index);
            }
        }
        Self { records, by_identity, by_place }
    }

    /// The record with the cell's identity, whether it ended well or not.
    pub(crate) fn find(&self, cell: &Cell) -> Option<&Record> {
        self.entry(cell).map(|(_, record)| record)
    }

    /// As [`find`](Self::find), with its file.
    pub(crate) fn entry(&self, cell: &Cell) -> Option<&(PathBuf, Record)> {
        self.by_identity.get(&cell.identity).map(|index| &self.records[*index])
    }

    /// Why `cell` has to be run; none where it is done, or can be completed from what is there.
    ///
    /// # Errors
    /// Where a table of predictions beside its record is none.
    pub(crate) fn why(&self, plan: &Plan, cell: &Cell) -> Result<Option<Why>, HarnessError> {
        Ok(match self.entry(cell) {
            Some((path, record)) if record.status == Status::Done => {
                let completed = completed(plan, cell, path, record)?;
                lacks(plan, cell, completed.as_ref().unwrap_or(record)).map(Why::Again)
            }
            Some(_) => Some(Why::Failed),
            None => Some(self.before(cell)),
        })
    }

    /// What distinguishes `cell` from the record that is most like it.
    fn before(&self, cell: &Cell) -> Why {
        let seed = cell.seed.to_string();
        let places = [&cell.label, &cell.method].map(|name| [name.clone(), cell.task.clone(), seed.clone()]);
        let near = places.iter().find_map(|place| self.by_place.get(place));
        let inputs = |index: &usize| &self.records[*index].1.inputs;
        // a trial of another rate is another trial
        let rate = |inputs: &Value| inputs["training"]["learning_rate"].clone();
        let same = |inputs: &&Value| !cell.trial || rate(inputs) == rate(&cell.inputs);
        let before = near.into_iter().flatten().map(inputs).filter(same);
        match before.map(|before| differences(before, &cell.inputs)).min_by_key(Vec::len) {
            None => Why::New,
            Some(keys) => Why::Again(told(&keys)),
        }
    }
}

/// What `record`, which is the cell's, was not asked for when it was made and is now.
pub(crate) fn lacks(plan: &Plan, cell: &Cell, record: &Record) -> Option<String> {
    let measured = record.measured.as_ref()?;
    let wanted = &cell.training;
    let method = &plan.experiment.methods[cell.row].method;
    let merges = matches!(method.card().merge, MergeKind::Exact | MergeKind::ZeroPoints);
    let main = plan.data[cell.task_index].metrics[0].name();
    let scored = measured.validation.iter().any(|score| score.metric == main);
    let missing = [
        (wanted.evaluate_start && measured.training.validation_loss_before.is_none(), "evaluate_start"),
        (wanted.evaluate_merged && merges && !cell.trial && measured.merged.is_empty(), "evaluate_merged"),
        (wanted.profile_kernels && measured.kernels.is_none(), "profile_kernels"),
        (!scored, main),
    ];
    let (_, what) = missing.into_iter().find(|(is_missing, _)| *is_missing)?;
    Some(format!("`{what}` was not measured"))
}

/// What distinguishes the inputs of a record from those that it would have now, in words.
pub(crate) fn changed(before: &Value, now: &Value) -> String {
    told(&differences(before, now))
}

/// Paths of the values that differ.
fn differences(before: &Value, now: &Value) -> Vec<String> {
    fn walk(before: &Value, now: &Value, path: &str, found: &mut Vec<String>) {
        match (before, now) {
            (Value::Object(a), Value::Object(b)) => {
                let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(
                        a.get(key).unwrap_or(&Value::Null),
                        b.get(key).unwrap_or(&Value::Null),
                        &path,
                        found,
                    );
                }
            }
            (a, b) if a != b => found.push(path.to_owned()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    match before {
        Value::Null => found.push(String::new()),
        _ => walk(before, now, "", &mut found),
    }
    found
}

/// The most keys that a reason names.
const NAMED: usize = 3;

fn told(keys: &[String]) -> String {
    if keys.is_empty() {
        return "its record has another identity than its inputs give".to_owned();
    }
    let names: BTreeSet<String> = keys.iter().map(|path| named(path)).collect();
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

fn named(path: &str) -> String {
    match path {
        "" => "its record is of a version that kept no inputs".to_owned(),
        "numerics.harness" => "the program's numerics changed".to_owned(),
        "numerics.method" => "the method's numerics changed".to_owned(),
        "model.weights" => "the model's files changed".to_owned(),
        "task.data" => "the task's data, or how they are tokenised, changed".to_owned(),
        "device" => "another kind of device".to_owned(),
        path => format!("{} changed", path.rsplit('.').next().unwrap_or(path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reason_names_what_differs() {
        let now =
            json!({ "training": { "learning_rate": 1e-3, "steps": 4 }, "seed": 0, "task": { "data": "a" } });
        let mut before = now.clone();
        assert!(differences(&before, &now).is_empty());
        before["training"]["learning_rate"] = json!(1e-2);
        assert_eq!(told(&differences(&before, &now)), "learning_rate changed");
        before["task"]["data"] = json!("b");
        before["training"]["old"] = json!(1);
        before["training"]["steps"] = json!(5);
        let text = told(&differences(&before, &now));
        assert_eq!(text, "learning_rate changed, old changed, steps changed and 1 more");
        assert!(told(&differences(&Value::Null, &now)).contains("kept no inputs"));
    }
}
