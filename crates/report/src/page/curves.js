
// Loss curves: training solid, validation dashed, the mean over seeds with a band from the lowest seed to the highest.
page.curves = (() => {
  const { data, byId, element, runsOf, isNumber, state } = page;

  // The curves of some runs, put together by step: mean, lowest and highest where a run has a number.
  function together(curves) {
    const steps = new Map();
    for (const { axis, loss } of curves) {
      data.axes[axis].forEach((step, i) => {
        if (!steps.has(step)) steps.set(step, []);
        if (isNumber(loss[i])) steps.get(step).push(loss[i]);
      });
    }
    return [...steps].sort((a, b) => a[0] - b[0]).map(([step, values]) => (values.length
      ? { x: step, y: values.reduce((sum, value) => sum + value, 0) / values.length, low: Math.min(...values), high: Math.max(...values) }
      : { x: step, y: null, low: null, high: null }));
  }

  // A running mean over `width` points, where all of them are there. A window that is cut off or shrinks towards the ends
  // would bend the line to the noise of its last points, which looks like a plunge.
  function smooth(points, width) {
    const mean = (name, from, to) => {
      const values = points.slice(from, to + 1).map((point) => point[name]).filter(isNumber);
      return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
    };
    const half = Math.floor(width / 2);
    if (points.length < 2 * width) return points;
    return points.slice(half, points.length - half).map((point, i) => (point.y === null ? point
      : { x: point.x, ...Object.fromEntries(["y", "low", "high"].map((name) => [name, mean(name, i, i + 2 * half)])) }));
  }

  // Chart.js's datasets of one line with its band.
  function line(name, points, colour, { dash = [], points: radius = 0, band = true } = {}) {
    const shared = { borderWidth: 0, pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0, band: true };
    const edge = (which) => points.map((point) => ({ x: point.x, y: point[which] }));
    const sets = band ? [
      { ...shared, data: edge("low") },
      { ...shared, data: edge("high"), fill: "-1", backgroundColor: `${colour}30` },
    ] : [];
    sets.push({ name, data: points, borderColor: colour, backgroundColor: colour, borderDash: dash, borderWidth: 2, pointRadius: points.length === 1 ? 4 : radius, pointHitRadius: 4, pointHoverRadius: 5 });
    return sets;
  }

  // A chart's configuration for such datasets.
  function config(datasets, log) {
    const label = ({ dataset, raw }) => {
      const band = isNumber(raw.low) && raw.low !== raw.high ? ` (${page.significant(raw.low)} to ${page.significant(raw.high)})` : "";
      return `${dataset.name}: ${page.significant(raw.y)}${band}`;
    };
    return {
      type: "line",
      data: { datasets },
      options: {
        parsing: false,
        interaction: { mode: "nearest", axis: "xy", intersect: false },
        scales: {
          x: page.charts.axis("step", { type: "linear", ticks: { precision: 0, callback: (value) => page.short(value) } }),
          y: page.charts.axis(`loss${log ? " (log scale)" : ""}`, log ? { type: "logarithmic", afterBuildTicks: page.charts.logTicks, ticks: { callback: (value) => page.short(value) } } : {}),
        },
        plugins: {
          tooltip: { filter: ({ dataset }) => !dataset.band, callbacks: { title: (items) => (items.length ? `step ${page.significant(items[0].raw.x)}` : ""), label } },
        },
      },
    };
  }

  // The lines of a row on a task.
  function lines(row, index, colour, dash) {
    const split = byId("loss-split").value;
    const runs = runsOf(row.cells[index]).map((run) => data.runs[run]);
    const sets = [];
    if (split !== "validation") {
      const points = smooth(together(runs.map((run) => run.training)), Number(byId("loss-smooth").value));
      if (points.length) sets.push(...line(row.label, points, colour, { dash, band: runs.length > 1 }));
    }
    if (split !== "training") {
      const points = together(runs.map((run) => run.validation));
      if (points.length) sets.push(...line(`${row.label}, validation`, points, colour, { dash: split === "both" ? [2, 3] : dash, points: 2.5, band: runs.length > 1 }));
    }
    return sets;
  }

  // Eight colours, then the same again with dashes.
  const DASHES = [[], [8, 3], [3, 2], [10, 3, 2, 3]];
  const look = (place) => [page.colour(place), DASHES[Math.floor(place / 8) % DASHES.length]];

  function panel(caption, rows, index) {
    const sets = rows.map((row, place) => ({ row, place, sets: lines(row, index, ...look(place)) })).filter(({ sets }) => sets.length);
    if (!sets.length) return null;
    const key = element("div", { class: "key" }, ...sets.map(({ row, place }) => page.charts.keyEntry(...look(place), row.label)));
    return {
      caption,
      description: `Loss by step of ${sets.map(({ row }) => row.label).join(", ")}`,
      config: config(sets.flatMap((one) => one.sets), byId("loss-log").checked),
      key,
    };
  }

  function draw() {
    const byFamily = byId("loss-rows").value === "families";
    const panels = page.tasks().flatMap(({ task, index }) => {
      if (!byFamily) return [panel(task.name, state.visible.filter((row) => state.chosen.has(row)), index)];
      return page.families.map((family) => panel(`${task.name}: ${family}`, state.visible.filter((row) => row.family === family), index));
    }).filter(Boolean);
    if (byFamily) alike(panels);
    page.charts.draw(byId("loss-charts"), panels);
    const seeds = data.seeds > 1 ? " Lines are means over seeds, bands reach from the lowest seed to the highest." : "";
    const split = byId("loss-split").value;
    const dots = { both: "Solid: training; dotted, with points: validation.", training: "Training loss.", validation: "Validation loss." }[split];
    const looks = split !== "training" && !data.runs.some((run) => run.validation.loss.length)
      ? " No run looked at the validation set while training (evaluate_every)." : "";
    const thinned = data.thinned > 1 && split !== "validation" ? ` A point is the mean of up to ${data.thinned} steps; runs/*.steps.csv has each.` : "";
    const smoothed = Number(byId("loss-smooth").value) > 1 && split !== "validation" ? " Smoothed lines begin and end half a window inside, where the window is whole." : "";
    byId("loss-hint").textContent = dots + looks + seeds + smoothed + thinned;
  }

  // The same heights in all panels of small multiples: only so can they be compared.
  function alike(panels) {
    const values = panels.flatMap(({ config: { data: { datasets } } }) => datasets.flatMap((set) => set.data.map(({ y }) => y).filter(isNumber)));
    if (!values.length) return;
    const [min, max] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    for (const { config: { options } } of panels) Object.assign(options.scales.y, { suggestedMin: min, suggestedMax: max });
  }

  // The rows whose curves are drawn at first: few enough to be told apart, and those that did best.
  function choose() {
    const task = data.tasks[0];
    const sign = task?.higher_is_better ? -1 : 1;
    const scored = data.rows.filter((row) => isNumber(row.cells[0]?.mean)).sort((a, b) => sign * (a.cells[0].mean - b.cells[0].mean));
    state.chosen = new Set(scored.slice(0, 5));
  }

  function start() {
    const most = Math.max(0, ...data.runs.map((run) => run.training.loss.length));
    const widths = [1, 5, 11, 21].filter((width) => width === 1 || width < most / 4);
    page.options(byId("loss-smooth"), widths.map((width) => [width, width === 1 ? "nothing" : `${width} points`]));
    if (widths.includes(5)) byId("loss-smooth").value = "5";
    for (const id of ["loss-split", "loss-rows", "loss-smooth", "loss-log"]) byId(id).addEventListener("change", draw);
    choose();
  }

  return { start, draw, choose, together, smooth, line, config, look };
})();
