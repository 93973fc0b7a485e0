
// What lies behind a row: its runs, curves, settings with what sets them apart, warnings, checks, provenance.
page.row = (() => {
  const { data, byId, element, field, runsOf, runsOfRow, isNumber } = page;
  let current = null;

  // The fields of a record that tell where its numbers come from; settings and measurements have parts of their own.
  const PROVENANCE = /^(identity|environment|inputs|model|measured\.(weights_digest|losses_digest)|task\.digest)(\.|$)/;
  const SPLITS = /^task\.splits\./;
  const SETTINGS = /^settings\./;
  const CHECKS = /^measured\.checks\./;
  const fieldsOf = (pattern) => Object.keys(data.fields).filter((name) => pattern.test(name));

  const instant = (seconds) => new Date(1000 * seconds).toISOString().replace("T", " ").slice(0, 16);
  const text = (name, value) => {
    if (value === null || value === undefined) return "–";
    if (name === "environment.started" && isNumber(value)) return `${instant(value)} UTC`;
    return typeof value === "string" ? value : JSON.stringify(value);
  };
  const runName = (run) => `${data.tasks[data.runs[run].task].name}, seed ${field("seed", run)}`;

  function table(headers, rows, kind = "") {
    return element("div", { class: `scroll ${kind}`, tabindex: "0" }, element("table", {},
      element("thead", {}, element("tr", {}, ...headers.map(({ title, numeric }) => element("th", { scope: "col", class: numeric ? "number" : null }, title)))),
      element("tbody", {}, ...rows)));
  }

  const cells = (headers, values) => values.map((value, i) => element("td", { class: headers[i].numeric ? "number" : null }, value));

  function outcome(run) {
    const status = field("status", run);
    if (status !== "done") return [status, field("message", run)];
    if (field("measured.training.validation_loss_after", run) === null) return ["diverged", "the validation loss is no finite number"];
    return [status, ""];
  }

  function runsTable(row) {
    const headers = [
      { title: "task" }, { title: "seed", numeric: true }, { title: "status" }, { title: "score", numeric: true }, { title: "train loss", numeric: true },
      { title: "val loss", numeric: true }, { title: "steps", numeric: true }, { title: "kept", numeric: true }, { title: "rate", numeric: true },
      { title: "train s", numeric: true }, { title: "s/step", numeric: true }, { title: "peak MiB", numeric: true }, { title: "started (UTC)" }, { title: "record" },
    ];
    const rows = runsOfRow(row).map((run) => {
      const { task: index, score, file } = data.runs[run];
      const task = data.tasks[index];
      const measured = (name) => field(`measured.${name}`, run);
      const [status] = outcome(run);
      const started = field("environment.started", run);
      const planned = measured("training.planned_steps");
      const steps = measured("training.steps");
      return element("tr", {}, ...cells(headers, [
        task.name, String(field("seed", run)), element("span", { class: status === "done" ? null : "failed" }, status),
        isNumber(score) ? page.number(score, page.digits(task, score)) : "–",
        page.fixed(measured("training.final_loss"), 4), page.fixed(measured("training.validation_loss_after"), 4),
        isNumber(steps) ? page.grouped(steps) + (planned !== steps ? ` of ${page.grouped(planned)}` : "") : "–",
        isNumber(measured("training.best_step")) ? page.grouped(measured("training.best_step")) : "–",
        page.significant(measured("training.learning_rate") ?? field("settings.training.learning_rate", run)), page.fixed(measured("time.train"), 1), page.significant(measured("time.step.median")),
        page.mebibytes(measured("memory.device_process_peak") ?? measured("memory.host_allocated_peak")), isNumber(started) && started > 0 ? instant(started) : "–", element("code", {}, file ?? "–"),
      ]));
    });
    return table(headers, rows, "runs");
  }

  function messages(row) {
    const told = runsOfRow(row).map((run) => [run, ...outcome(run)]).filter(([, status]) => status !== "done");
    if (!told.length) return null;
    return element("section", {}, element("h3", {}, "What failed"), element("ul", {},
      ...told.map(([run, status, why]) => element("li", {}, element("span", { class: "failed" }, `${status}: ${runName(run)}: `), why || "no message"))));
  }

  function warnings(row) {
    const runs = runsOfRow(row);
    const by = new Map();
    for (const run of runs) for (const warning of data.runs[run].warnings) by.set(warning, [...(by.get(warning) ?? []), run]);
    if (!by.size) return [element("p", { class: "hint" }, "No run of this row warned of anything.")];
    return [element("ul", {}, ...[...by].map(([warning, which]) => element("li", {}, data.warnings[warning],
      element("span", { class: "spread" }, which.length === runs.length ? "" : ` (${which.map(runName).join("; ")})`))))];
  }

  // What a field says in some runs: [value, runs] for each value. Compared as JSON: lists are values, too.
  function values(name, runs) {
    const by = new Map();
    for (const run of runs) {
      const value = field(name, run);
      const key = JSON.stringify(value);
      by.set(key, { value, runs: [...(by.get(key)?.runs ?? []), run] });
    }
    return [...by.values()];
  }

  // What the runs of a row say of a field, and of which runs it holds where they do not agree.
  function said(name, runs) {
    const all = values(name, runs);
    if (all.length === 1) return [element("code", {}, text(name, all[0].value))];
    return all.map(({ value, runs: which }) => element("div", {}, element("code", {}, text(name, value)), element("span", { class: "spread" }, ` ${where(which, runs)}`)));
  }

  // Runs in words: tasks where all seeds agree, else one by one.
  function where(which, runs) {
    const tasks = [...new Set(which.map((run) => data.runs[run].task))];
    const whole = tasks.every((task) => runs.filter((run) => data.runs[run].task === task).every((run) => which.includes(run)));
    return whole ? tasks.map((task) => data.tasks[task].name).join(", ") : which.map(runName).join("; ");
  }

  // Settings whose values are not those of the other rows on the same tasks.
  function apart(row) {
    const runs = runsOfRow(row);
    const others = data.rows.filter((other) => other !== row);
    const found = [];
    for (const name of fieldsOf(SETTINGS)) {
      if (data.fields[name].of.length === 1 && !data.fields[name].at) continue;
      const counts = new Map();
      let differs = false;
      row.cells.forEach((cell, index) => {
        const mine = new Set(runsOf(cell).map((run) => JSON.stringify(field(name, run))));
        for (const other of others) {
          const run = other.cells[index]?.runs[0];
          if (run === undefined || other.cells[index].runs[1] === run) continue;
          const theirs = field(name, run);
          if (!mine.has(JSON.stringify(theirs))) {
            differs = true;
            const key = text(name, theirs);
            counts.set(key, new Set([...(counts.get(key) ?? []), other]));
          }
        }
      });
      if (differs) found.push({ name, mine: said(name, runs), counts });
    }
    return found;
  }

  function settings(row) {
    const headers = [{ title: "setting" }, { title: "this row" }, { title: "other rows" }];
    const different = apart(row);
    // a setting of the method that other methods do not have is no difference that one looks for among many
    const own = different.filter(({ counts }) => [...counts.keys()].some((key) => key !== "–"));
    const alone = different.filter(({ counts }) => [...counts.keys()].every((key) => key === "–"));
    const others = (counts) => [...counts].filter(([key]) => key !== "–").sort((a, b) => b[1].size - a[1].size).slice(0, 4)
      .map(([key, rows]) => element("div", {}, element("code", {}, key), element("span", { class: "spread" }, ` ${rows.size === 1 ? [...rows][0].label : `${rows.size} rows`}`)));
    const line = ({ name, mine, counts }) => element("tr", {}, element("td", {}, element("code", {}, name.slice(9))), element("td", {}, ...mine), element("td", {}, ...(counts ? others(counts) : [])));
    const notSet = ({ mine }) => mine.length > 1 || mine[0].textContent !== "–";
    const apartRows = [...own.filter(notSet), ...alone].map(line);
    const names = new Set(different.map(({ name }) => name));
    const all = fieldsOf(SETTINGS).map((name) => ({ name, mine: said(name, runsOfRow(row)) })).filter(notSet);
    return [
      apartRows.length ? table(headers, apartRows) : element("p", { class: "hint" }, "Settings are those of every other row."),
      details(`All ${all.length} settings`, () => table(headers.slice(0, 2), all.map(({ name, mine }) => element("tr", { class: names.has(name) ? "differs" : null },
        element("td", {}, element("code", {}, name.slice(9))), element("td", {}, ...mine)))), "Marked: not as in every other row."),
    ];
  }

  // A part that is made when it is opened: many rows have many of them.
  function details(title, make, hint) {
    const part = element("details", { ontoggle: () => {
      if (part.open && part.children.length === 1) part.append(...(hint ? [element("p", { class: "hint" }, hint)] : []), make());
    } }, element("summary", {}, title));
    return part;
  }

  function fieldsTable(row, pattern, cut) {
    const names = fieldsOf(pattern);
    const headers = [{ title: "field" }, { title: "value" }];
    const lines = names.map((name) => ({ name, mine: said(name, runsOfRow(row)) })).filter(({ mine }) => mine.length > 1 || mine[0].textContent !== "–");
    return table(headers, lines.map(({ name, mine }) => element("tr", {}, element("td", {}, element("code", {}, name.replace(cut, ""))), element("td", {}, ...mine))));
  }

  // Curves of each run, one panel a task: seeds apart, since their mean is on the page itself.
  function curves(row) {
    const into = byId("row-curves");
    const panels = row.cells.map((cell, index) => {
      const runs = runsOf(cell);
      const sets = runs.flatMap((run, place) => {
        const [colour, dash] = page.curves.look(place);
        const seed = `seed ${field("seed", run)}`;
        const training = page.curves.together([data.runs[run].training]);
        const validation = page.curves.together([data.runs[run].validation]);
        return [
          ...(training.length ? page.curves.line(seed, training, colour, { dash, band: false }) : []),
          ...(validation.length ? page.curves.line(`${seed}, validation`, validation, colour, { dash: [2, 3], points: 2.5, band: false }) : []),
        ];
      });
      if (!sets.length) return null;
      return {
        caption: `${data.tasks[index].name}: loss`, description: `Loss by step of ${row.label}, each seed`, config: page.curves.config(sets, false), height: 240,
        key: element("div", { class: "key" }, ...runs.map((run, place) => page.charts.keyEntry(...page.curves.look(place), `seed ${field("seed", run)}`))),
      };
    }).filter(Boolean);
    page.charts.draw(into, panels);
    if (!panels.length) into.replaceChildren(element("p", { class: "hint" }, "No steps.csv lies beside these records."));
  }

  function checks(row) {
    return fieldsTable(row, CHECKS, "measured.checks.");
  }

  // Opens a row; `index` is the task that the reader came from.
  function open(row, index) {
    current = row;
    const dialog = byId("row");
    const runs = runsOfRow(row);
    byId("row-title").replaceChildren(page.swatch(row.family), row.label);
    const methods = values("method", runs).map(({ value }) => value).join(", ");
    byId("row-body").replaceChildren(
      element("p", { class: "hint" }, `${methods}, ${row.family}; ${page.grouped(row.trained)} trained parameters (${page.percent(row.percent)} %)`),
      ...[messages(row)].filter(Boolean),
      element("h3", {}, "Runs"), runsTable(row),
      element("h3", {}, "Curves"), element("div", { id: "row-curves", class: "charts" }),
      element("h3", {}, "Settings that set it apart"), ...settings(row),
      element("h3", {}, "Warnings"), ...warnings(row),
      element("h3", {}, "Checks"), checks(row),
      element("h3", {}, "Provenance"),
      details("Model, environment, digests, identity and what it is made of", () => fieldsTable(row, PROVENANCE, "")),
      details("Data", () => fieldsTable(row, SPLITS, "task.splits.")),
      details("All that was measured", () => fieldsTable(row, /^(measured|parameters)\./, "")),
    );
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    curves(row);
    if (index !== undefined) dialog.querySelector(".failed")?.scrollIntoView({ block: "center" });
  }

  function step(by) {
    const rows = page.state.visible;
    if (rows.length) open(rows[(rows.indexOf(current) + by + rows.length) % rows.length]);
  }

  function start() {
    const dialog = byId("row");
    byId("row-close").addEventListener("click", () => dialog.close());
    byId("row-before").addEventListener("click", () => step(-1));
    byId("row-after").addEventListener("click", () => step(1));
    // a click beside it closes it, too
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      page.charts.discard(byId("row-curves"));
      byId("row-body").replaceChildren();
      current = null;
    });
  }

  return { start, open, redraw: () => { if (current) open(current); } };
})();
