// The overview: what the runs are, their curves, distributions, kinds, time and settings.

function overview(data) {
  const groups = data.groups;
  const seeds = (group) => group.runs.map((run) => data.runs[run].seed).join(", ");
  const several = groups.some((group) => group.runs.length > 1);
  const section = (title, note, ...nodes) => nodes.length ? element("section", {}, element("h2", {}, title),
    note ? element("p", { class: "faint" }, note) : null, ...nodes) : null;
  const headed = (heading) => data.charts.filter((chart) => chart.heading === heading).map((chart) => lineChart(chart, groups));
  const grid = (nodes) => nodes.length ? [element("div", { class: "charts" }, ...nodes)] : [];
  const maps = data.histograms.map((one) => heatMap(one, groups));

  return [
    section("Runs", several ? "Success on the panel with its 95 % interval: bootstrap over seeds and tasks; of one seed over tasks (Wilson)." :
      "Success on the panel with its 95 % interval over tasks (Wilson).",
    table("Runs", ["method", "seeds", "iterations", "before", "after", "time of a run", "generated tokens"], groups.map((group) =>
      [group.name, seeds(group), group.iterations, interval(group.before), interval(group.after), duration(group.seconds),
        group.tokens.toLocaleString("en")])),
    groups.length > 1 ? element("p", {}, ...groups.map((group, place) => element("span", { class: "key foreign" },
      drawn("svg", { viewBox: "0 0 34 12", "aria-hidden": "true" },
        drawn("path", { class: `line stroke${place % 7}${place > 6 ? " dotted" : ""}`, d: "M0,6H34" }), mark(place, 17, 6, { class: `fill${place % 7}` })),
      group.name))) : null),
    section("Success", several ? "Bands: of success on the panel the 95 % interval, of other figures the lowest and highest seed." : null, ...grid(headed("Success"))),
    section("Success by kind of task", "Hollow: first panel. Filled: last panel, with its 95 % interval.", ...grid(data.kinds.map((row) => kindChart(row, groups)))),
    section("Gap and gate", "Δ = log π_teacher − log π_student of each sampled token; the gate g is its weight. Blue: the teacher endorses; orange: it rejects. " +
      "The strength of a cell is the logarithm of its share.", ...grid([...headed("Gap and gate"), ...maps])),
    section("Policy", null, ...grid(headed("Policy"))),
    section("Time and memory", null, ...grid([...timeChart(data.phases, groups), ...headed("Time and memory")])),
    section("Settings that differ", null, data.settings.length ? table("Settings that differ",
      ["setting", ...groups.map((group) => group.name)], data.settings.map((row) => [row.key, ...row.values])) :
      element("p", { class: "faint" }, data.runs.length > 1 ? "None but seed and place." : "There is one run.")),
    section("Folders", null, element("ul", {}, ...data.runs.map((run) => element("li", { class: "foreign" },
      run.name === run.folder ? run.name : `${run.name}: ${run.folder}`)))),
  ].filter(Boolean);
}

/** Success of one kind of task: a line for each group from its first panel to its last. */
function kindChart(row, groups) {
  const shown = row.groups.map((ends, place) => ({ ends, place })).filter((one) => one.ends);
  const height = 30 * shown.length + 36;
  function paint(svg, width) {
    const named = groups.length > 1, left = 12, x = scale(0, 1, left, width - 20);
    for (const at of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(drawn("line", { class: "grid", x1: x(at), x2: x(at), y1: 4, y2: height - 22 }),
        drawn("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, `${100 * at}%`));
    }
    shown.forEach(({ ends, place }, number) => {
      const y = 22 + 30 * number, colour = place % 7, [before, after] = ends;
      if (named) svg.append(drawn("text", { x: left, y: y - 8, class: "value" }, groups[place].name));
      if (after) svg.append(drawn("line", { class: `line stroke${colour}`, x1: x(after[1]), x2: x(after[2]), y1: y, y2: y }));
      if (before) svg.append(mark(place, x(before[0]), y, { class: `hollow stroke${colour}` }));
      if (after) svg.append(mark(place, x(after[0]), y, { class: `fill${colour}` }));
    });
  }
  const name = row.kind.replaceAll("_", " ");
  const text = shown.map(({ ends, place }) => `${groups[place].name} ${ends.map((end) => figure(end?.[0], "share")).join(" → ")}`);
  const node = chartFigure(name, `${name}: ${text.join("; ")}`, paint, ["method", "before", "after"],
    () => shown.map(({ ends, place }) => [groups[place].name, ...ends.map((end) => interval(end))]));
  node.querySelector("svg").setAttribute("height", height);
  node.querySelector(".readout").textContent = groups.length > 1 ? "" : text.join("; ").replace(`${groups[0].name} `, "");
  return node;
}

/** Seconds of an iteration by phase, a bar for each group. */
function timeChart(phases, groups) {
  const names = [...new Set(phases.flatMap(Object.keys))];
  const totals = phases.map((one) => Object.values(one).reduce((sum, value) => sum + value, 0));
  if (!names.length) return [];
  const height = 44 * groups.length + 8;
  function paint(svg, width) {
    const x = scale(0, Math.max(...totals), 0, width - 8);
    phases.forEach((one, place) => {
      let at = 0;
      const y = 44 * place + 20;
      svg.append(drawn("text", { x: 0, y: y - 5, class: "value" }, `${groups[place].name} · ${figure(totals[place])} s`));
      names.filter((phase) => one[phase]).forEach((phase) => {
        svg.append(drawn("rect", { class: `fill${names.indexOf(phase)}`, x: x(at), y, width: Math.max(0, x(one[phase]) - 1), height: 16 }));
        at += one[phase];
      });
    });
  }
  const title = "Seconds of an iteration by phase";
  const node = chartFigure(title, title, paint, ["method", ...names], () => phases.map((one, place) =>
    [groups[place].name, ...names.map((phase) => figure(one[phase], "s"))]));
  node.querySelector("svg").setAttribute("height", height);
  node.querySelector(".readout").append(...names.map((phase, place) => element("span", { class: "key" },
    drawn("svg", { viewBox: "0 0 34 12", "aria-hidden": "true" }, drawn("rect", { class: `fill${place}`, width: 34, height: 12 })),
    groups.length > 1 ? phase : `${phase} ${figure(phases[0][phase], "s")}`)));
  return [node];
}
