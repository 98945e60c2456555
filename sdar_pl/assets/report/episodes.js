// The episode viewer: filters, a list that draws only its visible rows, and the episode that is read.
// #run/split/iteration/group/index/turn/token names an episode or a token; numbers count from 0.

const ROW = 58;

/** The short lists of the page's data as objects. */
function unpack(data) {
  const text = (number) => data.strings[number];
  const seen = new Map();
  return data.episodes.map((row) => {
    const [run, iteration, split, task, kind, goal, group, index, success, reward, penalty, failed, overflow, context, first, turns] = row;
    const key = [run, text(split), iteration, group, index].join("/");
    seen.set(key, (seen.get(key) ?? 0) + 1);
    const again = seen.get(key) > 1 ? `~${seen.get(key)}` : ""; // of a group that was dropped and played again
    let largest = -1;
    for (const turn of turns) for (const gap of turn[8]) if (gap !== null && Math.abs(gap) > largest) largest = Math.abs(gap);
    return {
      key: key + again, run, iteration, split: text(split), task: text(task), kind: text(kind), goal: text(goal), group, index,
      success: Boolean(success), reward, penalty, failed: text(failed), overflow: Boolean(overflow), context: text(context),
      first: text(first), largest, packed: turns,
      get turns() {
        return turns.map(([said, action, observation, valid, gained, advantage, tokens, logprobs, gap, gate]) => ({
          text: text(said), action: text(action), observation: text(observation), valid: Boolean(valid), reward: gained,
          advantage, tokens, logprobs, gap, gate }));
      },
    };
  });
}

const ORDERS = {
  "as played": null,
  "highest |Δ|": (a, b) => b.largest - a.largest,
  "highest reward": (a, b) => b.reward - a.reward,
  "most turns": (a, b) => b.packed.length - a.packed.length,
};

