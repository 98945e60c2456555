// Charts as SVG, drawn at the width that they have, so that their text keeps its size.

const MARGIN = { left: 46, right: 14, top: 10, bottom: 34 };
const HEIGHT = 210;
const redraws = new Set();
let waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 150);
});

/** Draw every chart that is visible. */
function redraw() {
  for (const one of redraws) one();
}

/** A figure with a title, an SVG that `paint(svg, width)` fills, a line for read-outs, and its figures as a table. */
function chartFigure(title, label, paint, heads, rows) {
  const svg = drawn("svg", { role: "img", "aria-label": label, height: HEIGHT });
  const readout = element("div", { class: "readout", "aria-live": "polite" });
  const numbers = element("details", {}, element("summary", {}, "as a table"));
  numbers.addEventListener("toggle", () => {
    if (numbers.open && numbers.children.length === 1) numbers.append(table(title, heads, rows()));
  });
  const node = element("figure", {}, element("h3", {}, title), svg, readout, numbers);
  redraws.add(() => {
    const width = svg.clientWidth;
    if (!width) return;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${svg.getAttribute("height")}`);
    paint(svg, width, readout);
  });
  return node;
}

/** About four round numbers from `low` to `high`. */
function ticks(low, high) {
  const raw = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

/** The place of a value between two ends of a domain. */
const scale = (from, to, start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);

/** A mark for the points of a group: groups differ by shape, too. */
function mark(shape, x, y, attributes) {
  const size = 3.6;
  const paths = [
    `M${x - size},${y}a${size},${size} 0 1,0 ${2 * size},0a${size},${size} 0 1,0 ${-2 * size},0Z`,
    `M${x - 3.2},${y - 3.2}h6.4v6.4h-6.4Z`,
    `M${x},${y - 4.4}l4.4,7.6h-8.8Z`,
    `M${x},${y - 4.6}l4.6,4.6l-4.6,4.6l-4.6,-4.6Z`,
    `M${x},${y + 4.4}l4.4,-7.6h-8.8Z`,
  ];
  return drawn("path", { d: paths[shape % paths.length], ...attributes });
}

/** The axes of a chart; `xs` are the labelled places on the horizontal one. */
function axes(svg, width, x, y, xs, ys, unit, label) {
  for (const at of ys) {
    svg.append(drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(at), y2: y(at) }),
      drawn("text", { x: MARGIN.left - 6, y: y(at) + 4, "text-anchor": "end" },
        unit === "share" ? `${Math.round(100 * at * 10) / 10}%` : +at.toPrecision(6)));
  }
  for (const at of xs) svg.append(drawn("text", { x: x(at), y: HEIGHT - 18, "text-anchor": "middle" }, at));
  svg.append(drawn("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, label));
}

/** Lines with bands over iterations. A series: group, dashed, points of [iteration, mean, low, high]. */
function lineChart(chart, groups) {
  const all = chart.series.flatMap((series) => series.points);
  const steps = [...new Set(all.map((point) => point[0]))].sort((a, b) => a - b);
  const name = (series) => groups[series.group].name + (series.dashed ? " (teacher)" : "");
  const cell = (series, step) => series.points.find((point) => point[0] === step);
  let low = Math.min(...all.map((point) => point[2])), high = Math.max(...all.map((point) => point[3]));
  if (chart.unit === "share" || low >= 0) low = low > 0.5 * high && chart.unit !== "share" ? low : 0;
  if (chart.unit === "share") high = high > 0.5 ? 1 : high * 1.05;
  if (low === high) high = low + (Math.abs(low) || 1);

  function paint(svg, width, readout) {
    const x = scale(steps[0], steps.at(-1), MARGIN.left + 4, width - MARGIN.right);
    const y = scale(low, high, HEIGHT - MARGIN.bottom, MARGIN.top);
    const xs = ticks(steps[0], steps.at(-1)).filter(Number.isInteger);
    axes(svg, width, x, y, xs.length ? xs : steps, ticks(low, high), chart.unit, "iteration");
    for (const series of chart.series) {
      const colour = series.group % 7, points = series.points;
      const edge = [...points.map((p) => [x(p[0]), y(p[3])]), ...points.map((p) => [x(p[0]), y(p[2])]).reverse()];
      svg.append(drawn("path", { class: `band fill${colour}`, d: `M${edge.join("L")}Z` }),
        drawn("path", { class: `line stroke${colour}${series.dashed ? " dashed" : series.group > 6 ? " dotted" : ""}`,
          d: `M${points.map((p) => [x(p[0]), y(p[1])]).join("L")}` }));
      const shapes = points.length > 40 ? [] : points;
      svg.append(...shapes.map((p) => mark(series.group, x(p[0]), y(p[1]),
        { class: series.dashed ? `hollow stroke${colour}` : `fill${colour}` })));
    }
    const line = drawn("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
    svg.append(line);
    const show = (step) => {
      for (const end of ["x1", "x2"]) line.setAttribute(end, x(step));
      line.setAttribute("visibility", "visible");
      const values = chart.series.filter((series) => cell(series, step));
      readout.textContent = `iteration ${step}: ` + values.map((series) =>
        `${name(series)} ${interval(cell(series, step).slice(1), chart.unit)}`).join(" · ");
    };
    svg.onpointermove = (event) => {
      const at = event.clientX - svg.getBoundingClientRect().left;
      show(steps.reduce((best, step) => (Math.abs(x(step) - at) < Math.abs(x(best) - at) ? step : best)));
    };
  }
  const rows = () => steps.map((step) => [step, ...chart.series.map((series) =>
    cell(series, step) ? interval(cell(series, step).slice(1), chart.unit) : "–")]);
  const last = chart.series.map((series) => `${name(series)} ${figure(series.points.at(-1)[1], chart.unit)}`);
  const title = chart.series.some((series) => series.dashed) ? `${chart.title}; dashed: the teacher's` : chart.title;
  return chartFigure(title, `${title}. Last: ${last.join("; ")}`, paint, ["iteration", ...chart.series.map(name)], rows);
}

/** The distribution of a record over iterations: a cell's strength is the logarithm of its share of the tokens. */
function heatMap(histogram, groups) {
  const { edges, steps, shares, record } = histogram;
  const bins = edges.length + 1, middle = (edges.length - 1) / 2 + 0.5;
  const title = `Distribution of the ${record} · ${groups[histogram.group].name}`;
  const range = (bin) => bin === 0 ? `below ${edges[0]}` : bin === bins - 1 ? `above ${edges.at(-1)}` :
    `${edges[bin - 1]} to ${edges[bin]}`;

  function paint(svg, width, readout) {
    const wide = (width - MARGIN.left - MARGIN.right) / steps.length;
    const high = (HEIGHT - MARGIN.top - MARGIN.bottom) / bins;
    const every = Math.ceil((28 * steps.length) / (width - MARGIN.left));
    const x = (step) => MARGIN.left + (steps.indexOf(step) + 0.5) * wide;
    const y = (edge) => HEIGHT - MARGIN.bottom - (edges.indexOf(edge) + 1) * high;
    axes(svg, width, x, y, steps.filter((_, place) => place % every === 0), edges.filter((_, place) => place % 2 === (edges.length > 12 ? 1 : 0)), "", "iteration");
    steps.forEach((step, place) => shares[place].forEach((share, bin) => {
      if (!share) return;
      const side = Math.abs(bin - middle) < 0.6 && edges.length % 2 === 0 && bin === bins / 2 - 0.5 ? "middle" : bin > middle - 0.5 ? "up" : "down";
      const strength = Math.max(0.06, 1 + Math.log10(share) / 3);
      svg.append(drawn("rect", { class: `cell-${side}`, x: MARGIN.left + place * wide, width: wide - 0.5, height: high - 0.5,
        y: HEIGHT - MARGIN.bottom - (bin + 1) * high, "fill-opacity": strength.toFixed(2) }));
    }));
    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect();
      const place = Math.floor((event.clientX - box.left - MARGIN.left) / wide);
      const bin = Math.floor((HEIGHT - MARGIN.bottom - (event.clientY - box.top)) / high);
      const share = shares[place]?.[bin];
      if (share !== undefined) readout.textContent =
        `iteration ${steps[place]}: ${figure(share, "share")} of the tokens have a ${record} ${range(bin)}`;
    };
  }
  const rows = () => Array.from({ length: bins }, (_, bin) => bins - 1 - bin).map((bin) =>
    [range(bin), ...shares.map((column) => figure(column[bin], "share"))]);
  return chartFigure(title, `${title}; the table below has its figures`, paint, [record, ...steps], rows);
}
