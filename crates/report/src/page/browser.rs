//! The page in a real browser: Chromium, driven by its DevTools protocol through a pipe, for which nothing more than JSON
//! is needed. Where no Chromium is found (`CHROMIUM`, or `chromium` and its like on the path) the test says so and passes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::sample::Sample;
use super::tests::HOSTILE;

const PATIENCE: Duration = Duration::from_secs(60);

fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(named.into());
    }
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// A browser with one tab, which ends with it.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// What happened on the page meanwhile: exceptions, messages, requests.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    fn new(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from descriptor 3 and answers on 4
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .arg(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--remote-debugging-pipe", "--hide-scrollbars", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), messages(child.stdout.take().unwrap()));
        let mut browser =
            Self { child, to, from, session: None, calls: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.from.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if answer["id"] != self.calls {
                self.events.push(answer);
            } else {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    fn wait(&mut self, expression: &str) {
        let started = Instant::now();
        while self.value(expression) != true {
            assert!(started.elapsed() < PATIENCE, "never: {expression}; {:#?}", self.troubles());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn open(&mut self, page: &Path, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        self.call("Page.navigate", json!({ "url": format!("file://{}", page.display()) }));
        self.wait("document.documentElement?.dataset.ready === 'yes'");
    }

    /// Where the middle of an element is on the screen, once it is scrolled there. Nothing may lie above it.
    fn place(&mut self, element: &str) -> (f64, f64) {
        let middle = self.value(&format!(
            "(() => {{ const e = {element}; e.scrollIntoView({{ block: 'center', inline: 'center' }});
             const b = e.getBoundingClientRect(); const [x, y] = [b.x + b.width / 2, b.y + b.height / 2];
             const hit = document.elementFromPoint(x, y); return [x, y, e.contains(hit), String(hit?.outerHTML)]; }})()"
        ));
        assert!(middle[2] == true, "{element} is covered at {middle}");
        (middle[0].as_f64().unwrap(), middle[1].as_f64().unwrap())
    }

    fn mouse(&mut self, kind: &str, (x, y): (f64, f64)) {
        let button = if kind == "mouseMoved" { "none" } else { "left" };
        let event = json!({ "type": kind, "x": x, "y": y, "button": button, "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", event);
    }

    fn click(&mut self, element: &str) {
        let place = self.place(element);
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            self.mouse(kind, place);
        }
    }

    fn key(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Exceptions, messages on the console, and requests for anything but the page itself.
    fn troubles(&self) -> Vec<&Value> {
        let is_trouble = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded") => true,
            Some("Network.requestWillBeSent") => {
                let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
                !(url.starts_with("file:///") && url.ends_with("report.html") || url.starts_with("data:"))
            }
            Some("Page.javascriptDialogOpening") => true,
            _ => false,
        };
        self.events.iter().filter(is_trouble).collect()
    }
}

/// Messages as they come: each ends with a zero byte.
fn messages(from: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for message in BufReader::new(from).split(0) {
            let Ok(message) = message else { return };
            let Ok(message) = serde_json::from_slice(&message) else { return };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Labels of the table's rows, from the top.
const LABELS: &str = "[...document.querySelectorAll('#rows tbody th .link')].map((e) => e.textContent)";

fn labels(browser: &mut Browser) -> Vec<String> {
    serde_json::from_value(browser.value(LABELS)).unwrap()
}

/// Whether every canvas has more colours than an empty one. They are looked at in copies: to read a canvas itself changes
/// how the browser draws it.
const DRAWN: &str = "[...document.querySelectorAll('canvas')].every((canvas) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const pixels = new Uint32Array(copy.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return new Set(pixels).size > 8;
})";

#[test]
fn the_page_works_in_chromium() {
    let Some(program) = chromium() else {
        println!("skipped: no chromium on the path; install it or name it in CHROMIUM");
        return;
    };
    // kept where one wants to look at the page
    let dir = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("PAGE_SAMPLE").map_or(dir.path().to_owned(), PathBuf::from);
    Sample { hostile: Some(HOSTILE), ..Sample::default() }.write(&dir);
    crate::report(&dir, &crate::Options::default()).unwrap();
    let mut browser = Browser::new(&program);
    browser.open(&dir.join("report.html"), 1280, 900);
    sorts(&mut browser);
    filters(&mut browser);
    charts(&mut browser);
    rows(&mut browser);
    looks(&mut browser, &dir);
    assert!(browser.troubles().is_empty(), "{:#?}", browser.troubles());
}

fn sorts(browser: &mut Browser) {
    let all = labels(browser);
    assert_eq!((all.len(), all[0].as_str(), all[25].as_str()), (26, "full", HOSTILE));
    let header = |id: &str| format!("document.querySelector('th[data-column=\"{id}\"] button')");
    browser.click(&header("trained"));
    assert_eq!([&labels(browser)[0], &labels(browser)[25]], ["head", "full"]);
    let sorted = "document.querySelector('th[data-column=trained]').getAttribute('aria-sort')";
    assert_eq!(browser.value(sorted), "ascending");
    // the header keeps the focus: by keyboard, the other way round
    browser.key("Enter", 13);
    assert_eq!(browser.value(sorted), "descending");
    assert_eq!([&labels(browser)[0], &labels(browser)[25]], ["full", "head"]);
    // a score: the best first, and what has none last in both directions
    for _ in 0..2 {
        browser.click(&header("task-1"));
        assert_eq!(labels(browser)[25], "lst");
        let order = "page.state.visible.slice(0, 25).map((row) => row.cells[1].mean)";
        let means: Vec<f64> = serde_json::from_value(browser.value(order)).unwrap();
        assert!(means.is_sorted() || means.iter().rev().is_sorted(), "{means:?}");
    }
}

fn filters(browser: &mut Browser) {
    browser.click("document.getElementById('search')");
    browser.call("Input.insertText", json!({ "text": "LoRA rank=64" }));
    browser.wait("page.state.visible.length === 2");
    let mut left = labels(browser);
    left.sort();
    assert_eq!(left, ["lora r=64", "rslora r=64"]);
    assert_eq!(browser.value("document.getElementById('count').textContent"), "2 of 26 methods");
    browser.click("document.getElementById('restore')");
    browser.click("document.querySelector('#families input[value=additive]')");
    assert_eq!(labels(browser).len(), 19);
    browser.click("document.getElementById('restore')");
    assert_eq!(labels(browser).len(), 26);
    // one task: its columns and its charts alone
    browser.value(
        "{ const s = document.getElementById('task'); s.value = '1'; s.dispatchEvent(new Event('change')); }",
    );
    assert_eq!(browser.value("document.querySelectorAll('th[data-column^=task-]').length"), 1);
    assert_eq!(browser.value("document.querySelectorAll('#score-charts canvas').length"), 1);
    browser.click("document.getElementById('restore')");
    // a column that was not shown
    browser.click("document.querySelector('#columns summary')");
    browser.click("[...document.querySelectorAll('#columns label')].find((l) => l.textContent === 's/step')");
    assert_eq!(browser.value("document.querySelectorAll('th[data-column=step]').length"), 1);
    browser.click("document.querySelector('#columns summary')");
}

fn charts(browser: &mut Browser) {
    // scores and losses of two tasks, and the bars
    assert_eq!(browser.value("document.querySelectorAll('main canvas').length"), 5);
    assert_eq!(browser.value(DRAWN), true);
    // a name on hover, and the row on a click
    let point = "(() => { const chart = Chart.getChart(document.querySelector('#score-charts canvas'));
        chart.canvas.scrollIntoView({ block: 'center' });
        const set = chart.data.datasets.findIndex((d) => d.label === 'full');
        const at = chart.getDatasetMeta(set).data[0];
        const box = chart.canvas.getBoundingClientRect();
        return [box.x + at.x, box.y + at.y]; })()";
    let place = browser.value(point);
    let place = (place[0].as_f64().unwrap(), place[1].as_f64().unwrap());
    browser.mouse("mouseMoved", place);
    browser
        .wait("Chart.getChart(document.querySelector('#score-charts canvas')).tooltip.title?.[0] === 'full'");
    browser.mouse("mousePressed", place);
    browser.mouse("mouseReleased", place);
    browser.wait("document.getElementById('row').open");
    assert_eq!(browser.value("document.getElementById('row-title').textContent"), "full");
    browser.key("Escape", 27);
    browser.wait("!document.getElementById('row').open");
    // nothing beats a point of the front
    let beaten = "Chart.getChart(document.querySelector('#score-charts canvas')).data.datasets
        .flatMap((d) => d.data).filter((p) => p.front).some((p) => page.state.visible.some((row) =>
        row.trained < p.x && row.cells[0].mean > p.y))";
    assert_eq!(browser.value(beaten), false);
    // every choice can be drawn
    let every = "for (const id of ['score-x', 'score-y', 'score-names', 'cost-x', 'loss-split', 'loss-rows', 'loss-smooth']) {
        const select = document.getElementById(id);
        for (const option of select.options) { select.value = option.value; select.dispatchEvent(new Event('change')); }
    }";
    browser.value(every);
    let panels = "document.querySelectorAll('#loss-charts canvas').length";
    assert_eq!(browser.value(panels), 10);
    assert_eq!(browser.value(DRAWN), true);
}

