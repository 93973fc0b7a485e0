
// Scores against what they cost, with the Pareto front; and costs as bars.
page.plots = (() => {
  const { data, byId, isNumber, state } = page;
  const host = data.memory !== "GPU";
  // shapes differ as colours do, and are as heavy: [shape, degrees]
  const SHAPES = [["circle", 0], ["rect", 0], ["triangle", 0], ["rectRot", 0], ["triangle", 180], ["star", 0], ["triangle", 90], ["crossRot", 0]];

  // What a score is drawn against, or a bar shows. `less` says that less is better.
  const COSTS = {
    trained: { name: "trained parameters", less: true, log: true, of: (row) => row.trained, text: page.grouped },
    peak: { name: `peak memory ${host ? "allocated on the host" : "of the GPU"}, MiB`, less: true, of: (row, index) => mib(row.cells[index]?.peak ?? row.peak), text: (value) => `${page.fixed(value, 1)} MiB` },
    speed: { name: "tokens/s, padding not counted", less: false, of: (row) => row.tokens_per_second, text: (value) => `${page.grouped(value)} tokens/s` },
    step: { name: "seconds a step (median)", less: true, of: (row, index) => row.cells[index]?.step_seconds ?? row.step_seconds, text: (value) => `${page.significant(value)} s` },
  };
  const mib = (bytes) => (isNumber(bytes) ? bytes / 1048576 : null);

  // What stands on the other axis, for a task.
  const SCORES = {
    score: {
      name: "score", of: (cell) => cell.mean, deviation: (cell) => cell.deviation,
      less: (task) => !task.higher_is_better,
      title: (task) => `${page.unit(task)}, ${task.split} set (${task.higher_is_better ? "higher" : "lower"} is better)`,
    },
    loss: { name: "validation loss", of: (cell) => cell.loss, deviation: () => null, less: () => true, title: () => "validation loss (lower is better)" },
  };

  // Points that no other point beats on both axes.
  function front(points, lessX, lessY) {
    const better = (a, b, less) => (less ? a <= b : a >= b);
    const beats = (a, b) => better(a.x, b.x, lessX) && better(a.y, b.y, lessY) && (a.x !== b.x || a.y !== b.y);
    return points.filter((point) => !points.some((other) => beats(other, point))).sort((a, b) => a.x - b.x || a.y - b.y);
  }

  function scatter({ task, index }) {
    const [cost, score] = [COSTS[byId("score-x").value], SCORES[byId("score-y").value]];
    const log = byId("score-log").checked;
    const naming = byId("score-names").value;
    const points = state.visible.map((row) => ({
      row, x: cost.of(row, index), y: score.of(row.cells[index]), deviation: score.deviation(row.cells[index]),
    })).filter(({ x, y }) => isNumber(x) && isNumber(y) && (!log || x > 0));
    if (!points.length) return null;
    const best = front(points, cost.less, score.less(task));
    for (const point of points) {
      point.front = best.includes(point);
      point.named = naming === "all" || (naming === "front" && point.front);
    }
    const families = page.families.filter((family) => points.some(({ row }) => row.family === family));
    const datasets = families.map((family) => {
      const place = page.families.indexOf(family);
      const colour = page.familyColour(family);
      return {
        label: family, data: points.filter(({ row }) => row.family === family), spreads: true, pointStyle: SHAPES[place % SHAPES.length][0], pointRotation: SHAPES[place % SHAPES.length][1],
        backgroundColor: colour, borderColor: colour, borderWidth: 1.5, pointRadius: 6, pointHoverRadius: 9, pointHitRadius: 6,
      };
    });
    datasets.push({
      label: "Pareto front", type: "line", data: best.map(({ x, y }) => ({ x, y })), stepped: cost.less ? "before" : "after", borderColor: page.grey(), borderDash: [5, 4],
      borderWidth: 1.5, pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0, order: 10,
    });
    const label = ({ raw: { row, y, deviation } }) => [
      `${task.name}: ${page.number(y, page.digits(task, y))}${isNumber(deviation) ? ` ±${page.number(deviation, page.digits(task, y))}` : ""}`,
      `${page.grouped(row.trained)} trained, ${page.mebibytes(row.peak)} MiB`,
      `${page.grouped(row.tokens_per_second)} tokens/s`, row.family,
    ];
    const scale = log ? { type: "logarithmic", afterBuildTicks: page.charts.logTicks } : { grace: "6%" };
    const ticks = { callback: (value) => page.short(value) };
    // room for spreads, which Chart.js does not know of
    const [low, high] = [Math.min(...points.map((p) => p.y - (p.deviation ?? 0))), Math.max(...points.map((p) => p.y + (p.deviation ?? 0)))];
    const room = 0.06 * (high - low || Math.abs(high) || 1);
    const xs = points.map((point) => point.x);
    const bounds = log ? { min: Math.min(...xs) / 1.6, max: Math.max(...xs) * 1.6 } : {};
    return {
      caption: task.name,
      description: `${points.length} methods; on the Pareto front: ${best.map(({ row }) => row.label).join(", ")}`,
      config: {
        type: "scatter",
        data: { datasets },
        options: {
          onClick: (event, hit) => { if (hit.length) openHit(event.chart, hit[0]); },
          onHover: (event, hit) => { event.native.target.style.cursor = hit.length ? "pointer" : "default"; },
          scales: {
            x: page.charts.axis(cost.name + (log ? " (log scale)" : ""), { ...scale, ...bounds, ticks }),
            y: page.charts.axis(score.title(task), { suggestedMin: low - room, suggestedMax: high + room, ticks }),
          },
          plugins: {
            legend: { display: true, position: "bottom", labels: { usePointStyle: true, color: page.style("--text"), boxHeight: 8, filter: ({ datasetIndex }) => datasetIndex < families.length } },
            tooltip: { filter: ({ dataset }) => dataset.spreads, callbacks: { title: (items) => items.map(({ raw }) => raw.row.label).join(", "), label } },
          },
        },
      },
    };
  }

  function openHit(chart, { datasetIndex, index }) {
    const point = chart.data.datasets[datasetIndex].data[index];
    if (point.row) page.row.open(point.row);
  }

  function bars() {
    const name = byId("cost-x").value;
    const cost = COSTS[name];
    const index = state.task ?? -1;
    const rows = state.visible.filter((row) => isNumber(cost.of(row, index)));
    if (!rows.length) return null;
    // what lay there before training began is known of the host alone, and as a mean over tasks
    const split = name === "peak" && index < 0 && rows.some((row) => isNumber(row.before));
    const whole = rows.map((row) => cost.of(row, index));
    const before = rows.map((row, i) => (split ? Math.min(mib(row.before) ?? 0, whole[i]) : 0));
    const bar = (label, values, colour, more = {}) => ({ label, data: values, backgroundColor: colour, barPercentage: 0.85, categoryPercentage: 0.95, ...more });
    const datasets = split ? [bar("model and data before the first step", before, page.grey())] : [];
    datasets.push(bar(split ? "what training adds" : cost.name, whole.map((value, i) => value - before[i]), page.colour(0), {
      numbers: whole.map((value) => (name === "peak" ? page.fixed(value, 1) : cost.text(value).replace(/ .*$/, ""))),
    }));
    return {
      caption: cost.name + (index < 0 ? "" : `: ${data.tasks[index].name}`),
      description: `Bars of ${rows.length} methods; the same numbers are in the table.`,
      height: 22 * rows.length + 90,
      config: {
        type: "bar",
        data: { labels: rows.map((row) => row.label), datasets },
        options: {
          indexAxis: "y",
          layout: { padding: { right: 62 } },
          onClick: (event, hit) => { if (hit.length) page.row.open(rows[hit[0].index]); },
          interaction: { mode: "index", axis: "y", intersect: false },
          scales: {
            x: page.charts.axis(cost.name, { stacked: true, beginAtZero: true, ticks: { callback: (value) => page.short(value) } }),
            y: page.charts.axis("", { stacked: true, grid: { display: false }, ticks: { autoSkip: false, color: page.style("--text"), callback: (value) => shortened(rows[value].label) } }),
          },
          plugins: {
            legend: { display: split, position: "bottom", labels: { color: page.style("--text") } },
            tooltip: { callbacks: { label: ({ dataset, raw, dataIndex }) => `${split ? `${dataset.label}: ` : ""}${cost.text(split ? raw : whole[dataIndex])}` } },
          },
        },
      },
    };
  }

  const shortened = (label) => (label.length > 34 ? `${label.slice(0, 33)}…` : label);

  function draw() {
    page.charts.draw(byId("score-charts"), page.tasks().map(scatter).filter(Boolean));
    page.charts.draw(byId("cost-charts"), [bars()].filter(Boolean));
    const spread = byId("score-y").value === "score" && data.seeds > 1 ? "Lines: ± sample deviation over seeds. " : "";
    byId("score-hint").textContent = `${spread}Dashed: the Pareto front, which no drawn method beats on both axes. A point tells its name on hover and opens the method on a click.`;
    byId("cost-hint").textContent = "In the table's order."
      + (state.task === null && data.tasks.length > 1 ? " Over all tasks: memory is the mean, speed the median of all runs." : "");
  }

  function start() {
    const known = Object.entries(COSTS).filter(([, cost]) => data.rows.some((row) => isNumber(cost.of(row, -1))));
    page.options(byId("score-x"), known.map(([id, { name }]) => [id, name]));
    page.options(byId("cost-x"), known.map(([id, { name }]) => [id, name]));
    page.options(byId("score-y"), Object.entries(SCORES).map(([id, { name }]) => [id, name]));
    if (known.some(([id]) => id === "peak")) byId("cost-x").value = "peak";
    byId("score-log").checked = true;
    byId("score-x").addEventListener("change", () => { byId("score-log").checked = Boolean(COSTS[byId("score-x").value].log); draw(); });
    for (const id of ["score-y", "score-names", "score-log", "cost-x"]) byId(id).addEventListener("change", draw);
  }

  return { start, draw, front };
})();
