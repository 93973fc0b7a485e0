//! Rows of TSV, CSV, JSON, JSON lines, Parquet and plain text files.

mod bytes;
mod json;
mod pages;
mod parquet;
mod shards;
mod table;
mod thrift;

pub(crate) use self::parquet::columns as parquet_columns;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::TaskError;
use crate::spec::{Column, SplitSpec, TaskSpec};

/// A row: its cells, and where it is in its file.
pub(crate) struct Row {
    pub(crate) cells: Map<String, Value>,
    /// Cells of a table by their places: a column may be called `1` and stand elsewhere.
    pub(crate) places: Vec<Value>,
    /// Line of a text file, or number of a record, from 1.
    pub(crate) number: usize,
}

/// A file's rows.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// The file itself, whatever links and dots lead to it.
    pub(crate) identity: PathBuf,
    pub(crate) rows: Vec<Row>,
}

/// A split's rows, and what became of those that it was to have.
pub(crate) struct Rows {
    pub(crate) files: Vec<File>,
    pub(crate) warnings: Vec<String>,
}

impl Row {
    /// The cell in `column`.
    pub(crate) fn get(&self, column: &Column) -> Option<&Value> {
        match column {
            Column::Name(name) => self.cells.get(name),
            Column::Index(index) => self.places.get(*index),
        }
    }

    /// A row whose cells have no places.
    fn named(cells: Map<String, Value>, number: usize) -> Self {
        Self { cells, places: Vec::new(), number }
    }
}

/// Reads a split's rows; `name` is the split's, for folders in the Hub's layout.
pub(crate) fn read_split(
    task: &TaskSpec,
    split: &SplitSpec,
    name: &str,
    base: &Path,
) -> Result<Rows, TaskError> {
    let (paths, skip, take) = split.parts();
    let mut files: Vec<File> = Vec::new();
    let mut warnings = Vec::new();
    for path in paths {
        let path = base.join(path);
        let found = if path.is_dir() { shards::find(task, &path, name)? } else { vec![path] };
        for path in found {
            let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
            if files.iter().any(|file| file.identity == identity) {
                let message = format!("{name} names this file twice; name it once");
                return Err(TaskError::new(&task.name, path, message));
            }
            let mut told = Vec::new();
            let rows = Reader { task, path: &path }.read(&mut told)?;
            warnings.extend(told.into_iter().map(|what| format!("{name}: {}: {what}", path.display())));
            files.push(File { path, identity, rows });
        }
    }
    let mut number = 0;
    for file in &mut files {
        file.rows.retain(|_| {
            number += 1;
            number > skip && number - skip <= take
        });
    }
    let left: usize = files.iter().map(|file| file.rows.len()).sum();
    if left == 0 {
        let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let message = match skip > 0 || take < usize::MAX {
            true => format!("{name}: no rows are left of its {number} with skip and take; choose other rows"),
            false => format!("{name}: the data set is empty; give a file with rows"),
        };
        return Err(TaskError::new(&task.name, path, message));
    }
    if take < usize::MAX && left < take {
        let path = files.first().map(|file| file.path.display().to_string()).unwrap_or_default();
        warnings.push(format!("{name}: take = {take}, but {path} has only {left} rows after skip = {skip}"));
    }
    Ok(Rows { files, warnings })
}

/// Every row of the file at `path`.
pub(crate) fn rows_of(task: &TaskSpec, path: &Path) -> Result<Vec<Row>, TaskError> {
    Reader { task, path }.read(&mut Vec::new())
}

/// Whether a file is of a kind that can be read, by its name.
pub(crate) fn is_data(path: &Path) -> bool {
    kind(path).is_some()
}

struct Reader<'a> {
    task: &'a TaskSpec,
    path: &'a Path,
}

/// Endings of the files that can be read.
const KINDS: [&str; 7] = ["tsv", "csv", "jsonl", "ndjson", "json", "parquet", "txt"];

/// A file's ending, without that of its compression.
fn kind(path: &Path) -> Option<&'static str> {
    let path = if bytes::is_gzip(path) { Path::new(path.file_stem()?) } else { path };
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    KINDS.into_iter().find(|kind| *kind == ending)
}

impl Reader<'_> {
    fn error(&self, message: impl Into<String>) -> TaskError {
        TaskError::new(&self.task.name, self.path, message)
    }

    /// The rows; what a reader should know of them is added to `told`.
    fn read(&self, told: &mut Vec<String>) -> Result<Vec<Row>, TaskError> {
        let kind = kind(self.path);
        if let Some(other) = kind.filter(|kind| !["tsv", "csv"].contains(kind)) {
            self.no_table_keys(other)?;
        }
        match kind {
            Some("tsv") => self.table('\t', self.task.quotes.unwrap_or(false), told),
            Some("csv") => self.table(',', self.task.quotes.unwrap_or(true), told),
            Some("jsonl" | "ndjson" | "json") => self.json(),
            Some("parquet") => self.parquet(),
            Some("txt") => {
                let cells = [("text".to_owned(), Value::from(self.text()?))].into_iter().collect();
                Ok(vec![Row::named(cells, 1)])
            }
            _ => Err(self.error(
                "is of a kind that is not known; there are .tsv, .csv, .json, .jsonl, .ndjson and .txt, each also \
                 with .gz, and .parquet",
            )),
        }
    }

    /// Keys of the task that say how tables are written mean nothing in other files.
    fn no_table_keys(&self, kind: &str) -> Result<(), TaskError> {
        let task = self.task;
        let set = [("header", !task.header), ("quotes", task.quotes.is_some()), ("unescape", task.unescape)];
        match set.into_iter().find(|(_, set)| *set) {
            Some((key, _)) => Err(self
                .error(format!("{key} is for .tsv and .csv files, and this is .{kind}; take the key out"))),
            None => Ok(()),
        }
    }

    /// Columns that the task reads must not stand twice in a file.
    fn no_duplicates(&self, names: &[String]) -> Result<(), TaskError> {
        let mut seen = HashSet::new();
        let twice: HashSet<&str> =
            names.iter().map(String::as_str).filter(|name| !seen.insert(*name)).collect();
        let read = self.task.read_columns();
        let wrong = read.into_iter().find_map(|column| match column {
            Column::Name(name) if twice.contains(name.as_str()) => Some(name),
            _ => None,
        });
        match wrong {
            Some(name) => Err(self.error(format!(
                "has two columns `{name}`; rename one, or give its place from 0 in columns = {{ .. }}"
            ))),
            None => Ok(()),
        }
    }
}
