// The page's start: unpack the data, draw the overview, and show what the address names.

async function unpacked() {
  const text = document.getElementById("data").textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function main() {
  const notice = document.getElementById("notice");
  if (typeof DecompressionStream === "undefined") {
    notice.textContent = "This browser is too old for the page: it needs Chrome 80, Firefox 113, Safari 16.4 or newer.";
    return;
  }
  const data = await unpacked();
  document.getElementById("title").textContent = data.title;
  document.title = `${data.title} · sdar_pl`;
  const views = { overview: document.getElementById("overview"), episodes: document.getElementById("episodes") };
  views.overview.append(...overview(data), element("p", { class: "faint" }, `sdar_pl ${data.version}`));
  const viewer = episodeViewer(data);
  if (viewer.empty) views.episodes.replaceChildren(element("p", {}, "These runs have no episodes.jsonl."));

  function show(view) {
    for (const [name, node] of Object.entries(views)) {
      node.hidden = name !== view;
      const link = document.getElementById(`to-${name}`);
      if (name === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    if (view === "episodes" && !viewer.empty) viewer.start();
    if (view === "overview") redraw();
  }
  function route() {
    const address = location.hash;
    if (/^#\d+\//.test(address)) { show("episodes"); if (viewer.follow(address)) return; }
    else show(address === "#episodes" ? "episodes" : "overview");
  }
  notice.hidden = true;
  addEventListener("hashchange", route);
  route();
}

main().catch((error) => { document.getElementById("notice").textContent = `The page cannot be drawn: ${error.message}`; });
