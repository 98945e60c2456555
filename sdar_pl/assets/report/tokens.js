// An episode's tokens: their colours, their figures, and the way from one to the next by keyboard.

const LEVELS = { gap: [0.0005, 0.05, 0.2, 0.5, 1], gate: [0.001, 0.1, 0.2, 0.3, 0.4], logprob: [0.05, 0.2, 0.5, 1, 2] };
const COLOURINGS = { gap: "gap Δ", gate: "gate g", logprob: "log-prob of the student" };
const LEGENDS = {
  gap: ["the teacher rejects: Δ ≤ −1", "0", "Δ ≥ 1: it endorses"],
  gate: ["g = 0", "½", "g = 1"],
  logprob: ["log π ≤ −2: unlikely", "certain", ""],
};

/** The class of a token's colour: dn5 … dn1, none, up1 … up5. */
function level(turn, place, by) {
  const value = { gap: turn.gap[place], gate: turn.gate[place], logprob: turn.logprobs[place] }[by];
  if (value === null || value === undefined) return "";
  const distance = by === "gate" ? value - 0.5 : value;
  const steps = LEVELS[by].filter((limit) => Math.abs(distance) >= limit).length;
  return steps ? (distance > 0 ? "up" : "dn") + steps : "";
}

/** The text of a token as it is shown: line breaks are seen. */
const visible = (text) => text.replaceAll("\n", "↵\n");

/** One turn's response, a span for each token. */
function response(turn, number, texts, by) {
  const node = element("div", { class: "response", role: "group", "aria-label": `response of turn ${number + 1}` });
  turn.tokens.forEach((token, place) => node.append(element("span", {
    class: `token ${level(turn, place, by)}`, role: "button", tabindex: -1, "aria-pressed": "false",
    "data-turn": number, "data-token": place,
  }, visible(texts[token]))));
  return node;
}

/** What is known of one token, as names and values. */
function facts(turn, place, texts) {
  const [student, gap] = [turn.logprobs[place], turn.gap[place]];
  const known = (value) => value !== null && value !== undefined;
  const three = (value) => known(value) ? value.toFixed(3).replace("-", "−") : "–";
  return [
    ["token", JSON.stringify(texts[turn.tokens[place]])], ["number", turn.tokens[place]],
    ["log π student", three(student)],
    ["log π teacher", known(student) && known(gap) ? three(student + gap) : "–"],
    ["gap Δ", three(gap)], ["gate g", three(turn.gate[place])], ["advantage", three(turn.advantage)],
  ];
}

/** The box with the facts of the token under the pointer or the keyboard. */
function inspector() {
  const list = element("dl", {}), link = element("a", { href: "#episodes" }, "link to this token");
  const note = element("p", { class: "faint" }, "← → tokens · ↑ ↓ turns · j k episodes. log π student is the engine's; the teacher's is that plus Δ.");
  const node = element("section", { class: "card inspector", "aria-label": "Token", "aria-live": "polite" },
    element("h3", {}, "Token ", link), list, note);
  link.hidden = true;
  return {
    node,
    show(turn, place, texts, hash) {
      list.replaceChildren(...facts(turn, place, texts).flatMap(([name, value]) =>
        [element("dt", {}, name), element("dd", { class: "foreign" }, value)]));
      link.hidden = false;
      link.setAttribute("href", hash);
    },
    clear() { list.replaceChildren(element("dt", {}, "Point at a token, or select one."), element("dd", {})); link.hidden = true; },
  };
}

/** The legend of a colouring. */
function legend(by) {
  const [low, middle, high] = LEGENDS[by];
  const one = (name) => element("span", { class: `token ${name}`, "aria-hidden": "true" }, "a");
  const up = by === "logprob" ? [] : ["up1", "up2", "up3", "up4", "up5"].map(one);
  return element("div", { class: "legend" }, `${low} `, ...["dn5", "dn4", "dn3", "dn2", "dn1"].map(one), one(""), `${middle} `, ...up, ` ${high}`);
}
