//! Which records a table is made of, and where each stands: those that the plan holds, or, in a folder without a plan,
//! those that agree.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use peftlab_record::{Manifest, PlannedMethod, PlannedTask, Record, Status};

use crate::format::counted;

/// The records of a table in their places.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// The experiment's name.
    pub(super) experiment: String,
    /// What the table calls the model.
    pub(super) model: String,
    /// Number of seeds.
    pub(super) seeds: usize,
    pub(super) rows: Vec<PlannedMethod>,
    pub(super) tasks: Vec<PlannedTask>,
    /// By row, then by task.
    pub(super) slots: Vec<Vec<Slot>>,
    /// What was left out, in words.
    pub(super) notes: Vec<String>,
}

/// A method on a task.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// Seeds that it should have.
    pub(super) planned: usize,
    /// Its records, one for each seed that ran, by their places in what was selected from.
    pub(super) runs: Vec<usize>,
}

impl Selection {
    /// Drops the records that no slot names, and counts the others anew.
    pub(super) fn keep_used(&mut self, records: Vec<(PathBuf, Record)>) -> Vec<(PathBuf, Record)> {
        let mut used = vec![false; records.len()];
        let runs = |slots: &mut Vec<Vec<Slot>>, each: &mut dyn FnMut(&mut usize)| {
            slots.iter_mut().flatten().flat_map(|slot| &mut slot.runs).for_each(each);
        };
        runs(&mut self.slots, &mut |run| used[*run] = true);
        let mut place = vec![0; records.len()];
        let mut kept = Vec::new();
        for (index, record) in records.into_iter().enumerate() {
            if used[index] {
                place[index] = kept.len();
                kept.push(record);
            }
        }
        runs(&mut self.slots, &mut |run| *run = place[*run]);
        kept
    }
}

/// Whether `a` is worth more than `b`, which has the same place: the one that is done, or else the newer one.
pub(super) fn preferred(a: &Record, b: &Record) -> bool {
    let worth = |record: &Record| (record.status == Status::Done, record.environment.started);
    worth(a) > worth(b)
}

/// What `manifest` holds of `records`, wherever their files lie and whatever labels and names they carry.
pub(super) fn by_plan(manifest: &Manifest, records: &[(PathBuf, Record)]) -> Selection {
    let mut found: HashMap<&str, usize> = HashMap::new();
    let (mut foreign, mut repeated) = (0, 0);
    let planned: HashSet<&str> = manifest.cells.iter().filter_map(|cell| cell.identity.as_deref()).collect();
    for (index, (_, record)) in records.iter().enumerate() {
        if !planned.contains(record.identity.as_str()) {
            foreign += 1;
            continue;
        }
        let place = found.entry(&record.identity).or_insert(index);
        if *place != index {
            repeated += 1;
            if preferred(record, &records[*place].1) {
                *place = index;
            }
        }
    }
    let mut slots = vec![vec![Slot::default(); manifest.tasks.len()]; manifest.methods.len()];
    for cell in &manifest.cells {
        let slot = &mut slots[cell.method][cell.task];
        slot.planned += 1;
        slot.runs.extend(cell.identity.as_deref().and_then(|identity| found.get(identity)));
    }
    let is = |count| if count == 1 { "is" } else { "are" };
    let mut notes = Vec::new();
    if foreign > 0 {
        notes.push(format!(
            "{} in runs/ {} not of this plan (other settings, model or data) and left out",
            counted(foreign, "record"),
            is(foreign)
        ));
    }
    if repeated > 0 {
        notes.push(format!(
            "{} in runs/ {} of a cell that has another, done or newer, and left out",
            counted(repeated, "record"),
            is(repeated)
        ));
    }
    Selection {
        experiment: manifest.experiment.clone(),
        model: manifest.model.clone(),
        seeds: manifest.seeds.len(),
        rows: manifest.methods.clone(),
        tasks: manifest.tasks.clone(),
        slots,
        notes,
    }
}
