//! A results folder, as commands look at it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use peftlab_record::{MANIFEST, Manifest, Record, TRIALS};

/// What is in a results folder.
pub(crate) struct Results {
    pub(crate) dir: PathBuf,
    /// The plan that it was last run with.
    pub(crate) manifest: Option<Manifest>,
    /// Records of cells, with their files.
    pub(crate) runs: Vec<(PathBuf, Record)>,
    /// Records of trials, with their files.
    pub(crate) trials: Vec<(PathBuf, Record)>,
}

impl Results {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let (runs, trials) = (Record::read_all(dir)?, Record::read_folder(&dir.join(TRIALS))?);
        let manifest = Manifest::read(dir)?;
        if manifest.is_none() && runs.is_empty() && trials.is_empty() {
            bail!("{}: is no results folder: it has neither {MANIFEST} nor records in runs/", dir.display());
        }
        Ok(Self { dir: dir.to_owned(), manifest, runs, trials }.with_names_of_the_plan())
    }

    /// Gives the records the labels and the tasks' names that the plan has for them: those may have changed since.
    fn with_names_of_the_plan(mut self) -> Self {
        let Some(manifest) = &self.manifest else { return self };
        let cells = manifest.cells.iter().filter_map(|cell| Some((cell.identity.as_deref()?, cell)));
        let cells: HashMap<&str, _> = cells.collect();
        for (_, record) in &mut self.runs {
            if let Some(cell) = cells.get(record.identity.as_str()) {
                record.label.clone_from(&manifest.methods[cell.method].label);
                record.task.name.clone_from(&manifest.tasks[cell.task].name);
                record.row = cell.method;
            }
        }
        self
    }

    /// Whether the plan holds this record of a cell; none where there is no plan.
    pub(crate) fn planned(&self, record: &Record) -> Option<bool> {
        let cells = &self.manifest.as_ref()?.cells;
        Some(cells.iter().any(|cell| cell.identity.as_ref() == Some(&record.identity)))
    }

    /// Every label with its method, in the order of rows.
    pub(crate) fn rows(&self) -> Vec<(&str, &str)> {
        if let Some(manifest) = &self.manifest {
            return manifest.methods.iter().map(|row| (row.label.as_str(), row.method.as_str())).collect();
        }
        let mut records: Vec<&Record> = self.runs.iter().map(|(_, record)| record).collect();
        records.sort_by_key(|record| record.row);
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for record in records {
            if !rows.iter().any(|(label, _)| *label == record.label) {
                rows.push((&record.label, &record.method));
            }
        }
        rows
    }
}

/// How long ago a second since 1970 is.
pub(crate) fn ago(second: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(second, |since| since.as_secs());
    format!("{} ago", crate::format::duration(now.saturating_sub(second) as f64))
}
