//! What is known of the terminal that a user reads.

use console::Term;

/// Characters in a line where the output goes into a file or a pipe.
const ELSEWHERE: usize = 120;

/// Characters in a line of the standard output.
pub(crate) fn width() -> usize {
    Term::stdout().size_checked().map_or(ELSEWHERE, |(_, columns)| columns.into())
}
