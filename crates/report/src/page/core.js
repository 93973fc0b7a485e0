"use strict";
// What all parts of the page use. Whatever comes from a record becomes a text node or a picture's pixels, never HTML.

const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // Okabe and Ito's colours, which colour-blind readers tell apart. Two of them need another shade on a dark ground.
  const COLOURS = {
    light: ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000", "#a89a00"],
    dark: ["#3d9be0", "#e69f00", "#00b583", "#cc79a7", "#e8692c", "#86cdf5", "#ffffff", "#f0e442"],
  };
  const GREY = { light: "#8a9099", dark: "#8a9099" };

  // An element. `attributes` holds attributes, and listeners under names that begin with "on"; what is null is left out.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  // Sets what a <select> offers: pairs of a value and a text.
  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
  }

  // A field of a record, by run. `fields` says how it is kept: see columns.rs.
  const unpacked = new Map();
  function field(name, run) {
    const column = data.fields[name];
    if (!column) return null;
    if (!column.at) return column.of.length === 1 ? column.of[0] : column.of[run];
    if (!unpacked.has(name)) {
      const values = [];
      for (let i = 0; i < column.at.length; i += 2) {
        for (let left = column.at[i + 1]; left > 0; left -= 1) values.push(column.of[column.at[i]]);
      }
      unpacked.set(name, values);
    }
    return unpacked.get(name)[run];
  }

  const runsOf = (cell) => Array.from({ length: cell.runs[1] - cell.runs[0] }, (_, i) => cell.runs[0] + i);
  const runsOfRow = (row) => row.cells.flatMap(runsOf);

  // Numbers for readers.
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const grouped = (value) => (!isNumber(value) ? "–" : Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ","));
  const significant = (value) => {
    if (!isNumber(value)) return "–";
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return Number(value.toPrecision(3)).toExponential();
    return Math.abs(value) >= 1000 ? grouped(value) : String(Number(value.toPrecision(4)));
  };
  const fixed = (value, digits) => (isNumber(value) ? value.toFixed(digits) : "–");
  const mebibytes = (bytes) => {
    if (!isNumber(bytes)) return "–";
    const value = bytes / 1048576;
    return value < 1000 ? value.toFixed(1) : grouped(value);
  };
  const percent = (value) => fixed(value, value >= 0.1 ? 2 : 4);
  // How many digits a task's scores have after the point, as in the other tables: one of points; of all else as many as
  // make four that count. A spread has as many as its mean.
  const digits = (task, value) => (task.in_points || !isNumber(value) || value === 0 ? 1 : Math.min(4, Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value))))));
  const number = (value, decimals) => {
    if (!isNumber(value)) return "–";
    if (Math.abs(value) < 1e3) return value.toFixed(decimals);
    return Math.abs(value) < 1e7 ? grouped(value) : value.toExponential(3);
  };
  // 12300 as 12.3 k, for axes.
  const short = (value) => {
    for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
    }
    return String(Number(value.toPrecision(3)));
  };
  const unit = (task) => (task.in_points ? `${task.metric} (points)` : task.metric);

  const families = [...new Set(data.rows.map((row) => row.family))].sort();
  const theme = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");
  const colour = (index) => COLOURS[theme()][index % COLOURS.light.length];
  const familyColour = (family) => colour(families.indexOf(family));
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const swatch = (family) => {
    const made = element("span", { class: "swatch", "aria-hidden": "true" });
    made.style.background = familyColour(family);
    return made;
  };

  // What the reader chose. `visible` are the rows that the filters leave, in the table's order; `chosen` those whose
  // curves are drawn.
  const state = {
    text: "",
    task: null,
    families: new Set(families),
    visible: data.rows,
    chosen: new Set(),
  };
  const tasks = () => data.tasks.map((task, index) => ({ task, index })).filter(({ index }) => state.task === null || index === state.task);

  return {
    data, byId, element, options, field, runsOf, runsOfRow, isNumber, grouped, significant, fixed, number, mebibytes, percent,
    digits, short, unit, families, theme, colour, familyColour, grey: () => GREY[theme()], style, swatch, state, tasks,
  };
})();
