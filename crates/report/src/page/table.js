
// The table: sorted by a click on a header, filtered by text, family and task, with the columns that the reader wants.
page.table = (() => {
  const { data, byId, element, field, runsOfRow, isNumber, state } = page;
  const columns = [];
  const MARKS = { bold: "best", underlined: "second" };
  let sort = { column: null, descending: false };

  // A cell as the other tables have it: mean ± deviation over seeds (± standard error), * where it is tied with the best.
  function score(cell, task, row, index) {
    const parts = [];
    if (isNumber(cell.mean)) {
      const digits = page.digits(task, cell.mean);
      parts.push(element("span", { class: cell.best ? "best" : cell.second ? "second" : null }, page.number(cell.mean, digits)));
      let spread = isNumber(cell.deviation) ? ` ±${page.number(cell.deviation, digits)}` : "";
      if (isNumber(cell.standard_error)) spread += ` (±${page.number(cell.standard_error, digits)})`;
      parts.push(element("span", { class: "spread" }, spread));
      if (cell.tied) parts.push(" *");
    }
    if (isNumber(cell.mean) && cell.seeds < cell.planned) parts.push(` (${cell.seeds}/${cell.planned})`);
    if (cell.failure) {
      const [short, why] = cell.failure;
      if (parts.length) parts.push(" ");
      parts.push(element("button", { type: "button", class: "link failed", title: why, onclick: () => page.row.open(row, index) }, short));
    }
    return parts.length ? parts : ["–"];
  }

  const number = (id, title, hint, value, text, more = {}) =>
    ({ id, title, hint, value, cell: (row) => [text(value(row))], numeric: true, ...more });

  // A time, marked where it was measured under other conditions than most.
  const timed = (row, text) => (row.conditions && text !== "–" ? [element("span", { title: row.conditions }, `${text} †`)] : [text]);

  // Learning rates of a row, one for each task where they differ; ^ at the edge of what was tried.
  function rates(row) {
    const all = row.cells.map(({ rate, at_edge: edge }) => (isNumber(rate) ? rate.toExponential() + (edge ? "^" : "") : "–"));
    return all.every((rate) => rate === all[0]) ? all[0] ?? "–" : all.join("/");
  }

  function define() {
    const memory = data.memory === "GPU" ? "GPU MiB" : "peak MiB";
    columns.push(
      { id: "place", title: "#", hint: "the experiment's order", value: (row) => data.rows.indexOf(row), cell: (row) => [String(data.rows.indexOf(row) + 1)], numeric: true },
      { id: "label", title: "method", hint: "label in the experiment", value: (row) => row.label, cell: (row) => [name(row)], always: true },
      { id: "family", title: "family", hint: "family in Xu et al. 2023", value: (row) => row.family, cell: (row) => [row.family] },
      number("trained", "trained", "trained parameters when training ends, head included", (row) => row.trained, page.grouped),
      number("percent", "%", "trained parameters in percent of the base model's", (row) => row.percent, page.percent),
      { id: "rate", title: "rate", hint: "peak learning rate, a task each where they differ", value: (row) => row.cells[0]?.rate, cell: (row) => [rates(row)], numeric: true },
    );
    data.tasks.forEach((task, index) => columns.push({
      id: `task-${index}`, title: `${task.name} (${task.short}${task.split === "test" ? "" : ", validation"})`, hint: `${task.metric} on the ${task.split} set; ${task.higher_is_better ? "higher" : "lower"} is better`,
      value: (row) => row.cells[index]?.mean, cell: (row) => score(row.cells[index], task, row, index),
      numeric: true, task: index, bestFirst: task.higher_is_better,
    }));
    if (data.has_mean) columns.push(number("mean", "mean", "mean over tasks, in points", (row) => row.mean, (value) => page.fixed(value, 1), { bestFirst: true, overall: true }));
    data.tasks.forEach((task, index) => columns.push(
      number(`loss-${index}`, `${task.name}: loss`, "mean validation loss after training", (row) => row.cells[index]?.loss, (value) => page.fixed(value, 4), { group: "loss", task: index }),
    ));
    data.merges.forEach((into) => data.tasks.forEach((task, index) => columns.push(
      number(`merged-${into}-${index}`, `${task.name}: merged into ${into}`, "mean validation loss once merged", (row) => row.cells[index]?.merged.find(([name]) => name === into)?.[1], (value) => page.fixed(value, 4), { group: "merged", task: index }),
    )));
    columns.push(
      number("base", "base MiB", "the base model's weights at rest", (row) => row.base, page.mebibytes),
      number("before", "before MiB", "allocated when training begins", (row) => row.before, page.mebibytes),
      number("peak", memory, "peak memory while training", (row) => row.peak, page.mebibytes),
      number("speed", "tokens/s", "padding not counted", (row) => row.tokens_per_second, page.grouped, { bestFirst: true, cell: (row) => timed(row, page.grouped(row.tokens_per_second)) }),
      number("step", "s/step", "median of a step", (row) => row.step_seconds, page.significant, { cell: (row) => timed(row, page.significant(row.step_seconds)) }),
    );
  }

  // A task's own time and memory: of interest where tasks are one at several sizes.
  function defineByTask() {
    if (data.tasks.length < 2) return;
    data.tasks.forEach((task, index) => columns.push(
      number(`step-${index}`, `${task.name}: s/step`, "median of a step on this task", (row) => row.cells[index]?.step_seconds, page.significant, { group: "by-task", task: index }),
      number(`peak-${index}`, `${task.name}: peak MiB`, "peak memory while training on this task", (row) => row.cells[index]?.peak, page.mebibytes, { group: "by-task", task: index }),
    ));
  }

  function name(row) {
    return element("span", { class: "name" }, page.swatch(row.family),
      element("button", { type: "button", class: "link", "aria-haspopup": "dialog", title: row.family, onclick: () => page.row.open(row) }, row.label));
  }

  const shown = () => columns.filter((column) => column.shown
    && (state.task === null || (column.task === undefined ? !column.overall : column.task === state.task)));

  // What the search looks in: label, family, method, and the method's own settings.
  const texts = new Map();
  function textOf(row) {
    if (!texts.has(row)) {
      const run = runsOfRow(row)[0];
      const settings = run === undefined ? [] : Object.keys(data.fields).filter((key) => key.startsWith("settings.method."))
        .map((key) => [key.slice(16), field(key, run)]).filter(([, value]) => value !== null)
        .map(([key, value]) => `${key}=${JSON.stringify(value)}`);
      texts.set(row, [row.label, row.family, run === undefined ? "" : field("method", run), ...settings].join("\n").toLowerCase());
    }
    return texts.get(row);
  }

  function visible() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.rows.filter((row) => state.families.has(row.family) && words.every((word) => textOf(row).includes(word)));
    const column = columns.find(({ id }) => id === sort.column);
    if (!column) return rows;
    const sign = sort.descending ? -1 : 1;
    // what has no number stays last in both directions
    const compare = (a, b) => {
      const [x, y] = [column.value(a) ?? null, column.value(b) ?? null];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
    };
    return rows.map((row, place) => [row, place]).sort((a, b) => compare(a[0], b[0]) || a[1] - b[1]).map(([row]) => row);
  }

  function sortBy(column) {
    const first = Boolean(column.bestFirst);
    sort = { column: column.id, descending: sort.column === column.id ? !sort.descending : first };
    page.changed();
    // the header was made anew: whoever sorts by keyboard stays on it
    byId("rows").querySelector(`th[data-column="${CSS.escape(column.id)}"] button`)?.focus();
  }

  function header(column) {
    const direction = sort.column !== column.id ? null : sort.descending ? "descending" : "ascending";
    return element("th", { scope: "col", "data-column": column.id, "aria-sort": direction, class: [column.numeric ? "number" : "", column.id === "label" ? "label" : ""].join(" ").trim() || null },
      element("button", { type: "button", title: column.hint, onclick: () => sortBy(column) }, column.title));
  }

  function pick(row) {
    const tick = element("input", { type: "checkbox", "aria-label": `loss curves of ${row.label}`, onchange: (event) => {
      if (event.target.checked) state.chosen.add(row); else state.chosen.delete(row);
      page.curves.draw();
    } });
    tick.checked = state.chosen.has(row);
    return element("td", { class: "pick" }, tick);
  }

  function draw() {
    state.visible = visible();
    const now = shown();
    const table = byId("rows");
    table.tHead.replaceChildren(element("tr", {}, element("th", { class: "pick", scope: "col" }, element("span", { class: "unseen" }, "loss curves")), ...now.map(header)));
    table.tBodies[0].replaceChildren(...state.visible.map((row) => element("tr", {}, pick(row), ...now.map((column) => (
      column.id === "label"
        ? element("th", { scope: "row", class: "label" }, ...column.cell(row))
        : element("td", { class: column.numeric ? "number" : null }, ...column.cell(row))
    )))));
    if (!state.visible.length) {
      table.tBodies[0].append(element("tr", {}, element("td", { colspan: now.length + 1 }, "No method is left: change the search or the families.")));
    }
    byId("count").textContent = `${state.visible.length} of ${data.rows.length} methods`;
  }

  function chooser() {
    const boxes = columns.filter((column) => !column.always).map((column) => {
      const box = element("input", { type: "checkbox", onchange: (event) => { column.shown = event.target.checked; draw(); } });
      box.checked = column.shown;
      return element("label", { title: column.hint }, box, column.title);
    });
    byId("columns").querySelector("div").replaceChildren(...boxes);
  }

  function start() {
    define();
    defineByTask();
    const first = new Set(["label", ...data.columns, ...(data.by_task ? ["by-task"] : [])]);
    for (const column of columns) column.shown = first.has(column.group ?? column.id);
    chooser();
    // what is told of single rows begins with what stands in their cells
    const short = new Set(data.rows.flatMap((row) => row.cells).map((cell) => cell.failure?.[0]).filter(Boolean));
    const failed = (line) => [...short].some((word) => line.startsWith(`${word}:`));
    byId("legend").replaceChildren(...data.notes.map(([mark, text]) => element("li", { class: !mark && failed(text) ? "failed" : null },
      ...(mark ? [element("span", { class: MARKS[mark] ?? null }, mark), " "] : []), text)));
  }

  return { start, draw, reset: () => { sort = { column: null, descending: false }; } };
})();
