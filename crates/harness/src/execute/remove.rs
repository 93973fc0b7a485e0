//! Taking records out of a results folder, and seeing what is worked on there.

use std::fs::{OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use peftlab_record::Record;

use super::claim::{CLAIMS, Claim};
use crate::error::HarnessError;

/// Removes `record`, which lies at `path` in the results folder `out`, with all that is beside it: the tables of its steps
/// and predictions, its adapter, what it said on its standard error. The files that were removed, the record itself first;
/// none where a run works on its cell at the moment, or has made another record of it since.
///
/// # Errors
/// Where a file cannot be removed, or the folder cannot be read.
pub fn remove(out: &Path, path: &Path, record: &Record) -> Result<Option<Vec<PathBuf>>, HarnessError> {
    remove_of(out, path, &record.identity, record.environment.started)
}

/// As [`remove`], of the cell with this identity, whose record says that its run began `started` seconds after 1970.
fn remove_of(
    out: &Path,
    path: &Path,
    identity: &str,
    started: u64,
) -> Result<Option<Vec<PathBuf>>, HarnessError> {
    // nobody begins to write what is about to be removed
    let Some(_claim) = Claim::take(out, identity)? else { return Ok(None) };
    if Record::read(path).is_ok_and(|now| now.environment.started != started) {
        return Ok(None);
    }
    let files = files(path)?;
    for file in &files {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(HarnessError::input(file, format!("cannot be removed: {error}")));
            }
            _ => {}
        }
    }
    Ok(Some(files))
}

/// The record's file and all that belong to it, which share its stem.
///
/// # Errors
/// Where the folder cannot be read.
pub fn files(record: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    let folder = record.parent().unwrap_or(Path::new("."));
    let stem = record.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let entries = std::fs::read_dir(folder).map_err(|error| HarnessError::read(folder, &error))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let beside = |name: &String| name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with('.'));
    let mut files: Vec<PathBuf> = names.filter(beside).map(|name| folder.join(name)).collect();
    // without its record nothing of a cell counts, so that goes first
    files.sort_by_key(|file| (file != record, file.clone()));
    Ok(files)
}

/// The identities of the cells that runs on the results folder `out` work on at the moment.
pub fn running(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out.join(CLAIMS)).into_iter().flatten().filter_map(Result::ok);
    let held = |path: &Path| {
        let file = OpenOptions::new().read(true).open(path);
        // a lock that we take is given back at once
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    };
    entries
        .filter(|entry| held(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_record_goes_with_it_unless_it_is_worked_on() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        std::fs::create_dir(&runs).unwrap();
        for name in ["a--1.json", "a--1.steps.csv", "a--1.stderr.txt", "a--10.json", "a--10.steps.csv"] {
            std::fs::write(runs.join(name), "").unwrap();
        }
        let path = runs.join("a--1.json");
        let claim = Claim::take(dir.path(), "identity").unwrap();
        assert_eq!(running(dir.path()), ["identity"]);
        assert_eq!(remove_of(dir.path(), &path, "identity", 0).unwrap(), None);
        drop(claim);
        assert!(running(dir.path()).is_empty());
        let removed = remove_of(dir.path(), &path, "identity", 0).unwrap().unwrap();
        let names = ["a--1.json", "a--1.stderr.txt", "a--1.steps.csv"];
        assert_eq!(removed, names.map(|name| runs.join(name)));
        assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 2);
    }
}
