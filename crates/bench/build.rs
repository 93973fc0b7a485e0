//! Tells the program which commit it is built from, where the sources are a checkout with git; from a tarball it is built
//! without.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(&root).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // sources unpacked inside of another repository are not of its commits
    let top = git(&["rev-parse", "--show-toplevel"]).map(PathBuf::from);
    if top.and_then(|top| top.canonicalize().ok()) != root.canonicalize().ok() {
        return;
    }
    // changes with every commit and every checkout, and with nothing else
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        .map(|path| root.join(path))
        .filter(|path| path.is_file())
    {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo:rustc-env=PEFTLAB_COMMIT={commit}");
    }
}
