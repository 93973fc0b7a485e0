use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use peftlab_peft::{Card, Identity, MergeKind, Registry};

use crate::{Outcome, print};

/// Writes one page a method into `dir`.
pub(crate) fn write(dir: &Path, registry: &Registry) -> Result<Outcome> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut index =
        "# Methods\n\nWritten by `bench docs docs/methods` from the methods' cards.\n\n".to_owned();
    for entry in registry.entries() {
        let path = dir.join(format!("{}.md", entry.card.name));
        std::fs::write(&path, page(entry.card)).with_context(|| path.display().to_string())?;
        writeln!(index, "- [{}]({}.md)", entry.card.title, entry.card.name)?;
    }
    let path = dir.join("README.md");
    std::fs::write(&path, index).with_context(|| path.display().to_string())?;
    print(format!("{}: {} pages", dir.display(), registry.entries().count()));
    Ok(Outcome::Done)
}

fn page(card: &Card) -> String {
    let identity = match card.identity {
        Identity::Exact => "yes, to the bit".to_owned(),
        Identity::Within(tolerance) => format!("nearly: logits differ by at most {tolerance}"),
        Identity::Quantised => "to the bit that of the model with its base quantised".to_owned(),
        Identity::No => "no".to_owned(),
    };
    let merge = match card.merge {
        MergeKind::Already => "nothing to merge: the weights themselves are trained",
        MergeKind::Exact => "into the weights, exactly",
        MergeKind::ZeroPoints => "into the zero points of the quantised weights, exactly",
        MergeKind::No => "no",
    };
    let not_for = if card.not_for.is_empty() { "applies everywhere" } else { card.not_for };
    let family = format!("{:?}", card.family).to_lowercase();
    let mut text = format!(
        "# {}\n\n{}\n\n| | |\n| --- | --- |\n| name | `{}` |\n| family (Xu et al. 2023) | {family} |\n| paper | {} |\n\
         | unchanged at step 0 | {identity} |\n| merges | {merge} |\n| not for | {not_for} |\n\n## Settings\n\n",
        card.title, card.summary, card.name, card.paper
    );
    if card.settings.is_empty() {
        text.push_str("None.\n");
    } else {
        text.push_str("| key | default | meaning |\n| --- | --- | --- |\n");
        for (name, default, meaning) in card.settings {
            text.push_str(&format!("| `{name}` | {default} | {meaning} |\n"));
        }
    }
    text.push_str(&format!("\n```toml\n[[method]]\nname = \"{}\"\n```\n", card.name));
    text
}
