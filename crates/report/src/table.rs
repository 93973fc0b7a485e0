//! The comparison table in the manner of Xu et al. (arXiv 2312.12148): methods as rows.

mod around;
mod by_task;
mod content;
mod csv;
mod latex;
mod markdown;
mod notes;
mod terminal;
#[cfg(test)]
mod tests;

pub(crate) use around::Around;
pub(crate) use csv::csv;
pub(crate) use latex::latex;
pub(crate) use markdown::markdown;
pub(crate) use terminal::terminal;
