//! Pages and tables of the methods, from their cards.

use std::fmt::Write;

use peftlab_peft::{Card, Family, Identity, MergeKind, Registry};

/// What stands before and after the table in a README.
const BEGIN: &str = "<!-- methods: written by `bench docs --write .` -->\n";
const END: &str = "<!-- /methods -->\n";

const FAMILIES: [(Family, &str); 6] = [
    (Family::Baseline, "baselines"),
    (Family::Partial, "partial"),
    (Family::Additive, "additive"),
    (Family::Reparameterized, "reparameterized"),
    (Family::Hybrid, "hybrid"),
    (Family::Unified, "unified"),
];

/// One method's page.
pub(super) fn page(card: &Card) -> String {
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
            let _ = writeln!(text, "| `{name}` | {default} | {meaning} |");
        }
    }
    let _ = write!(text, "\n```toml\n[[method]]\nname = \"{}\"\n```\n", card.name);
    text
}

/// A list of all pages.
pub(super) fn index(registry: &Registry) -> String {
    let mut text = "# Methods\n\nWritten by `bench docs --write .` from the methods' cards; `bench docs methods NAME` prints a \
                    method's page. The keys that all of them have are those of \
                    [`[[method]]`](../experiment.md#method).\n"
        .to_owned();
    for (family, title) in FAMILIES {
        let cards: Vec<&Card> = of(family, registry).collect();
        if !cards.is_empty() {
            let _ = write!(text, "\n## {}{}\n\n", title[..1].to_uppercase(), &title[1..]);
        }
        for card in cards {
            let _ = writeln!(text, "- [{}]({}.md) (`{}`): {}", card.title, card.name, card.name, card.paper);
        }
    }
    text
}

/// `readme` with the table of methods between its two marks; none where it has no such marks.
pub(super) fn in_readme(readme: &str, registry: &Registry) -> Option<String> {
    let begin = readme.find(BEGIN)? + BEGIN.len();
    let end = begin + readme[begin..].find(END)?;
    Some(format!("{}{}{}", &readme[..begin], table(registry), &readme[end..]))
}

/// The methods by family, each with a link to its page.
fn table(registry: &Registry) -> String {
    let mut text = "| family | methods |\n| --- | --- |\n".to_owned();
    for (family, title) in FAMILIES {
        let links: Vec<String> = of(family, registry)
            .map(|card| format!("[{}](docs/methods/{}.md)", card.title, card.name))
            .collect();
        if !links.is_empty() {
            let _ = writeln!(text, "| {title} | {} |", links.join(", "));
        }
    }
    text
}

fn of(family: Family, registry: &Registry) -> impl Iterator<Item = &'static Card> {
    registry.entries().map(|entry| entry.card).filter(move |card| card.family == family)
}
