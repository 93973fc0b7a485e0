use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use peftlab_report::Options;

use crate::plan::PlanArguments;
use crate::remove::RemoveArguments;
use crate::terminal::{self, Verbosity};
use crate::version;
use crate::wanted::WantedCells;

/// Benchmarks parameter-efficient fine-tuning methods: which one, and what does it cost?
#[derive(Parser, Debug)]
#[command(
    name = "bench",
    version,
    long_version = version::long(),
    after_help = "Exit codes: 0 done, 1 something measured failed, 2 wrong input, 130 stopped by a signal."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say no more than warnings, errors and the table at the end.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say every step of every cell.
    #[arg(long, short, global = true)]
    verbose: bool,
}

impl Arguments {
    pub(crate) fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Usual,
        }
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Train and score every cell of an experiment, then draw its report. Finished cells are not run again.
    Run {
        /// The experiment file.
        file: PathBuf,
        /// Results folder [default: results/NAME].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        wanted: WantedCells,
        #[command(flatten)]
        drawn: Drawn,
    },
    /// Write an experiment file for a folder of data, to begin with: finds splits, columns and classes.
    Init {
        /// The folder of TSV, CSV, JSON, JSON lines, Parquet or text files.
        dir: PathBuf,
        /// The model: a folder, a GGUF file, or hub:owner/name@revision.
        #[arg(long, value_name = "M")]
        model: Option<String>,
        /// The file to write [default: the folder's name with .toml].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show what a run would do and take: data, rows, what is done and what is to run, disk and time. Nothing is run.
    Plan(PlanArguments),
    /// Draw tables and plots from the records of a results folder.
    Report {
        /// The results folder.
        dir: PathBuf,
        #[command(flatten)]
        drawn: Drawn,
    },
    /// Show what is done of a results folder and what failed, or what a row came to: settings, scores, losses.
    Show {
        /// The results folder, or a record in it.
        dir: PathBuf,
        /// A row by its label, the rows of a method by its name, or a record's file.
        #[arg(value_name = "ROW")]
        row: Option<String>,
    },
    /// Remove records from a results folder, with all that is beside them.
    Rm(RemoveArguments),
    /// List what there is.
    List {
        /// What to list.
        what: Listing,
        /// As JSON: an array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Hold methods to what their cards promise, on tiny networks: identity, counts, merging, saving, learning.
    Check(Check),
    /// Check against what a reference implementation computed: one bundle, or all below a folder.
    Parity {
        /// Bundles, or folders that hold bundles.
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
        /// cpu, cuda:0, or cubecl-cpu in a build that has it.
        #[arg(long, default_value = "cpu")]
        device: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a finished run's adapter in Hugging Face PEFT's form.
    Export {
        /// The run's record, `results/NAME/runs/*.json`.
        record: PathBuf,
        /// The experiment file that it was run from.
        #[arg(long, value_name = "FILE")]
        experiment: PathBuf,
        /// Folder for `adapter_config.json` and `adapter_model.safetensors`.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Read an adapter in Hugging Face PEFT's form, and score it on an experiment's tasks.
    Import {
        /// Folder with `adapter_config.json` and `adapter_model.safetensors`.
        adapter: PathBuf,
        /// The experiment file with the model and the tasks.
        #[arg(long, value_name = "FILE")]
        experiment: PathBuf,
        /// The task, where the experiment has several.
        #[arg(long, value_name = "NAME")]
        task: Option<String>,
    },
    /// Measure what a device can do: matrix products, copies, attention, launches, the largest allocation.
    Device {
        /// cpu, cuda:0, or auto: the first GPU where there is one.
        #[arg(default_value = "auto")]
        device: String,
        /// Measure this part alone; may be given several times.
        #[arg(long, value_name = "PART")]
        only: Vec<DevicePart>,
        /// Small sizes that show in seconds whether everything works.
        #[arg(long)]
        tiny: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Write the JSON to this file, too.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put two results side by side, with ratios: results folders, or files of `bench device --out`.
    Compare {
        /// A results folder, or a file of `bench device --out`.
        ours: PathBuf,
        /// Another of the same kind, such as one of `tools/peer`.
        theirs: Option<PathBuf>,
    },
    /// Take so many bytes of a device at once, and end with 0 if that goes.
    #[command(hide = true)]
    Allocate { device: String, bytes: u64 },
    /// Run the cell of a grid that the standard input tells of, in this process.
    #[command(hide = true)]
    Cell {
        /// What it is called, for lists of processes.
        name: String,
    },
    /// Print what makes a shell complete this program's commands and options; load it as the shell's manual says.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print a page: the keys of an experiment file, the fields of a record, or the methods with their settings.
    Docs {
        /// Which page.
        #[arg(required_unless_present = "write")]
        page: Option<Page>,
        /// With `methods`: the method whose page it is.
        name: Option<String>,
        /// Write all pages into `docs/` of this checkout, and the table of methods into its README.
        #[arg(long, value_name = "DIR", conflicts_with_all = ["page", "name"])]
        write: Option<PathBuf>,
    },
}

/// What of a table is shown, and in which order.
#[derive(Args, Clone, Debug)]
pub(crate) struct Drawn {
    /// Sort rows by `score`, a task's name, `trained`, `memory`, `speed` or `label`: the best, the smallest, the fastest
    /// first. Without it they stand as in the experiment.
    #[arg(long, value_name = "KEY")]
    sort: Option<String>,
    /// Group rows by `family`.
    #[arg(long, value_name = "BY")]
    group: Option<String>,
    /// The columns, in this order: `trained`, `percent`, `rate`, `mean`, `loss`, `merged`, `base`, `memory`, `speed`, `step`
    /// and names of tasks.
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    columns: Vec<String>,
}

impl Drawn {
    /// For the terminal that there is.
    pub(crate) fn options(&self) -> Options {
        let Self { sort, group, columns } = self.clone();
        Options { sort, group, columns, width: terminal::width() }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Methods, as `bench list methods` names them.
    #[arg(required = true, value_name = "METHOD")]
    pub(crate) methods: Vec<String>,
    /// A setting, as in a `[[method]]` table: `--set rank=4 --set 'target_modules=["query"]'`. With one method alone.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check on this network alone; may be given several times.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Vec<TinyNetwork>,
    /// As JSON: an array of reports.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TinyNetwork {
    /// An encoder with a head for classes.
    Bert,
    /// Another one, with positions counted from the padding on.
    Roberta,
    /// A language model.
    Llama,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DevicePart {
    /// Rates of matrix products.
    Product,
    /// Bandwidth on the device, and to and from it.
    Copy,
    /// Time between two small operations.
    Launch,
    /// The largest single allocation.
    Allocation,
    /// Attention, forward and with backward.
    Attention,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Page {
    /// Every key of an experiment file.
    Experiment,
    /// A results folder, and every field of a record.
    Record,
    /// The methods; with a name, that one's settings.
    Methods,
    /// A JSON Schema of experiment files, for editors.
    Schema,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Listing {
    /// Fine-tuning methods.
    Methods,
    /// Networks.
    Backbones,
    /// Kinds of tasks.
    Tasks,
}