fn rows(browser: &mut Browser) {
    let named = |label: &str| {
        format!(
            "[...document.querySelectorAll('#rows tbody th .link')].find((e) => e.textContent === {})",
            json!(label)
        )
    };
    browser.click(&named("lora r=8 q,k,v,o"));
    browser.wait("document.getElementById('row').open");
    let text = "document.getElementById('row-body').innerText";
    let said = browser.value(text);
    let said = said.as_str().unwrap();
    for part in [
        "14-0-seed2.json",
        "method.target_modules",
        "[\"query\",\"key\",\"value\",\"output\"]",
        "drawn anew",
        "frozen_unchanged",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(browser.value("document.querySelectorAll('#row-curves canvas').length"), 2);
    assert_eq!(browser.value(DRAWN), true);
    browser.value("for (const part of document.querySelectorAll('#row details')) part.open = true;");
    browser.wait(&format!("['identity', 'environment.program', 'inputs.harness', 'train.tokens', 'memory.host_allocated_peak'].every((name) => {text}.includes(name))"));
    browser.click("document.getElementById('row-close')");
    // a failure is a button that leads to its reason
    browser.click("document.querySelector('#rows td .failed')");
    browser.wait("document.getElementById('row').open");
    assert!(browser.value(text).as_str().unwrap().contains("lower learning_rate"));
    browser.click("document.getElementById('row-close')");
    // what would be HTML is text, in the table and behind it
    browser.click(&named(HOSTILE));
    browser.wait("document.getElementById('row').open");
    assert_eq!(browser.value("document.getElementById('row-title').textContent"), HOSTILE);
    assert_eq!(browser.value("document.querySelectorAll('img, b').length"), 0);
    browser.key("Escape", 27);
}

fn looks(browser: &mut Browser, dir: &Path) {
    // nothing is wider than the screen, on a desk or in a hand, bright or dark; and it prints
    for (width, height) in [(1280, 900), (390, 844)] {
        browser.open(&dir.join("report.html"), width, height);
        let wide = browser.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= u64::from(width), "{wide} at {width}");
        browser.click("document.getElementById('theme')");
        assert_eq!(browser.value("document.documentElement.dataset.theme"), "dark");
        assert_eq!(browser.value(DRAWN), true);
    }
    let printed = browser.call("Page.printToPDF", json!({ "preferCSSPageSize": true }));
    assert!(printed["data"].as_str().unwrap().len() > 10_000);
    assert_eq!(browser.value("document.documentElement.dataset.theme"), "dark");
}
