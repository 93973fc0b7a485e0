//! What is done of a plan, what is to be run, and why.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::Result;
use peftlab_harness::execute::{Why, states};
use peftlab_harness::plan::{Cell, Plan};
use serde_json::{Value, json};

/// Bytes of a record without its lists: settings, inputs, scores.
const RECORD: u64 = 8 << 10;
/// Bytes of a step in its table.
const STEP: u64 = 80;
/// Bytes of an item in a table of predictions.
const PREDICTION: u64 = 32;

/// What is to be done with a cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    Done,
    Open(Why),
    /// Its learning rate is chosen by trials that have not all been run.
    Waits,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Open(why) => why.fmt(f),
            Self::Waits => f.write_str("after the trials of their learning rates"),
        }
    }
}

/// Every trial and every cell of a plan.
pub(super) struct States {
    pub(super) all: Vec<(Cell, Standing)>,
}

/// How many of which are done.
pub(super) struct Summary {
    pub(super) count: usize,
    pub(super) done: usize,
    /// Why the others are not.
    pub(super) reasons: BTreeMap<String, usize>,
}

impl Summary {
    pub(super) fn json(&self) -> Value {
        json!({ "count": self.count, "done": self.done, "to_run": self.reasons })
    }
}

impl States {
    pub(super) fn new(plan: &Plan, out: &Path) -> Result<Self> {
        let known = states(plan, out)?;
        let place = |cell: &Cell| (cell.row, cell.task_index, cell.seed);
        let settled: HashSet<_> =
            known.iter().map(|(cell, _)| cell).filter(|cell| !cell.trial).map(place).collect();
        let waits = plan.cells.iter().filter(|cell| !settled.contains(&place(cell)));
        let waits: Vec<_> = waits.map(|cell| (cell.clone(), Standing::Waits)).collect();
        let standing = |why: Option<Why>| why.map_or(Standing::Done, Standing::Open);
        let known = known.into_iter().map(|(cell, why)| (cell, standing(why)));
        Ok(Self { all: known.chain(waits).collect() })
    }

    /// Those that are to be run.
    pub(super) fn open(&self) -> impl Iterator<Item = &Cell> {
        self.all.iter().filter(|(_, standing)| *standing != Standing::Done).map(|(cell, _)| cell)
    }

    pub(super) fn summary(&self, trials: bool) -> Summary {
        let mut summary = Summary { count: 0, done: 0, reasons: BTreeMap::new() };
        for (_, standing) in self.all.iter().filter(|(cell, _)| cell.trial == trials) {
            summary.count += 1;
            match standing {
                Standing::Done => summary.done += 1,
                standing => *summary.reasons.entry(standing.to_string()).or_default() += 1,
            }
        }
        summary
    }

    /// Bytes that the files of the cells to be run take, roughly: of each a record, the table of its steps, its
    /// predictions, and the tensors that it stores in 32 bits.
    pub(super) fn disk(&self, plan: &Plan) -> u64 {
        let of_cell = |cell: &Cell| {
            let record = RECORD + STEP * cell.steps as u64;
            if cell.trial {
                return record;
            }
            let data = &plan.data[cell.task_index];
            let items =
                data.validation.examples.len() + data.test.as_ref().map_or(0, |test| test.examples.len());
            record + PREDICTION * items as u64 + cell.parameters.stored * size_of::<f32>() as u64
        };
        self.open().map(of_cell).sum()
    }
}
