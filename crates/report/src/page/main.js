
// Filters, theme, print; and the beginning.
(() => {
  const { data, byId, element, state, families } = page;

  // Redraws all that depends on the filters and on the table's order.
  page.changed = () => {
    page.table.draw();
    page.plots.draw();
    page.curves.draw();
  };

  function filters() {
    page.options(byId("task"), [["", "all"], ...data.tasks.map((task, index) => [index, task.name])]);
    byId("task").closest("label").hidden = data.tasks.length < 2;
    byId("task").addEventListener("change", (event) => {
      state.task = event.target.value === "" ? null : Number(event.target.value);
      page.changed();
    });
    let waiting = null;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { state.text = event.target.value; page.changed(); }, 120);
    });
    byId("families").hidden = families.length < 2;
    boxes();
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("restore").addEventListener("click", () => {
      byId("filters").reset();
      Object.assign(state, { text: "", task: null, families: new Set(families) });
      page.table.reset();
      page.curves.choose();
      boxes();
      page.changed();
    });
  }

  function boxes() {
    const made = families.map((family) => {
      const box = element("input", { type: "checkbox", value: family, checked: state.families.has(family), onchange: () => {
        if (box.checked) state.families.add(family); else state.families.delete(family);
        page.changed();
      } });
      return element("label", {}, box, page.swatch(family), family);
    });
    byId("families").replaceChildren(byId("families").querySelector("legend"), ...made);
  }

  function setTheme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    byId("theme").setAttribute("aria-pressed", String(dark));
    boxes();
    page.changed();
    page.row.redraw();
  }

  function theme() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    document.documentElement.dataset.theme = system.matches ? "dark" : "light";
    byId("theme").setAttribute("aria-pressed", String(system.matches));
    system.addEventListener("change", () => setTheme(system.matches));
    byId("theme").addEventListener("click", () => setTheme(page.theme() === "light"));
    // paper is white, and as wide as it is: charts are drawn anew for it
    let before = null;
    addEventListener("beforeprint", () => {
      before = page.theme();
      if (before === "dark") setTheme(false);
      document.documentElement.classList.add("printing");
      for (const chart of page.charts.all()) chart.resize();
    });
    addEventListener("afterprint", () => {
      document.documentElement.classList.remove("printing");
      if (before === "dark") setTheme(true);
      before = null;
      for (const chart of page.charts.all()) chart.resize();
    });
  }

  function about() {
    const runs = data.runs.map((_, run) => run);
    const distinct = (name) => [...new Set(runs.map((run) => page.field(name, run)).filter((value) => value !== null))];
    const started = distinct("environment.started").filter((value) => value > 0);
    const day = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 10);
    const [first, last] = [Math.min(...started), Math.max(...started)];
    const lines = [
      `${data.runs.length} runs of ${data.rows.length} methods on ${data.tasks.length} ${data.tasks.length === 1 ? "task" : "tasks"}.`,
      started.length ? `Run ${day(first) === day(last) ? `on ${day(first)}` : `from ${day(first)} to ${day(last)}`} (UTC).` : null,
      `Program: ${distinct("environment.version").join(", ") || "unknown"}. Processor: ${distinct("environment.cpu").join(", ") || "unknown"}. System: ${distinct("environment.os").join(", ") || "unknown"}.`,
      "Measured numbers have six significant digits here; runs/*.json has all of them. Where the device's time went (profile_kernels) is in the records alone.",
      data.thinned > 1 ? `Training curves are thinned: a point is the mean of up to ${data.thinned} successive steps.` : "Training curves hold every step.",
      "Charts: Chart.js 4.6.1, MIT licence. This page is one file and asks the network for nothing.",
    ];
    byId("about").replaceChildren(...lines.filter(Boolean).map((line) => element("li", {}, line)));
  }

  try {
    for (const part of [page.table, page.plots, page.curves, page.row]) part.start();
    theme();
    filters();
    about();
    page.changed();
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    byId("broken").textContent = `This page could not be drawn (${error.message}). The same numbers are in table.md beside it.`;
    byId("broken").hidden = false;
    throw error;
  }
})();
