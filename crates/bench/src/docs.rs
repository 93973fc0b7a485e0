//! The pages that are made from the code: what an experiment file and a record hold, from the doc comments of the structs
//! that are read and written, and the methods, from their cards. So they cannot say what the program does not do.

mod editor;
mod fields;
mod methods;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use peftlab_harness::ExperimentFile;
use peftlab_peft::Registry;
use peftlab_record::{Prediction, Record, Step};

use crate::arguments::Page;
use crate::{Outcome, print};
use fields::{Form, fields};

/// What does not come from the code: the text around the lists of keys and fields.
const EXPERIMENT: &str = include_str!("docs/experiment.md");
const RECORD: &str = include_str!("docs/record.md");

/// Prints `page`; of the methods the one called `name`, if that is given.
pub(crate) fn show(page: Page, name: Option<&str>, registry: &Registry) -> Result<Outcome> {
    let text = match (page, name) {
        (Page::Methods, Some(name)) => methods::page(registry.get(name)?.card),
        (Page::Methods, None) => methods::index(registry),
        (_, Some(name)) => bail!("`{name}`: only methods have a page each; leave the name out"),
        (Page::Experiment, None) => experiment(),
        (Page::Record, None) => record(),
        (Page::Schema, None) => editor::schema(registry)?,
    };
    print(text.trim_end());
    Ok(Outcome::Done)
}

/// Writes every page into `docs/` of the checkout at `root`, and the table of methods into its README, if that has a
/// place for it.
pub(crate) fn write(root: &Path, registry: &Registry) -> Result<Outcome> {
    let docs = root.join("docs");
    let folder = docs.join("methods");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut pages: Vec<(PathBuf, String)> = vec![
        (docs.join("experiment.md"), experiment()),
        (docs.join("experiment.schema.json"), editor::schema(registry)?),
        (docs.join("record.md"), record()),
        (folder.join("README.md"), methods::index(registry)),
    ];
    for entry in registry.entries() {
        pages.push((folder.join(format!("{}.md", entry.card.name)), methods::page(entry.card)));
    }
    let readme = root.join("README.md");
    if readme.is_file() {
        let text = std::fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
        pages.extend(methods::in_readme(&text, registry).map(|text| (readme, text)));
    }
    for (path, text) in &pages {
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    print(format!("{}: {} files", root.display(), pages.len()));
    Ok(Outcome::Done)
}

fn experiment() -> String {
    EXPERIMENT.replace("<!-- keys -->\n", &fields::<ExperimentFile>(Form::Toml))
}

fn record() -> String {
    RECORD
        .replace("<!-- record -->\n", &fields::<Record>(Form::Json))
        .replace("<!-- steps -->\n", &fields::<Step>(Form::Csv))
        .replace("<!-- predictions -->\n", &fields::<Prediction>(Form::Csv))
}
