//! Rows that two splits have in common.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::TaskError;
use crate::read::File;

/// What an example is made of, hashed: its texts, and not what it should give.
pub(crate) type Content = [u8; 16];

/// Refuses splits that read the same rows of the same file, whatever path leads to it.
pub(crate) fn same_rows(
    task: &str,
    earlier: &[(&str, &[File])],
    name: &str,
    files: &[File],
) -> Result<(), TaskError> {
    for (other, theirs) in earlier {
        let rows: HashMap<&Path, HashSet<usize>> = theirs
            .iter()
            .map(|file| (file.identity.as_path(), file.rows.iter().map(|row| row.number).collect()))
            .collect();
        let shared = files.iter().find(|file| {
            let known = rows.get(file.identity.as_path());
            known.is_some_and(|known| file.rows.iter().any(|row| known.contains(&row.number)))
        });
        if let Some(file) = shared {
            let message =
                format!("{other} and {name} share rows of this file; give each its own, with skip and take");
            return Err(TaskError::new(task, &file.path, message));
        }
    }
    Ok(())
}

/// A sentence for each pair of splits that have examples with the same texts.
pub(crate) fn duplicates(splits: &[(&str, Vec<Content>)]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, (name, own)) in splits.iter().enumerate() {
        for (other, theirs) in &splits[..i] {
            let known: HashSet<&Content> = theirs.iter().collect();
            let shared = own.iter().filter(|content| known.contains(content)).count();
            warnings.extend(match shared {
                0 => None,
                all if all == own.len() => {
                    Some(format!("all {all} rows of {name} stand in {other}, too: its scores say little"))
                }
                some => Some(format!("{some} of the {} rows of {name} stand in {other}, too", own.len())),
            });
        }
    }
    warnings
}
