"use strict";

let figures = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll(".plot")];
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 640px)");
const touch = matchMedia("(pointer: coarse)");
const hidden = new Set();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axis(settings) {
  return {
    automargin: true, exponentformat: "B", minexponent: 3, separatethousands: true, zeroline: false, hoverformat: ",.4~f",
    gridcolor: colour("--line"), linecolor: colour("--line"), tickcolor: colour("--line"), fixedrange: touch.matches,
    nticks: narrow.matches ? 5 : 8, tickangle: 0, ...settings, title: { standoff: 10, ...settings.title },
  };
}

// Domains as the rows of a heat map: long names are cut short where there is little room.
function domainTicks(first) {
  if (!first?.meta?.domains) return {};
  const longest = narrow.matches ? 14 : 30;
  const cut = (name) => name.length > longest ? name.slice(0, longest - 1) + "…" : name;
  return { tickvals: first.y, ticktext: first.y.map(cut) };
}

function layout(figure) {
  const page = colour("--page");
  const across = { rangemode: "tozero", hoverformat: ",", ...axis(figure.xaxis) };
  if (narrow.matches && across.dtick) across.dtick *= 2;
  return {
    uirevision: "keep the zoom", height: figure.height, margin: { l: 56, r: 12, t: 12, b: 48 },
    showlegend: figure.legend && !narrow.matches, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal", itemclick: false, itemdoubleclick: false },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--soft") },
    hovermode: figure.data[0]?.type === "heatmap" ? "closest" : "x unified",
    hoverlabel: { bgcolor: page, bordercolor: colour("--line"), font: { color: colour("--ink") } },
    dragmode: touch.matches ? false : "zoom",
    xaxis: across,
    yaxis: axis({ ...figure.yaxis, ...domainTicks(figure.data[0]) }),
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  };
}

// Shares of which the domains are the rows, on a scale on which half of an equal share is as far from it as twice.
function byDomain(settings) {
  const shown = (_, number) => !hidden.has(number);
  const shares = settings.z.filter(shown);
  const { reach } = settings.meta;
  const place = (share) => share === null ? null : Math.max(-reach, Math.min(reach, Math.log2(share)));
  const ticks = { "-2": "¼", "-1": "½", 0: "1", 1: "2", 2: "4" };
  return {
    ...settings, y: settings.y.filter(shown), z: shares.map((row) => row.map(place)), customdata: shares, text: shares,
    zmin: -reach, zmid: 0, zmax: reach, scale: { tickvals: Object.keys(ticks).map(Number), ticktext: Object.values(ticks) },
  };
}

function trace(given) {
  const meta = given.meta ?? {};
  if (given.type !== "heatmap") return { ...given, visible: !hidden.has(meta.domain) };
  const { scale, ...settings } = meta.domains ? byDomain(given) : given;
  return {
    ...settings,
    colorscale: [[0, colour("--few")], [0.5, colour("--equal")], [1, colour("--many")]],
    colorbar: { thickness: 10, outlinewidth: 0, len: 1, title: { text: "share", font: { size: 12 } }, ...scale },
    texttemplate: meta.cells && !narrow.matches ? (meta.domains ? "%{text:.2f}" : "%{z:.2f}") : "",
    textfont: { size: 10 },
  };
}

function draw(plot) {
  const figure = figures[plot.dataset.figure];
  const chosen = (given, number) => figure.chosen === null || (given.meta?.choice ?? number) === figure.chosen;
  const data = figure.data.filter(chosen);
  return Plotly.react(plot, data.map(trace), layout(figure), { responsive: true, displayModeBar: false });
}

const drawAll = () => plots.forEach(draw);

// The arrow keys walk along a plot's longest visible line.
function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const plot = event.currentTarget;
  const shown = plot.data.filter((line) => line.visible && line.hoverinfo !== "skip" && line.type === "scatter" && line.yaxis !== "y2");
  if (!step || !shown.length) return;
  event.preventDefault();
  const line = shown.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  const last = line.x.length - 1;
  const now = plot.place ?? (step > 0 ? -1 : last + 1);
  plot.place = Math.min(last, Math.max(0, now + step * Math.max(1, Math.round(last / 50))));
  Plotly.Fx.hover(plot, { xval: line.x[plot.place] });
}

for (const button of document.querySelectorAll(".domains button")) {
  button.addEventListener("click", () => {
    const number = Number(button.dataset.domain);
    if (!hidden.delete(number)) hidden.add(number);
    button.setAttribute("aria-pressed", String(!hidden.has(number)));
    drawAll();
  });
}
for (const select of document.querySelectorAll("select[data-chooses]")) {
  const { chooses } = select.dataset;
  const choose = () => {
    figures[chooses].chosen = select.selectedIndex;
    draw(plots.find((plot) => plot.dataset.figure === chooses));
  };
  select.addEventListener("change", choose);
}
for (const plot of plots) {
  plot.addEventListener("keydown", walk);
  plot.addEventListener("blur", () => Plotly.Fx.unhover(plot));
}
// A page that is served while its run goes on asks for what is new, and changes that where it stands.
const focusable = "a, button, select, summary, [tabindex]";

function takeOver(old, given) {
  if (!given || old.innerHTML === given.innerHTML) return;
  const open = [...old.querySelectorAll("details")].map((details) => details.open);
  const focused = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
  old.innerHTML = given.innerHTML;
  old.querySelectorAll("details").forEach((details, number) => { details.open = open[number] ?? false; });
  if (focused >= 0) old.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
}

function update(text) {
  const next = new DOMParser().parseFromString(text, "text/html");
  const found = next.getElementById("figures");
  const given = found ? JSON.parse(found.textContent) : {};
  if (Object.keys(given).join() !== Object.keys(figures).join()) return location.reload();
  for (const name of Object.keys(given)) if (given[name].chosen !== null) given[name].chosen = figures[name].chosen;
  figures = given;
  for (const part of document.querySelectorAll("[data-part]")) {
    takeOver(part, next.querySelector(`[data-part="${part.dataset.part}"]`));
  }
  for (const plot of plots) {
    const now = next.querySelector(`.plot[data-figure="${plot.dataset.figure}"]`);
    plot.setAttribute("aria-label", now.getAttribute("aria-label"));
    plot.style.height = now.style.height;
  }
  for (const option of document.querySelectorAll("select option")) {
    const { chooses } = option.parentElement.dataset;
    option.text = next.querySelector(`[data-chooses="${chooses}"]`).options[option.index]?.text ?? option.text;
  }
  drawAll();
}

async function follow(seconds) {
  const status = document.querySelector(".live");
  let last = "";
  for (;;) {
    try {
      const answer = await fetch("news");
      if (answer.ok) {
        const text = await answer.text();
        if (text !== last) update(text);
        last = text;
      }
      if (status.textContent !== "Live") status.textContent = "Live";
    } catch {
      const since = new Date().toLocaleTimeString();
      if (status.textContent === "Live") status.textContent = `No longer live: nobody answers since ${since}`;
    }
    await new Promise((done) => setTimeout(done, 1000 * seconds));
  }
}

for (const query of [dark, narrow, touch]) query.addEventListener("change", drawAll);
drawAll();
if (document.documentElement.dataset.live) follow(Number(document.documentElement.dataset.live));