function episodeViewer(data) {
  const all = unpack(data), texts = data.tokens;
  const state = { shown: all, at: -1, by: all.some((one) => one.largest >= 0) ? "gap" : "logprob", turn: 0, token: 0 };
  const options = (values) => [...new Set(values)].map((value) => [String(value), value]);
  const runName = (run) => data.runs[run].name;
  const filters = {
    run: ["run", all.map((one) => one.run), runName], split: ["split", all.map((one) => one.split)],
    kind: ["kind", all.map((one) => one.kind).sort(), (kind) => kind.replaceAll("_", " ")],
    success: ["success", [true, false], (value) => (value ? "success" : "no success")],
    iteration: ["iteration", all.map((one) => one.iteration).sort((a, b) => a - b)],
  };
  const selects = {};
  const form = element("form", { class: "filters", "aria-label": "Filters", onchange: filter, onsubmit: (event) => event.preventDefault() });
  for (const [name, [label, values, text = String]] of Object.entries(filters)) {
    const choices = options(values);
    selects[name] = element("select", { name }, element("option", { value: "" }, "all"),
      ...choices.map(([value, raw]) => element("option", { value: JSON.stringify(raw) }, text(raw))));
    if (choices.length > 1) form.append(element("label", {}, label, selects[name]));
  }
  selects.order = element("select", { name: "order" }, ...Object.keys(ORDERS).map((name) => element("option", {}, name)));
  form.append(element("label", {}, "order", selects.order));

  const count = element("p", { class: "faint", role: "status" });
  const spacer = element("div"), list = element("div", { class: "list", role: "listbox", tabindex: 0, "aria-label": "Episodes" }, spacer);
  const detail = element("div", { class: "detail" }), box = inspector();
  list.addEventListener("scroll", drawRows);
  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const to = { ArrowDown: state.at + 1, ArrowUp: state.at - 1, PageDown: state.at + page, PageUp: state.at - page,
      Home: 0, End: state.shown.length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); open(to); }
  });
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) open(Number(row.dataset.place));
  });

  function filter() {
    const wanted = Object.keys(filters).filter((name) => selects[name].value !== "").map((name) => [name, JSON.parse(selects[name].value)]);
    const current = state.shown[state.at];
    state.shown = all.filter((one) => wanted.every(([name, value]) => one[name] === value));
    const order = ORDERS[selects.order.value];
    if (order) state.shown = [...state.shown].sort(order);
    const left = data.played > all.length ? `; ${data.played.toLocaleString("en")} were played, these are spread evenly` : "";
    count.textContent = `${state.shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} episodes${left}`;
    spacer.style.height = `${ROW * state.shown.length}px`;
    list.scrollTop = 0;
    const place = order ? 0 : Math.max(0, state.shown.indexOf(current));
    if (state.shown.length) open(place); else { state.at = -1; drawRows(); detail.replaceChildren(element("p", {}, "No episode passes the filters.")); }
  }

  function drawRows() {
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const to = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
    const rows = [];
    for (let place = from; place < to; place += 1) {
      const one = state.shown[place];
      const more = one.largest >= 0 ? ` · |Δ| ≤ ${one.largest.toFixed(2)}` : "";
      const row = element("div", { class: "row", role: "option", id: `row-${place}`, "data-place": place, "aria-selected": String(place === state.at),
        "aria-setsize": state.shown.length, "aria-posinset": place + 1 },
      element("div", { class: "foreign" }, `${one.success ? "✓" : "✗"} ${one.goal}`),
      element("div", { class: "faint foreign" }, `${one.split} · iteration ${one.iteration} · ${one.packed.length} turns${more}`));
      row.style.transform = `translateY(${place * ROW}px)`;
      rows.push(row);
    }
    list.replaceChildren(spacer, ...rows);
    const current = state.at >= from && state.at < to ? `row-${state.at}` : "";
    if (current) list.setAttribute("aria-activedescendant", current); else list.removeAttribute("aria-activedescendant");
  }

  /** Show the episode at a place of the list, and a token of it. */
  function open(place, turn = 0, token = -1) {
    state.at = Math.min(Math.max(place, 0), state.shown.length - 1);
    const top = state.at * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    drawRows();
    drawEpisode();
    if (token >= 0) select(turn, token, false);
    else setHash(state.shown[state.at].key);
  }

  function drawEpisode() {
    const one = state.shown[state.at], turns = one.turns;
    const has = { gap: turns.some((turn) => turn.gap.length), gate: turns.some((turn) => turn.gate.length), logprob: true };
    const by = has[state.by] ? state.by : "logprob";
    const choose = element("select", { name: "colour", onchange: () => { state.by = choose.value; drawEpisode(); } },
      ...Object.keys(COLOURINGS).filter((name) => has[name]).map((name) => element("option", { value: name }, COLOURINGS[name])));
    choose.value = by;
    const step = (by, label) => element("button", { type: "button", onclick: () => open(state.at + by) }, label);
    const marks = [one.success ? "✓ success" : "✗ no success", `reward ${figure(one.reward)}`, one.penalty ? `penalty ${figure(one.penalty)}` : null,
      one.overflow ? "outgrew its limit" : null, one.failed ? `failed: ${one.failed}` : null, one.kind.replaceAll("_", " "), one.split,
      `iteration ${one.iteration}`, `group ${one.group}, episode ${one.index}`, one.task, data.runs.length > 1 ? runName(one.run) : null];
    const items = turns.map((turn, number) => element("li", {},
      element("div", { class: "turn-head" }, ...[`turn ${number + 1}`, turn.valid ? null : "broke the format",
        turn.reward ? `reward ${figure(turn.reward)}` : null, turn.advantage === null ? null : `advantage ${turn.advantage.toFixed(3).replace("-", "−")}`]
        .filter(Boolean).map((text) => element("span", {}, text))),
      response(turn, number, texts, by),
      turn.tokens.some((token) => /[�⟨]/.test(texts[token])) ? element("div", { class: "faint foreign" }, `as text: ${turn.text}`) : null,
      element("div", { class: "said foreign", tabindex: 0, role: "region", "aria-label": `observation after turn ${number + 1}` }, turn.observation)));
    box.clear();
    detail.replaceChildren(
      element("h2", { class: "foreign" }, one.goal),
      element("p", { class: "faint foreign" }, marks.filter(Boolean).join(" · ")),
      element("div", { class: "bar" }, step(-1, "previous"), step(1, "next"), element("label", { class: "faint" }, "colour by ", choose), legend(by)),
      element("div", { class: "reading" },
        element("div", {}, element("div", { class: "said foreign", tabindex: 0, role: "region", "aria-label": "first observation" }, one.first),
          element("ol", { class: "turns" }, ...items)),
        element("div", { class: "aside" }, box.node, one.context ? element("section", { class: "card" }, element("h3", {}, "What the teacher read"),
          element("div", { class: "context foreign", tabindex: 0, role: "region", "aria-label": "What the teacher read" }, one.context)) :
          element("p", { class: "faint" }, one.split === "train" ? "No privileged context was logged." : "Panels are played without a teacher."))));
    detail.querySelector(".token")?.setAttribute("tabindex", 0);
  }

  const spanAt = (turn, token) => detail.querySelector(`.token[data-turn="${turn}"][data-token="${token}"]`);
  const hashOf = (turn, token) => `#${encodeURI(state.shown[state.at].key)}/${turn}/${token}`;

  /** Select a token: its facts, its link in the address, and the keyboard there. */
  function select(turn, token, focus = true) {
    const node = spanAt(turn, token);
    if (!node) return;
    for (const old of detail.querySelectorAll('[aria-pressed="true"], .token[tabindex="0"]')) {
      old.setAttribute("aria-pressed", "false");
      old.setAttribute("tabindex", -1);
    }
    Object.assign(state, { turn, token });
    node.setAttribute("aria-pressed", "true");
    node.setAttribute("tabindex", 0);
    node.scrollIntoView({ block: "nearest" });
    if (focus) node.focus({ preventScroll: true });
    inspect(turn, token);
    setHash(`${state.shown[state.at].key}/${turn}/${token}`);
  }

  const inspect = (turn, token) => box.show(state.shown[state.at].turns[turn], token, texts, hashOf(turn, token));
  const placeOf = (event) => {
    const node = event.target.closest?.(".token[data-turn]");
    return node ? [Number(node.dataset.turn), Number(node.dataset.token)] : null;
  };
  detail.addEventListener("pointerover", (event) => { const at = placeOf(event); if (at) inspect(...at); });
  detail.addEventListener("pointerleave", () => { if (detail.querySelector('[aria-pressed="true"]')) inspect(state.turn, state.token); });
  detail.addEventListener("click", (event) => { const at = placeOf(event); if (at) select(...at); });
  detail.addEventListener("keydown", (event) => {
    const at = placeOf(event);
    if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
    const spans = [...detail.querySelectorAll(".token[data-turn]")], place = spans.indexOf(event.target);
    const firstOf = (turn) => spans.findIndex((span) => Number(span.dataset.turn) === turn);
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: firstOf(at[0] + 1), ArrowUp: firstOf(at[0] - 1),
      Home: firstOf(at[0]), End: spans.findLastIndex((span) => Number(span.dataset.turn) === at[0]), Enter: place, " ": place }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (spans[to]) select(Number(spans[to].dataset.turn), Number(spans[to].dataset.token));
  });
  addEventListener("keydown", (event) => {
    if (node.hidden || event.ctrlKey || event.metaKey || event.altKey || /SELECT|INPUT/.test(event.target.tagName)) return;
    if (event.key === "j") open(state.at + 1);
    if (event.key === "k") open(state.at - 1);
  });

  let hash = "";
  function setHash(key) {
    hash = `#${encodeURI(key)}`;
    if (!node.hidden) history.replaceState(null, "", hash);
  }

  /** Open what an address names → whether it names an episode of this page. */
  function follow(address) {
    const parts = decodeURI(address.slice(1)).split("/");
    const key = parts.slice(0, 5).join("/");
    if (!all.some((one) => one.key === key)) return false;
    if (!state.shown.some((one) => one.key === key)) { form.reset(); filter(); }
    open(state.shown.findIndex((one) => one.key === key), Number(parts[5] ?? 0), Number(parts[6] ?? -1));
    return true;
  }

  const node = document.getElementById("episodes");
  node.append(form, element("div", { class: "viewer" }, element("div", { class: "list-side" }, count, list), detail));
  return { follow, start: () => { if (state.at < 0) filter(); else { drawRows(); setHash(hash.slice(1)); } }, empty: !all.length };
}
