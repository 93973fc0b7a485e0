//! The flags that name some cells of a grid, to be run or removed.

use clap::Args;
use peftlab_harness::execute::Wanted;

/// Some cells of a grid.
#[derive(Args, Clone, Debug)]
pub(crate) struct WantedCells {
    /// Cells of this row's label, or of all rows of this method, alone; may be given several times.
    #[arg(long, value_name = "LABEL|METHOD")]
    pub(crate) only: Vec<String>,
    /// Cells of this task alone; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Vec<String>,
    /// Cells with this seed alone; may be given several times.
    #[arg(long, value_name = "SEED")]
    seed: Vec<u64>,
}

impl WantedCells {
    pub(crate) fn parsed(&self) -> Wanted {
        Wanted { methods: self.only.clone(), tasks: self.task.clone(), seeds: self.seed.clone() }
    }
}
