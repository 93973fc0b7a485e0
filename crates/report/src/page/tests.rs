use std::path::Path;
use std::time::Instant;

use peftlab_record::Record;

use super::sample::Sample;
use super::*;
use crate::options::Options;

/// What would end a script, begin another element, or end an attribute.
pub(super) const HOSTILE: &str =
    "</script><img src=x onerror=alert(1)><!--<script>\"&'<b>{{script}}\u{2028}\\u003c `${1}`";

pub(super) fn page_of(dir: &Path) -> String {
    let grid = Grid::new(None, Record::read_all(dir).unwrap()).unwrap();
    let columns = Columns::new(&Options::default(), &grid).unwrap();
    page(&grid, &columns).unwrap()
}

fn data_of(page: &str) -> serde_json::Value {
    let begin = "<script type=\"application/json\" id=\"data\">";
    let (_, rest) = page.split_once(begin).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn what_users_write_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample { rows: 3, steps: 20, items: 20, ..Sample::default() };
    sample.write(dir.path());
    let plain = page_of(dir.path());
    Sample { hostile: Some(HOSTILE), ..sample }.write(dir.path());
    let page = page_of(dir.path());
    for tag in ["<script", "</script", "<img", "<b>", "<!--"] {
        assert_eq!(page.matches(tag).count(), plain.matches(tag).count(), "{tag}");
    }
    let data = data_of(&page);
    assert_eq!(data["rows"][2]["label"], HOSTILE);
    assert!(data["warnings"].as_array().unwrap().iter().any(|warning| warning == HOSTILE));
}

#[test]
fn an_experiment_s_name_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut record = crate::made::Made::default().record();
    record.experiment = HOSTILE.to_owned();
    std::fs::create_dir(dir.path().join("runs")).unwrap();
    record.write(&dir.path().join("runs/0.json")).unwrap();
    let page = page_of(dir.path());
    assert!(
        !page.contains("<img") && page.contains("&lt;img src=x onerror=alert(1)&gt;"),
        "{}",
        &page[..2000]
    );
    assert_eq!(data_of(&page)["name"], HOSTILE);
}

#[test]
fn the_same_records_give_the_same_bytes_wherever_they_lie() {
    let pages: Vec<String> = (0..2)
        .map(|_| {
            let dir = tempfile::tempdir().unwrap();
            Sample { rows: 4, steps: 30, items: 30, ..Sample::default() }.write(dir.path());
            page_of(dir.path())
        })
        .collect();
    assert!(pages[0] == pages[1]);
}

#[test]
fn nothing_is_asked_of_the_network_and_only_known_scripts_run() {
    let dir = tempfile::tempdir().unwrap();
    Sample { rows: 2, steps: 5, items: 5, ..Sample::default() }.write(dir.path());
    let page = page_of(dir.path());
    let (_, policy) = page.split_once("Content-Security-Policy\" content=\"").unwrap();
    let policy = policy.split_once('"').unwrap().0;
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let bodies: Vec<&str> =
        page.split("<script>").skip(1).map(|rest| rest.split_once("</script>").unwrap().0).collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies.iter().all(|body| policy.contains(&digest(body))), "{policy}");
    for outside in [" src=\"http", "href=\"http", "url(http", "@import", "sourceMappingURL"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("Chart.js Contributors") && page.contains("Jukka Kurkela"));
}

#[test]
fn a_place_is_filled_once() {
    let values = [("a", "{{b}}"), ("b", "two")];
    assert_eq!(fill("<{{a}}|{{b}}|{{c}}> {", &values), "<{{b}}|two|> {");
}

#[test]
fn a_grid_of_2_400_runs_is_below_5_megabytes() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample { rows: 60, tasks: 8, seeds: 5, steps: 150, items: 0, hostile: None };
    sample.write(dir.path());
    let grid = Grid::new(None, Record::read_all(dir.path()).unwrap()).unwrap();
    let columns = Columns::new(&Options::default(), &grid).unwrap();
    let started = Instant::now();
    let page = page(&grid, &columns).unwrap();
    println!("{} bytes in {:?}", page.len(), started.elapsed());
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    assert!(data_of(&page)["thinned"].as_u64().unwrap() > 1);
}
