"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
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

function layout(figure) {
  const page = colour("--page");
  const across = { rangemode: "tozero", hoverformat: ",", ...axis(figure.xaxis) };
  if (narrow.matches && across.dtick) across.dtick *= 2;
  return {
    uirevision: "keep the zoom", height: figure.height, margin: { l: 56, r: 12, t: 12, b: 48 }, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--soft") },
    hovermode: figure.data[0]?.type === "heatmap" ? "closest" : "x unified",
    hoverlabel: { bgcolor: page, bordercolor: colour("--line"), font: { color: colour("--ink") } },
    dragmode: touch.matches ? false : "zoom",
    xaxis: across,
    yaxis: axis(figure.yaxis),
  };
}

function trace(settings) {
  const meta = settings.meta ?? {};
  if (settings.type !== "heatmap") return { ...settings, visible: !hidden.has(meta.domain) };
  return {
    ...settings,
    colorscale: [[0, colour("--few")], [0.5, colour("--equal")], [1, colour("--many")]],
    colorbar: { thickness: 10, outlinewidth: 0, len: 1, title: { text: "share", font: { size: 12 } } },
    texttemplate: meta.cells && !narrow.matches ? "%{z:.2f}" : "",
    textfont: { size: 10 },
  };
}

function draw(plot) {
  const figure = figures[plot.dataset.figure];
  return Plotly.react(plot, figure.data.map(trace), layout(figure), { responsive: true, displayModeBar: false });
}

const drawAll = () => plots.forEach(draw);

// The arrow keys walk along a plot's longest visible line.
function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const plot = event.currentTarget;
  const shown = plot.data.filter((line) => line.visible && line.hoverinfo !== "skip" && line.type === "scatter");
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
for (const plot of plots) {
  plot.addEventListener("keydown", walk);
  plot.addEventListener("blur", () => Plotly.Fx.unhover(plot));
}
for (const query of [dark, narrow, touch]) query.addEventListener("change", drawAll);
drawAll();
