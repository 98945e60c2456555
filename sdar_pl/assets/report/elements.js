// Elements of the page. Every text of a run becomes a text node or the value of an attribute, never HTML.

/** An HTML element; `attributes` by name (null: left out), `children` are nodes or texts. */
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : String(child)));
  return node;
}

/** A table in a box that scrolls; numbers stand to the right. */
function table(label, heads, rows) {
  const cell = (tag, value, place) => {
    const number = typeof value === "number" || (place > 0 && /^[-+–\d<]/.test(String(value)));
    return element(tag, { class: number ? "number" : "foreign", scope: tag === "th" ? "col" : null }, value ?? "–");
  };
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    element("table", {},
      element("thead", {}, element("tr", {}, ...heads.map((head) => cell("th", head, 0)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value, place) => cell("td", value, place)))))));
}

/** A number as text in a unit: shares in per cent. */
function figure(value, unit = "") {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${(100 * value).toFixed(1)} %`;
  const size = Math.abs(value);
  const text = size >= 1000 ? Math.round(value).toLocaleString("en") : size >= 100 || Number.isInteger(value) ?
    String(Math.round(value)) : size >= 1 ? value.toFixed(2) : value.toPrecision(2).replace(/e-(\d+)$/, "e-$1");
  return unit && unit !== "share" ? `${text} ${unit}` : text;
}

/** [mean, low, high] as text. */
function interval(value, unit = "share") {
  if (!value) return "–";
  const [mean, low, high] = value.map((part) => figure(part, unit).replace(" %", ""));
  return `${mean}${unit === "share" ? " %" : ""} [${low}, ${high}]`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
