use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::CommandFactory;
use peftlab_backbones::BACKBONES;
use peftlab_harness::device::OpenDevice;
use peftlab_harness::exchange;
use peftlab_harness::parity::{self, Verdict};
use peftlab_harness::plan::Plan;
use peftlab_peft::Registry;
use peftlab_report::Options;
use peftlab_tasks::TaskKind;
use serde_json::{Value, json};

use crate::arguments::{Arguments, Command, Listing, Page};
use crate::{Outcome, print, warn};

pub(crate) fn run(command: &Command, registry: &Registry) -> Result<Outcome> {
    match command {
        Command::Run { file, out, wanted, drawn } => {
            crate::run::experiment(file, out.as_deref(), &wanted.parsed(), &drawn.options(), registry)
        }
        Command::Plan(arguments) => crate::plan::plan(arguments, registry),
        Command::Init { dir, model, out } => {
            crate::init::run(dir, model.as_deref(), out.as_deref(), registry)
        }
        Command::Report { dir, drawn } => report(dir, &drawn.options()),
        Command::Show { dir, row } => crate::show::show(dir, row.as_deref()),
        Command::Rm(arguments) => crate::remove::run(arguments),
        Command::List { what, json } => list(*what, *json, registry),
        Command::Check(check) => crate::check::check(check, registry),
        Command::Parity { dirs, device, json } => check_parity(dirs, device, *json, registry),
        Command::Cell { .. } => crate::run::cell(registry),
        Command::Export { record, experiment, out } => {
            warn(&exchange::export(record, &Plan::read(experiment, registry)?, out)?);
            print(format!("{}: adapter_config.json, adapter_model.safetensors", out.display()));
            Ok(Outcome::Done)
        }
        Command::Import { adapter, experiment, task } => {
            let plan = Plan::read(experiment, registry)?;
            warn(&plan.all_warnings());
            let imported = exchange::import(adapter, &plan, task.as_deref(), registry)?;
            warn(&imported.warnings);
            for (split, score) in imported.scores {
                print(format!(
                    "{split:<11} {:<12} {:.6}  ({} items)",
                    score.metric, score.value, score.items
                ));
            }
            Ok(Outcome::Done)
        }
        Command::Device { device, only, tiny, json, out } => {
            crate::device::measure(device, only, *tiny, *json, out.as_deref())
        }
        Command::Allocate { device, bytes } => crate::device::allocate(device, *bytes),
        Command::Compare { ours, theirs } => crate::device::compare(ours, theirs.as_deref()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "bench", &mut script);
            print(String::from_utf8_lossy(&script).trim_end());
            Ok(Outcome::Done)
        }
        Command::Docs { page, name, write } => match (page, write) {
            (_, Some(root)) => crate::docs::write(root, registry),
            (page, None) => crate::docs::show(page.unwrap_or(Page::Experiment), name.as_deref(), registry),
        },
    }
}

fn report(dir: &Path, options: &Options) -> Result<Outcome> {
    let report = peftlab_report::report(dir, options)?;
    warn(&report.warnings);
    print(report.text);
    Ok(Outcome::Done)
}

fn list(what: Listing, as_json: bool, registry: &Registry) -> Result<Outcome> {
    let rows: Vec<(String, String, Value)> = match what {
        Listing::Methods => registry
            .entries()
            .map(|entry| {
                let card = entry.card;
                let family = serde_json::to_value(card.family).unwrap_or_default();
                let text = format!("{:<16} {} ({})", family.as_str().unwrap_or_default(), card.title, card.paper);
                Ok((card.name.to_owned(), text, serde_json::to_value(card)?))
            })
            .collect::<Result<_>>()?,
        Listing::Backbones => BACKBONES
            .iter()
            .map(|card| {
                let value = json!({
                    "name": card.name, "architectures": card.architectures, "heads": card.heads, "paper": card.paper,
                });
                (card.name.to_owned(), format!("{} ({})", card.heads, card.paper), value)
            })
            .collect(),
        Listing::Tasks => TaskKind::ALL
            .iter()
            .map(|kind| {
                let value = json!({ "name": kind.name(), "description": kind.description() });
                (kind.name().to_owned(), kind.description().to_owned(), value)
            })
            .collect(),
    };
    if as_json {
        let values: Vec<Value> = rows.into_iter().map(|(.., value)| value).collect();
        print(serde_json::to_string_pretty(&values)?);
    } else {
        for (name, text, _) in rows {
            print(format!("{name:<16} {text}"));
        }
    }
    Ok(Outcome::Done)
}

fn check_parity(dirs: &[PathBuf], device: &str, as_json: bool, registry: &Registry) -> Result<Outcome> {
    let device = OpenDevice::named(device)?;
    let mut checks = Vec::new();
    let bundles = dirs.iter().map(|dir| parity::find(dir)).collect::<Result<Vec<_>, _>>()?;
    for bundle in bundles.into_iter().flatten() {
        let check = parity::check(&bundle, registry, &device.tensors)
            .with_context(|| bundle.display().to_string())?;
        if !as_json {
            print(&check);
        }
        checks.push(check);
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    if as_json {
        print(serde_json::to_string_pretty(&checks)?);
    } else {
        let (passed, skipped) = (count(Verdict::Pass), count(Verdict::Skip));
        print(format!("{passed} passed, {} failed, {skipped} skipped", count(Verdict::Fail)));
    }
    Ok(if count(Verdict::Fail) == 0 { Outcome::Done } else { Outcome::Failed })
}
