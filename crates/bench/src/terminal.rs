//! What is known of the terminal that a user reads.

use std::sync::OnceLock;

use console::Term;

/// Characters in a line where the output goes into a file or a pipe.
const ELSEWHERE: usize = 120;

/// Characters in a line of the standard output.
pub(crate) fn width() -> usize {
    Term::stdout().size_checked().map_or(ELSEWHERE, |(_, columns)| columns.into())
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Warnings, errors, and what was asked for.
    Quiet,
    /// What a cell came to, too.
    Usual,
    /// All that a cell says, too.
    Verbose,
}

static VERBOSITY: OnceLock<Verbosity> = OnceLock::new();

/// Sets it once, for the whole program.
pub(crate) fn set_verbosity(verbosity: Verbosity) {
    // a second time there is nothing else to be set
    let _ = VERBOSITY.set(verbosity);
}

pub(crate) fn verbosity() -> Verbosity {
    *VERBOSITY.get().unwrap_or(&Verbosity::Usual)
}
