//! Claims: who works on a cell. A claim is a lock that the system holds for a process and gives up when the process ends,
//! however it ends: a lost claim needs no clock to be taken over.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::HarnessError;

/// The folder of a results folder that holds what is claimed at the moment.
pub(super) const CLAIMS: &str = "claims";

/// A cell that this process alone works on, until this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims the cell with this identity in the results folder `out`; none where another process has.
    ///
    /// # Errors
    /// Where the folder cannot be written, or its file system has no locks.
    pub(crate) fn take(out: &Path, identity: &str) -> Result<Option<Self>, HarnessError> {
        let folder = out.join(CLAIMS);
        std::fs::create_dir_all(&folder).map_err(|error| HarnessError::write(&folder, &error))?;
        let path = folder.join(identity);
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(|error| HarnessError::write(&path, &error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    let message = format!(
                        "cannot be locked, so that two runs could do the same work: {error}; choose a folder on a local \
                         disk with --out"
                    );
                    return Err(HarnessError::input(&path, message));
                }
            }
            // whoever held it before may have removed the file between our opening and locking it
            if is_at(&file, &path) {
                return Ok(Some(Self { path, _lock: file }));
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // removed while it is locked: nobody else can have locked this very file
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the file at `path` is the one that is open.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().is_ok_and(|open| std::fs::metadata(path).is_ok_and(|there| same(&open, &there)))
}

/// Where an open file cannot be removed it is the one at its path.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_had_by_one_and_can_be_had_again() {
        let dir = tempfile::tempdir().unwrap();
        let take = || Claim::take(dir.path(), "a").unwrap();
        let first = take();
        assert!(first.is_some() && take().is_none());
        assert!(Claim::take(dir.path(), "b").unwrap().is_some());
        drop(first);
        assert!(std::fs::read_dir(dir.path().join(CLAIMS)).unwrap().next().is_none());
        assert!(take().is_some());
    }

    #[test]
    fn of_many_at_once_one_has_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, taken) =
            (std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    use std::sync::atomic::Ordering::SeqCst;
                    for _ in 0..200 {
                        if let Some(claim) = Claim::take(dir.path(), "a").unwrap() {
                            assert_eq!(inside.fetch_add(1, SeqCst), 0, "two have it");
                            std::thread::yield_now();
                            inside.fetch_sub(1, SeqCst);
                            taken.fetch_add(1, SeqCst);
                            drop(claim);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }
}
