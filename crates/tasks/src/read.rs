//! Rows of TSV, CSV, JSON, JSONL, Parquet and plain text files.

use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use crate::TaskError;
use crate::spec::{Column, SplitSpec, TaskSpec};

/// A row: its cells by name or place, and where it is in its file.
pub(crate) struct Row {
    pub(crate) cells: Map<String, Value>,
    /// Line of a text file, or number of a record, from 1.
    pub(crate) number: usize,
}

/// A file's rows.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// The cell in `column`.
    pub(crate) fn get(&self, column: &Column) -> Option<&Value> {
        match column {
            Column::Name(name) => self.cells.get(name),
            Column::Index(index) => self.cells.get(&index.to_string()),
        }
    }
}

/// Reads a split's rows; `name` is the split's, for folders in the Hub's layout.
pub(crate) fn read_split(
    task: &TaskSpec,
    split: &SplitSpec,
    name: &str,
    base: &Path,
) -> Result<Vec<File>, TaskError> {
    let (paths, skip, take) = split.parts();
    let mut files = Vec::new();
    for path in paths {
        let path = base.join(path);
        let found = if path.is_dir() { shards(task, &path, name)? } else { vec![path] };
        for path in found {
            let rows = Reader { task, path: &path }.read()?;
            files.push(File { path, rows });
        }
    }
    let mut number = 0;
    for file in &mut files {
        file.rows.retain(|_| {
            number += 1;
            number > skip && number - skip <= take
        });
    }
    if files.iter().all(|file| file.rows.is_empty()) {
        let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let message = match skip > 0 || take < usize::MAX {
            true => format!("{name}: no rows are left of its {number} with skip and take; choose other rows"),
            false => format!("{name}: the data set is empty; give a file with rows"),
        };
        return Err(TaskError::new(&task.name, path, message));
    }
    Ok(files)
}

/// The files of the split `name` in a folder as on the Hub: `train-00000-of-00002.parquet`, `train.jsonl`, ..
fn shards(task: &TaskSpec, folder: &Path, name: &str) -> Result<Vec<PathBuf>, TaskError> {
    let mut found = Vec::new();
    for folder in [folder.to_owned(), folder.join("data")] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            let stem = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ours = stem.strip_prefix(name).is_some_and(|rest| rest.starts_with(['-', '.']));
            if ours && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        let message = format!(
            "holds no file of the split `{name}`, such as {name}-00000-of-00001.parquet or {name}.jsonl"
        );
        return Err(TaskError::new(&task.name, folder, message));
    }
    Ok(found)
}

struct Reader<'a> {
    task: &'a TaskSpec,
    path: &'a Path,
}

impl Reader<'_> {
    fn error(&self, message: impl Into<String>) -> TaskError {
        TaskError::new(&self.task.name, self.path, message)
    }

    fn read(&self) -> Result<Vec<Row>, TaskError> {
        match self.path.extension().and_then(|extension| extension.to_str()) {
            Some("tsv") => self.table(b'\t', self.task.quotes.unwrap_or(false)),
            Some("csv") => self.table(b',', self.task.quotes.unwrap_or(true)),
            Some("jsonl") => self.json_lines(),
            Some("json") => self.json_array(),
            Some("parquet") => self.parquet(),
            Some("txt") => {
                let cells = [("text".to_owned(), Value::from(self.text()?))].into_iter().collect();
                Ok(vec![Row { cells, number: 1 }])
            }
            _ => Err(self.error(
                "is of a kind that is not known; there are .tsv, .csv, .jsonl, .json, .parquet and .txt",
            )),
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, TaskError> {
        std::fs::read(self.path)
            .map_err(|error| self.error(format!("cannot be read: {error}; check the path")))
    }

    fn text(&self) -> Result<String, TaskError> {
        String::from_utf8(self.bytes()?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            self.error(format!("line {line}: is not UTF-8 at byte {at}; convert the file"))
        })
    }

    fn table(&self, delimiter: u8, quotes: bool) -> Result<Vec<Row>, TaskError> {
        let text = self.text()?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .quoting(quotes)
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let mut names: Option<Vec<String>> = None;
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| self.error(format!("cannot be read: {error}")))?;
            let number = record.position().map_or(0, |position| position.line() as usize);
            let fields: Vec<&str> = record.iter().map(|field| field.trim_end_matches('\r')).collect();
            let Some(names) = &names else {
                // without a header, columns are called by their places
                let header = self.task.header;
                let own = fields
                    .iter()
                    .enumerate()
                    .map(|(i, name)| if header { (*name).to_owned() } else { i.to_string() });
                names = Some(own.collect());
                if !header {
                    rows.push(self.row(names.as_deref().unwrap_or_default(), &fields, number)?);
                }
                continue;
            };
            rows.push(self.row(names, &fields, number)?);
        }
        Ok(rows)
    }

    fn row(&self, names: &[String], fields: &[&str], number: usize) -> Result<Row, TaskError> {
        if fields.len() != names.len() {
            return Err(self.error(format!(
                "line {number}: has {} columns where the first line has {}; mend the line (set quotes = {} if quotation \
                 marks {} fields)",
                fields.len(),
                names.len(),
                !self.task.quotes.unwrap_or(false),
                if self.task.quotes.unwrap_or(false) { "do not enclose" } else { "enclose" },
            )));
        }
        let text = |field: &str| {
            Value::from(if self.task.unescape { field.replace("\\n", "\n") } else { field.to_owned() })
        };
        let named = names.iter().zip(fields).map(|(name, field)| (name.clone(), text(field)));
        let placed = fields.iter().enumerate().map(|(place, field)| (place.to_string(), text(field)));
        Ok(Row { cells: placed.chain(named).collect(), number })
    }

    fn object(&self, value: Value, number: usize) -> Result<Row, TaskError> {
        match value {
            Value::Object(cells) => Ok(Row { cells, number }),
            other => Err(self.error(format!("row {number}: is no JSON object but {other}"))),
        }
    }

    fn json_lines(&self) -> Result<Vec<Row>, TaskError> {
        let text = self.text()?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let rows = lines.map(|(i, line)| {
            let parsed = serde_json::from_str(line);
            self.object(
                parsed.map_err(|error| self.error(format!("line {}: is no JSON: {error}", i + 1)))?,
                i + 1,
            )
        });
        rows.collect()
    }

    fn json_array(&self) -> Result<Vec<Row>, TaskError> {
        let parsed: Result<Vec<Value>, _> = serde_json::from_str(&self.text()?);
        let values = parsed.map_err(|error| self.error(format!("is no JSON array of objects: {error}")))?;
        values.into_iter().enumerate().map(|(i, value)| self.object(value, i + 1)).collect()
    }

    fn parquet(&self) -> Result<Vec<Row>, TaskError> {
        let file = std::fs::File::open(self.path)
            .map_err(|error| self.error(format!("cannot be read: {error}; check the path")))?;
        let unreadable = |error: parquet::errors::ParquetError| {
            self.error(format!("is no Parquet file that can be read: {error}"))
        };
        let reader = SerializedFileReader::new(file).map_err(unreadable)?;
        let rows = reader.get_row_iter(None).map_err(unreadable)?;
        rows.enumerate()
            .map(|(i, row)| self.object(row.map_err(unreadable)?.to_json_value(), i + 1))
            .collect()
    }
}
