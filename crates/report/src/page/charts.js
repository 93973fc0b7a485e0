
// What all charts share: their making and unmaking, colours of the theme, and what Chart.js does not draw itself:
// spreads, names beside points, numbers beside bars.
page.charts = (() => {
  const { element, style } = page;
  const made = new Map();

  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;
  Chart.defaults.plugins.legend.display = false;
  Chart.defaults.font.family = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  Chart.defaults.devicePixelRatio = Math.max(2, window.devicePixelRatio || 1); // sharp on paper

  // Vertical lines of one deviation up and down, and the points' names, where they do not hide each other.
  const spreads = {
    id: "spreads",
    beforeDatasetsDraw(chart) {
      const { ctx, scales: { y }, chartArea: area } = chart;
      chart.data.datasets.forEach((dataset, index) => {
        if (!dataset.spreads) return;
        ctx.save();
        ctx.beginPath();
        ctx.rect(area.left, area.top, area.width, area.height);
        ctx.clip();
        ctx.strokeStyle = dataset.borderColor;
        ctx.globalAlpha = 0.55;
        chart.getDatasetMeta(index).data.forEach((point, i) => {
          const { y: value, deviation } = dataset.data[i];
          if (!deviation) return;
          ctx.beginPath();
          ctx.moveTo(point.x, y.getPixelForValue(value - deviation));
          ctx.lineTo(point.x, y.getPixelForValue(value + deviation));
          ctx.stroke();
        });
        ctx.restore();
      });
    },
  };

  const overlaps = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

  const names = {
    id: "names",
    afterDatasetsDraw(chart) {
      const { ctx, chartArea: area } = chart;
      const points = chart.data.datasets.flatMap((dataset, index) => (dataset.spreads ? chart.getDatasetMeta(index).data.map((point, i) => ({ point, datum: dataset.data[i] })) : []));
      const taken = points.map(({ point }) => ({ x: point.x - 6, y: point.y - 6, w: 12, h: 12 }));
      ctx.save();
      ctx.font = `12px ${Chart.defaults.font.family}`;
      ctx.textBaseline = "middle";
      // names on the front come first: they are what one looks for
      const named = points.filter(({ datum }) => datum.named).sort((a, b) => b.datum.front - a.datum.front);
      for (const { point, datum } of named) {
        const w = ctx.measureText(datum.row.label).width;
        const places = [[9, 0], [-w - 9, 0], [-w / 2, -14], [-w / 2, 14], [9, -12], [9, 12], [-w - 9, -12], [-w - 9, 12]];
        const boxes = places.map(([dx, dy]) => ({ x: point.x + dx, y: point.y + dy - 7, w: w + 5, h: 14 }));
        const inside = (box) => box.x >= area.left && box.x + box.w <= area.right && box.y >= area.top && box.y + box.h <= area.bottom;
        const box = boxes.find((candidate) => inside(candidate) && !taken.some((other) => overlaps(candidate, other)));
        if (!box) continue;
        taken.push(box);
        ctx.lineWidth = 3;
        ctx.strokeStyle = style("--ground");
        ctx.strokeText(datum.row.label, box.x, box.y + 7);
        ctx.fillStyle = style("--text");
        ctx.fillText(datum.row.label, box.x, box.y + 7);
      }
      ctx.restore();
    },
  };

  // A number at the end of each bar.
  const numbers = {
    id: "numbers",
    afterDatasetsDraw(chart) {
      const { ctx } = chart;
      const last = chart.data.datasets.length - 1;
      if (!chart.data.datasets[last]?.numbers) return;
      ctx.save();
      ctx.font = `12px ${Chart.defaults.font.family}`;
      ctx.textBaseline = "middle";
      ctx.fillStyle = style("--text");
      chart.getDatasetMeta(last).data.forEach((bar, i) => ctx.fillText(chart.data.datasets[last].numbers[i], bar.x + 5, bar.y));
      ctx.restore();
    },
  };

  Chart.register(spreads, names, numbers);

  // An axis with its title in the theme's colours.
  function axis(title, more = {}) {
    const { ticks = {}, ...rest } = more;
    return {
      title: { display: Boolean(title), text: title, color: style("--quiet") },
      grid: { color: style("--grid") },
      border: { color: style("--line") },
      ticks: { color: style("--quiet"), maxRotation: 0, ...ticks },
      ...rest,
    };
  }

  // Where a logarithmic axis has its numbers: at 1, 2 and 5 of each power of ten, at 1 alone where these are many.
  function logTicks(scale) {
    const decades = Math.log10(scale.max / scale.min);
    const ticks = [];
    for (let power = Math.floor(Math.log10(scale.min)); power <= Math.log10(scale.max); power += 1) {
      for (const lead of decades > 4 ? [1] : decades > 2 ? [1, 3] : [1, 2, 5]) {
        const value = lead * 10 ** power;
        if (value >= scale.min && value <= scale.max) ticks.push({ value, major: lead === 1 });
      }
    }
    if (ticks.length > 1) scale.ticks = ticks;
  }

  // Draws charts into the element `into`, in place of those that were there. Each of `wanted` has a caption, a
  // description for those who cannot see it, Chart.js's configuration, and may have a height and a key below.
  function draw(into, wanted) {
    for (const chart of made.get(into) ?? []) chart.destroy();
    made.set(into, []);
    into.replaceChildren();
    for (const { caption, description, config, height, key } of wanted) {
      const canvas = element("canvas", { role: "img", "aria-label": `${caption}. ${description}` });
      const holder = element("div", { class: "canvas" }, canvas);
      if (height) holder.style.height = `${height}px`;
      into.append(element("figure", {}, element("figcaption", {}, caption), holder, key ?? null));
      config.options.plugins = { ...config.options.plugins };
      config.options.plugins.tooltip = { ...tooltip(), ...config.options.plugins.tooltip };
      made.get(into).push(new Chart(canvas, config));
    }
    if (!wanted.length) into.append(element("p", { class: "hint" }, "Nothing to draw with these filters."));
  }

  const tooltip = () => ({
    backgroundColor: style("--text"), titleColor: style("--ground"), bodyColor: style("--ground"), displayColors: false, padding: 8,
  });

  // A line as a key shows it, with what it stands for.
  function keyEntry(colour, dash, text) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 32 16");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const ends = { x1: 0, y1: 8, x2: 32, y2: 8, stroke: colour, "stroke-width": 4, "stroke-dasharray": dash.map((d) => 2 * d).join(" ") || "none" };
    for (const [name, value] of Object.entries(ends)) line.setAttribute(name, value);
    svg.append(line);
    return element("span", {}, svg, text);
  }

  return { draw, axis, logTicks, keyEntry, all: () => [...made.values()].flat(), discard: (into) => draw(into, []) };
})();
