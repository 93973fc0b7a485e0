//! The plan that a results folder was last run with: which records belong to its table, in which order, and under
//! which names. Labels and names of tasks are its own, not the records': to change one runs nothing again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{read_error, write_json};
use crate::{RecordError, SCHEMA};

/// The file of a results folder that holds its [`Manifest`].
pub const MANIFEST: &str = "plan.json";

/// Which records a table is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the schema.
    pub schema: u32,
    /// The experiment's name.
    pub experiment: String,
    /// What tables call the model.
    pub model: String,
    /// The seeds, in the experiment's order.
    pub seeds: Vec<u64>,
    /// The table's rows.
    pub methods: Vec<PlannedMethod>,
    /// The table's columns.
    pub tasks: Vec<PlannedTask>,
    /// Every cell of the grid.
    pub cells: Vec<PlannedCell>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMethod {
    /// The row's label, unique in the experiment.
    pub label: String,
    /// The method's name.
    pub method: String,
    /// The method's family in Xu et al. 2023.
    pub family: String,
}

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTask {
    /// Its name, unique in the experiment.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The metric that the table shows.
    pub metric: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Whether the table shows it times 100.
    pub in_points: bool,
}

/// A cell of the grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedCell {
    /// Place of its method in [`Manifest::methods`].
    pub method: usize,
    /// Place of its task in [`Manifest::tasks`].
    pub task: usize,
    /// The seed.
    pub seed: u64,
    /// The [`Record::identity`](crate::Record::identity) that its record has; none where the trials of a search have yet to
    /// choose its learning rate.
    pub identity: Option<String>,
}

impl Manifest {
    /// Reads the manifest of the results folder `dir`; none where there is no such file.
    ///
    /// # Errors
    /// Where it cannot be read, or is of another schema.
    pub fn read(dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = dir.join(MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_error(&path, error)),
        };
        let refused = |error: serde_json::Error| RecordError::File {
            path: path.clone(),
            message: format!(
                "is not the plan of a results folder: {error}; delete it, and run the experiment again"
            ),
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(refused)?;
        match value["schema"].as_u64() {
            Some(schema) if schema != u64::from(SCHEMA) => Err(RecordError::Schema { path, found: schema }),
            _ => serde_json::from_value::<Self>(value).and_then(Self::checked).map(Some).map_err(refused),
        }
    }

    /// Every cell must be of a method and a task that there are.
    fn checked(self) -> serde_json::Result<Self> {
        let outside =
            |cell: &&PlannedCell| cell.method >= self.methods.len() || cell.task >= self.tasks.len();
        match self.cells.iter().find(outside) {
            None => Ok(self),
            Some(cell) => Err(serde::de::Error::custom(format!(
                "a cell is of method {} and task {}, and there are {} and {}",
                cell.method,
                cell.task,
                self.methods.len(),
                self.tasks.len()
            ))),
        }
    }

    /// Writes the manifest into the results folder `dir` so that a reader sees all of it or nothing.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), RecordError> {
        write_json(&dir.join(MANIFEST), self)
    }
}
