//! The files of a split in a folder as on the Hub.

use std::path::{Path, PathBuf};

use super::{bytes, kind};
use crate::TaskError;
use crate::spec::TaskSpec;

/// The files of the split `name` in `folder`: `train-00000-of-00002.parquet`, `train.jsonl`, ..
pub(super) fn find(task: &TaskSpec, folder: &Path, name: &str) -> Result<Vec<PathBuf>, TaskError> {
    let error = |message: String| Err(TaskError::new(&task.name, folder, message));
    let mut found = Vec::new();
    for folder in [folder.to_owned(), folder.join("data")] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ours = file.strip_prefix(name).is_some_and(|rest| rest.starts_with(['-', '.', '_']));
            if ours && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    let Some(first) = found.first() else {
        return error(format!(
            "holds no file of the split `{name}`, such as {name}-00000-of-00001.parquet or {name}.jsonl"
        ));
    };
    let form = |path: &Path| (path.parent().map(Path::to_owned), kind(path), bytes::is_gzip(path));
    if let Some(other) = found.iter().find(|path| form(path) != form(first)) {
        return error(format!(
            "holds files of the split `{name}` of several kinds or in two folders ({}, {}): the same rows twice? name \
             the files, {name} = [..]",
            first.display(),
            other.display()
        ));
    }
    if let Some((one, other)) = repeated(&found) {
        return error(format!(
            "holds `{one}` and `{other}`, parts of several copies of the split `{name}`: the same rows twice? name the \
             files, {name} = [..]"
        ));
    }
    match missing(&found) {
        Some((number, all)) => {
            error(format!("of the {all} files of the split `{name}` number {number} is missing; fetch it"))
        }
        None => Ok(found),
    }
}

/// Two files that are no parts of one whole: they have one number, or come from wholes of several sizes, or one has no
/// number.
fn repeated(files: &[PathBuf]) -> Option<(String, String)> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.iter().enumerate().find_map(|(i, path)| {
        let own = numbered(path);
        let of_one_whole = |other: &Option<(usize, usize)>| match (own, other) {
            (None, None) => true,
            (Some((number, all)), Some((other, others))) => number != *other && all == *others,
            _ => false,
        };
        let other = files[..i].iter().find(|other| !of_one_whole(&numbered(other)))?;
        Some((name(other), name(path)))
    })
}

/// The first number that lacks among files such as `train-00000-of-00002.parquet`, and how many there should be.
fn missing(files: &[PathBuf]) -> Option<(usize, usize)> {
    let numbers: Vec<(usize, usize)> = files.iter().filter_map(|path| numbered(path)).collect();
    let all = numbers.iter().map(|(_, all)| *all).max()?;
    // what a name claims is not to be counted through
    let first = (0..all.min(numbers.len() + 1)).find(|wanted| numbers.iter().all(|(own, _)| own != wanted));
    first.map(|number| (number, all))
}

/// `00003` and `00010` of `train-00003-of-00010.parquet`.
fn numbered(path: &Path) -> Option<(usize, usize)> {
    let name = path.file_name()?.to_str()?;
    let (before, after) = name.split_once("-of-")?;
    let own = before.rsplit('-').next()?.parse().ok()?;
    let all: String = after.chars().take_while(char::is_ascii_digit).collect();
    Some((own, all.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_may_hold_the_same_rows_are_refused() {
        let task = "name = \"x\"\nkind = \"causal-lm\"\ntrain = \".\"\nvalidation = \"v\"\n";
        let task: TaskSpec = toml::from_str(task).unwrap();
        for (second, refused) in [
            ("train-2.jsonl", false),
            ("train.csv", true),
            ("train.jsonl.gz", true),
            ("data/train.jsonl", true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("data")).unwrap();
            for name in ["train.jsonl", second] {
                std::fs::write(dir.path().join(name), "{}").unwrap();
            }
            let found = find(&task, dir.path(), "train");
            assert_eq!(
                found.is_err_and(|error| error.to_string().contains("the same rows twice")),
                refused,
                "{second}"
            );
        }
    }

    #[test]
    fn parts_of_several_copies_are_found() {
        for (names, repeats) in [
            (&["train-00000-of-00002.csv", "train-00001-of-00002.csv"][..], false),
            (&["train-00000-of-00001-aa.csv", "train-00000-of-00001-bb.csv"], true),
            (&["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"], true),
            (&["train-00000-of-00001.csv", "train.csv"], true),
            (&["train-1.csv", "train-2.csv"], false),
        ] {
            let files: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            assert_eq!(repeated(&files).is_some(), repeats, "{names:?}");
        }
    }

    #[test]
    fn a_missing_shard_is_found() {
        let names = |numbers: &[usize]| -> Vec<PathBuf> {
            numbers.iter().map(|n| PathBuf::from(format!("train-{n:05}-of-00003.parquet"))).collect()
        };
        assert_eq!(missing(&names(&[0, 1, 2])), None);
        assert_eq!(missing(&names(&[0, 2])), Some((1, 3)));
        assert_eq!(missing(&names(&[0, 1])), Some((2, 3)));
        assert_eq!(missing(&[PathBuf::from("train.csv")]), None);
        assert_eq!(missing(&[PathBuf::from("train-0-of-9999999999999.csv")]), Some((1, 9_999_999_999_999)));
    }
}
