//! Models in several GGUF files, `NAME-00001-of-00003.gguf` and so on, as `llama-gguf-split` writes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::header::{GgufFile, GgufValue};
use crate::CheckpointError;

/// The name of a part.
struct PartName<'a> {
    stem: &'a str,
    count: usize,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
        digits(number)?;
        Some(Self { stem, count: digits(count)? })
    }

    fn all(&self) -> Vec<String> {
        let Self { stem, count, .. } = self;
        (1..=*count).map(|number| format!("{stem}-{number:05}-of-{count:05}.gguf")).collect()
    }
}

/// The names of every part of the model that a file of that name belongs to; the name alone where it is whole.
pub fn gguf_parts(name: &str) -> Vec<String> {
    let (folder, file) = name.rsplit_once('/').map_or(("", name), |(folder, file)| (folder, file));
    let Some(part) = PartName::parse(file) else { return vec![name.to_owned()] };
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    part.all().into_iter().map(|file| format!("{folder}{file}")).collect()
}

/// Of GGUF files, the one that names the only model there is: the file, or its first part.
pub fn only_gguf_model(files: &[PathBuf]) -> Option<&PathBuf> {
    let model = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        Some(
            PartName::parse(name)
                .map_or_else(|| name.to_owned(), |part| format!("{}-of-{}", part.stem, part.count)),
        )
    };
    let first = files.iter().min()?;
    files.iter().all(|file| model(file) == model(first)).then_some(first)
}

/// Opens the file and, where it is one part of several, all the others: in their order.
pub(super) fn open_parts(path: &Path) -> Result<Vec<GgufFile>, CheckpointError> {
    let named = GgufFile::open(path)?;
    let count = match split(&named, "count")? {
        None | Some(0 | 1) => return Ok(vec![named]),
        Some(count) => count,
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(part) = PartName::parse(name).filter(|part| part.count == count) else {
        return Err(CheckpointError::new(
            path,
            format!(
                "is one of {count} parts (`split.count`), but is not named NAME-00001-of-{count:05}.gguf, so that the \
                 others cannot be found; give every part its name back"
            ),
        ));
    };
    let paths: Vec<PathBuf> = part.all().iter().map(|name| path.with_file_name(name)).collect();
    let missing: Vec<&PathBuf> = paths.iter().filter(|path| !path.is_file()).collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing
            .iter()
            .take(8)
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        let more = if missing.len() > names.len() { " and more" } else { "" };
        return Err(CheckpointError::new(
            path,
            format!("is one of {count} parts; {}{more} is not beside it; get every part", names.join(", ")),
        ));
    }
    let files: Vec<GgufFile> = paths.iter().map(|path| GgufFile::open(path)).collect::<Result<_, _>>()?;
    check(&files, count)?;
    Ok(files)
}

/// Whether parts are what their names say, and have the tensors that were there before they were split.
fn check(files: &[GgufFile], count: usize) -> Result<(), CheckpointError> {
    for (number, file) in files.iter().enumerate() {
        let refuse = |key: &str, found: Option<usize>, wanted: usize| {
            let found = found.map_or("missing".to_owned(), |found| found.to_string());
            Err(CheckpointError::new(
                &file.path,
                format!(
                    "`split.{key}` is {found}, where the other parts want {wanted}; get every part from one place"
                ),
            ))
        };
        match (split(file, "no")?, split(file, "count")?) {
            (Some(no), _) if no != number => return refuse("no", Some(no), number),
            (None, _) => return refuse("no", None, number),
            (_, found) if found != Some(count) => return refuse("count", found, count),
            _ => {}
        }
    }
    let tensors: usize = files.iter().map(|file| file.tensors.len()).sum();
    for file in files {
        if let Some(claimed) = split(file, "tensors.count")?
            && claimed != tensors
        {
            return Err(CheckpointError::new(
                &file.path,
                format!(
                    "`split.tensors.count` is {claimed}, but the {count} parts have {tensors} tensors; get every part \
                     from one place"
                ),
            ));
        }
    }
    Ok(())
}

fn split(file: &GgufFile, key: &str) -> Result<Option<usize>, CheckpointError> {
    let key = format!("split.{key}");
    match file.metadata.get(&key) {
        None => Ok(None),
        Some(GgufValue::Integer(value)) if *value >= 0 => Ok(Some(*value as usize)),
        Some(other) => Err(CheckpointError::new(&file.path, format!("`{key}` is {other:?}, no count"))),
    }
}

/// The metadata: the first part has them, the others what is about themselves.
pub(super) fn metadata(files: &mut [GgufFile]) -> BTreeMap<String, GgufValue> {
    files.first_mut().map(|file| std::mem::take(&mut file.metadata)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named() {
        assert_eq!(
            gguf_parts("q4/m-00002-of-00002.gguf"),
            ["q4/m-00001-of-00002.gguf", "q4/m-00002-of-00002.gguf"]
        );
        assert_eq!(gguf_parts("m.gguf"), ["m.gguf"]);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let one = paths(&["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"]);
        assert_eq!(only_gguf_model(&one), Some(&one[1]));
        assert_eq!(only_gguf_model(&paths(&["a.gguf", "b.gguf"])), None);
    }
}
