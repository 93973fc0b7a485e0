//! Records and their tables as files.

use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{RUNS, Record, RecordError, SCHEMA};

pub(crate) fn read_error(path: &Path, error: impl std::fmt::Display) -> RecordError {
    RecordError::File { path: path.to_owned(), message: format!("cannot be read: {error}") }
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// Where it cannot be read, or is of another schema.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = std::fs::read_to_string(path).map_err(|error| read_error(path, error))?;
        let corrupt = |error: serde_json::Error| RecordError::File {
            path: path.to_owned(),
            message: format!("is not a record: {error}; delete the file to have its cell run again"),
        };
        let refused = match serde_json::from_str::<Self>(&text) {
            Ok(record) if record.schema == SCHEMA => return Ok(record),
            Ok(record) => {
                return Err(RecordError::Schema { path: path.to_owned(), found: record.schema.into() });
            }
            Err(error) => error,
        };
        // of another schema anything may be in it
        let value: Value = serde_json::from_str(&text).map_err(corrupt)?;
        match value["schema"].as_u64() {
            Some(schema) if schema == u64::from(SCHEMA) => Err(corrupt(refused)),
            schema => Err(RecordError::Schema { path: path.to_owned(), found: schema.unwrap_or(0) }),
        }
    }

    /// Every record of the results folder `dir`, in the order of their file names; no trials.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn read_all(dir: &Path) -> Result<Vec<(PathBuf, Self)>, RecordError> {
        Self::read_folder(&dir.join(RUNS))
    }

    /// Every record in `folder`, [`RUNS`] or [`TRIALS`](crate::TRIALS) of a results folder, in the order of their file names;
    /// nothing where there is no such folder.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn read_folder(folder: &Path) -> Result<Vec<(PathBuf, Self)>, RecordError> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read_error(folder, error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| read_error(folder, error))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        let records: Vec<Result<Self, RecordError>> = paths.par_iter().map(|path| Self::read(path)).collect();
        // of several that cannot be read always the first is told
        paths.into_iter().zip(records).map(|(path, record)| Ok((path, record?))).collect()
    }

    /// Writes the record so that a reader sees all of it or nothing.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        write_json(path, self)
    }
}

/// Writes `value` as JSON so that a reader sees all of it or nothing.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| RecordError::File { path: path.to_owned(), message: error.to_string() })?;
    text.push(b'\n');
    write_atomic(path, &text)
}

/// The table of steps beside a record.
pub fn steps_path(record: &Path) -> PathBuf {
    record.with_extension("steps.csv")
}

/// The table of predictions beside a record.
pub fn predictions_path(record: &Path) -> PathBuf {
    record.with_extension("predictions.csv")
}

/// The table of predictions on the validation set, where [`predictions_path`] is of a test set.
pub fn validation_predictions_path(record: &Path) -> PathBuf {
    record.with_extension("validation.csv")
}

/// Writes a table of steps or predictions.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_table<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), RecordError> {
    let failed = |error: String| RecordError::File { path: path.to_owned(), message: error };
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(|error| failed(error.to_string()))?;
    }
    write_atomic(path, &writer.into_inner().map_err(|error| failed(error.to_string()))?)
}

/// Reads a table of steps or predictions; none where there is no such file.
///
/// # Errors
/// Where it is not one.
pub fn read_table<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>, RecordError> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut reader = csv::Reader::from_path(path).map_err(|error| read_error(path, error))?;
    let rows: Result<Vec<T>, _> = reader.deserialize().collect();
    rows.map(Some).map_err(|error| read_error(path, error))
}

/// Reads the columns `names` of a table of numbers, one vector each, and nothing else of it: tables may be long. None where
/// there is no such file.
///
/// # Errors
/// Where it is not such a table, a column is not there, or what stands in one is no number.
pub fn read_columns<const N: usize>(
    path: &Path,
    names: [&str; N],
) -> Result<Option<[Vec<f64>; N]>, RecordError> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut reader = csv::Reader::from_path(path).map_err(|error| read_error(path, error))?;
    let headers = reader.headers().map_err(|error| read_error(path, error))?;
    let mut places = [0; N];
    for (place, name) in places.iter_mut().zip(names) {
        let found = headers.iter().position(|header| header == name);
        *place = found.ok_or_else(|| read_error(path, format!("there is no column `{name}`")))?;
    }
    let mut columns = [const { Vec::new() }; N];
    let mut row = csv::ByteRecord::new();
    while reader.read_byte_record(&mut row).map_err(|error| read_error(path, error))? {
        for ((column, place), name) in columns.iter_mut().zip(places).zip(names) {
            let text = row.get(place).and_then(|field| std::str::from_utf8(field).ok()).unwrap_or_default();
            let number = text.trim().parse().map_err(|_| {
                read_error(path, format!("{name} in row {} is `{text}` and no number", column.len() + 1))
            })?;
            column.push(number);
        }
    }
    Ok(Some(columns))
}

/// Writes a file so that a reader sees all of it or nothing.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    let write = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut file = shared_file().prefix(&partial_prefix(&name)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error: std::io::Error| RecordError::File {
        path: path.to_owned(),
        message: match error.kind() {
            // what was done is done: elsewhere it would have to be done again
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                format!("cannot be written: {error}; make room there, and give the same command again")
            }
            _ => format!("cannot be written: {error}; choose another folder with --out"),
        },
    })
}

/// How the names of files begin that are on the way to becoming the file `name` of a run, or another one of the same stem.
/// What begins so when nobody writes them is what a killed writer left.
pub fn partial_prefix(name: &str) -> String {
    // a label may have points; what follows the identity, the last part, is the kind of a file
    let (before, last) = name.rsplit_once("--").map_or(("", name), |(before, last)| (before, last));
    let last = last.split('.').next().unwrap_or_default();
    let between = if before.is_empty() { "" } else { "--" };
    format!(".{before}{between}{last}.partial-")
}

/// Makes temporary files as other programs make theirs: readable for whom the umask says, not for their owner alone.
fn shared_file<'a>() -> tempfile::Builder<'a, 'a> {
    let builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = {
        let mut builder = builder;
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder
    };
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_written_is_known_by_its_stem() {
        let stem = "lora-0.5--task--seed0--0a1b2c3d";
        for file in ["", ".json", ".steps.csv", ".stderr.txt"] {
            assert_eq!(partial_prefix(&format!("{stem}{file}")), format!(".{stem}.partial-"));
        }
        assert_eq!(partial_prefix("table.md"), ".table.partial-");
    }
}
