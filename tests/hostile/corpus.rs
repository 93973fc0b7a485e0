//! What mutants are made of: files of `tests/corpora`, and fixtures of other tests.

use std::path::{Path, PathBuf};

/// An input: the files of a folder, some of which are changed.
#[derive(Clone)]
pub(crate) struct Seed {
    pub(crate) name: String,
    /// Names below the input's folder, and bytes.
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
}

impl Seed {
    /// A file, or a folder with all that is in it.
    pub(crate) fn read(path: &Path) -> Self {
        let mut files = Vec::new();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => collect(path, Path::new(""), &mut files),
            false => files.push((PathBuf::from(&name), std::fs::read(path).unwrap())),
        }
        Self { name, files }
    }

    pub(crate) fn write(&self, folder: &Path) {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).unwrap();
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

fn collect(folder: &Path, below: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for path in entries(folder) {
        let name = below.join(path.file_name().unwrap());
        match path.is_dir() {
            true => collect(&path, &name, files),
            false => files.push((name, std::fs::read(&path).unwrap())),
        }
    }
}

/// What is in a folder, sorted; nothing where there is none.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// The top of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub(crate) fn corpora() -> PathBuf {
    root().join("tests/corpora")
}
