"use strict";
// Draws a comparison. All that comes from a run is text: set as textContent, or escaped by plain().
(() => {
  const drawn = JSON.parse(document.getElementById("drawn").textContent);
  const root = document.documentElement;
  const dashes = ["solid", "dash", "dashdot", "dot"];
  const signs = ["circle", "square", "diamond", "cross", "triangle-up", "star", "x"];
  const colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", ""];
  const onDark = { "#0072B2": "#4DA6E8" };
  const named = { elbo: "ELBO", kl: "KL" };
  const hidden = new Set();
  const wideEnough = 600;

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dark = () => root.dataset.theme === "dark";

  function color(group) {
    const found = colors[group % colors.length] || css("--ink");
    return (dark() && onDark[found]) || found;
  }

  const dash = (group) => dashes[Math.floor(group / colors.length) % dashes.length];
  const sign = (group) => signs[group % signs.length];

  // Plotly reads tags, entities and line breaks in its texts.
  const plain = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const cut = (text, most) => (text.length > most ? text.slice(0, most - 3) + "..." : text);
  const folded = (text) => plain(cut(text, 300)).match(/(?:&\w+;|.){1,60}/gsu).join("<br>");
  const label = (group) => drawn.labels[group];
  const seen = (group) => !hidden.has(group);
  const faded = (value, alpha) =>
    "rgba(" + [1, 3, 5].map((i) => parseInt(value.slice(i, i + 2), 16)).join(",") + `,${alpha})`;

  function layout(more) {
    const narrow = window.innerWidth < wideEnough;
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--ink"), size: narrow ? 11 : 13, family: "system-ui, sans-serif" },
      margin: { l: narrow ? 48 : 64, r: 12, t: 28, b: 48 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") },
      height: narrow ? 320 : 420,
      hovermode: "closest",
      hoverlabel: { align: "left", bgcolor: css("--raised"), bordercolor: css("--line"),
        font: { color: css("--ink") } },
      dragmode: narrow ? false : "zoom",
      showlegend: false,
      ...more,
      xaxis: { ...axis, ...more.xaxis },
      yaxis: { ...axis, ...more.yaxis },
    };
  }

  // Plotly's own set of buttons has one that uploads a chart.
  const config = { responsive: true, displaylogo: false, displayModeBar: "hover",
    plotlyServerURL: "", typesetMath: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

  function draw(name, data, more) {
    const place = document.getElementById(name);
    if (place) Plotly.react(place, data, layout(more), config);
  }

  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const hover = "%{meta}<br>step %{customdata[0]:,}, epoch %{customdata[1]:.4~g}, " +
    "%{customdata[2]:.4~g} s<br>ELBO %{customdata[3]:.3f}, KL %{customdata[4]:.3f}<extra></extra>";

  function line(rows, over, value, group, name, more) {
    const own = rows.step.map((step, i) => [step, rows.epoch[i], rows.seconds[i], rows.elbo[i],
      rows.kl[i]]);
    return { x: rows[over], y: rows[value], customdata: own, meta: folded(name), type: "scatter",
      mode: rows.step.length < 2 ? "markers" : "lines", hovertemplate: hover,
      line: { color: color(group), dash: dash(group), width: 1.8, ...more } };
  }

  function traces() {
    const [value, over, of, split, axis] =
      ["value", "over", "of", "split", "axis"].map(chosen);
    const means = of === "means" && split === "valid";
    const data = [];
    drawn.traces.forEach((group, place) => {
      if (!seen(place)) return;
      const mean = means && group.mean;
      if (mean) {
        const back = (list) => [...list].reverse();
        data.push({ type: "scatter", mode: "lines", hoverinfo: "skip", fill: "toself",
          x: [...mean[over], ...back(mean[over])],
          y: [...mean[value + "_low"], ...back(mean[value + "_high"])],
          line: { width: 0 }, fillcolor: faded(color(place), 0.2) });
        data.push(line(mean, over, value, place, `${label(place)}, mean of ${mean.seeds[0]}`));
      } else {
        group.seeds.forEach((seed) => data.push(line(seed[split], over, value, place,
          `${label(place)}, ${seed.name}`, group.seeds.length > 1 ? { width: 1.2 } : {})));
      }
    });
    const title = `${split} ${named[value] || value}, ${plain(drawn.unit)}`;
    draw("traces", data, {
      xaxis: { title: { text: over }, type: axis },
      yaxis: { title: { text: fits(title) }, range: value === "kl" ? undefined : ends(data) },
    });
  }

  const fits = (text) => (window.innerWidth < wideEnough ? cut(text, 38) : cut(text, 60));

  // The first steep part is left out, so that the end can be read; a double click shows it.
  function ends(data) {
    const values = data.filter((each) => each.customdata).flatMap((each) => each.y)
      .filter((y) => y !== null).sort((a, b) => a - b);
    if (values.length < 2) return undefined;
    const low = values[Math.floor(values.length / 10)];
    const high = values[values.length - 1];
    const margin = 0.05 * (high - low) || 1;
    return [low - margin, high + margin];
  }

  function forest() {
    const rows = drawn.forest.map((each, y) => ({ ...each, y }));
    const most = Math.max(24, Math.floor(Math.min(window.innerWidth, 1100) / 15));
    const data = ["better", "worse", "open"].map((kind) => {
      const own = rows.filter((each) => each.kind === kind);
      const [low, middle, high] = [0, 1, 2].map((i) => own.map((each) => each.at[i]));
      const tone = css(`--${kind}`);
      return { type: "scatter", mode: "markers", x: middle, y: own.map((each) => each.y),
        error_x: { type: "data", symmetric: false, color: tone, thickness: 3, width: 0,
          array: high.map((x, i) => x - middle[i]), arrayminus: low.map((x, i) => middle[i] - x) },
        customdata: own.map((each, i) => `${folded(label(each.b))}<br>less ` +
          `${folded(label(each.a))}<br>${middle[i]} [${low[i]}, ${high[i]}], p ${each.p}`),
        hovertemplate: "%{customdata}<extra></extra>",
        marker: { size: 11, color: kind === "open" ? css("--page") : tone,
          line: { color: tone, width: 2 } } };
    });
    const names = rows.map((each) => ({ x: 0, xref: "paper", xanchor: "left", y: each.y - 0.4,
      showarrow: false, font: { size: 11, color: css("--soft") }, text:
        `${plain(cut(label(each.b), most))} less ${plain(cut(label(each.a), most))}` }));
    draw("forest", data, {
      height: 100 + 44 * rows.length, annotations: names,
      margin: { l: 12, r: 12, t: 28, b: 48 },
      shapes: [{ type: "line", x0: 0, x1: 0, y0: 0, y1: 1, yref: "paper", layer: "below",
        line: { color: css("--soft"), width: 1, dash: "dot" } }],
      xaxis: { title: { text: fits(`${drawn.quantity}, ${plain(drawn.unit)}`) } },
      yaxis: { range: [rows.length - 0.5, -0.7], visible: false },
    });
  }

  function plane() {
    const data = drawn.plane.map((points, group) => ({
      type: "scatter", mode: "markers", visible: seen(group),
      x: points.map((p) => p.rate), y: points.map((p) => p.distortion),
      customdata: points.map((p) => [folded(p.name), -p.rate - p.distortion]),
      meta: folded(label(group)), marker: { color: color(group), symbol: sign(group), size: 10 },
      hovertemplate: "%{meta}<br>%{customdata[0]}<br>rate %{x:.3f}, distortion %{y:.3f}, " +
        "ELBO %{customdata[1]:.3f}<extra></extra>" }));
    const all = drawn.plane.flat();
    if (!all.length) return;
    const span = (key) => {
      const values = all.map((p) => p[key]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return [low - (0.1 * (high - low) || 1), high + (0.1 * (high - low) || 1)];
    };
    const [x, y] = [span("rate"), span("distortion")];
    const sums = [...new Set(all.map((p) => (p.rate + p.distortion).toFixed(1)))].slice(0, 30);
    const lines = { type: "scatter", mode: "lines", hoverinfo: "skip", // of equal ELBO
      x: sums.flatMap(() => [...x, null]), y: sums.flatMap((sum) => [sum - x[0], sum - x[1], null]),
      line: { color: css("--line"), width: 1 } };
    draw("plane", [lines, ...data], {
      xaxis: { title: { text: "rate, KL (nats)" }, range: x },
      yaxis: { title: { text: fits(`distortion (${plain(drawn.unit)})`) }, range: y },
    });
  }

  const heavy = (curve) => curve.heavy !== null && curve.heavy >= 0.1;

  function curves() {
    const data = drawn.curves.map((curve, group) => curve && seen(group) && {
      type: "scatter", mode: "lines+markers", x: curve.k, y: curve.bound,
      line: { color: color(group), dash: dash(group) },
      meta: folded(label(group)) + (curve.heavy === null ? "" :
        `<br>k-hat above 0.7 for ${(100 * curve.heavy).toFixed(0)} % of the data`),
      marker: { size: 8, color: color(group),
        symbol: curve.k.map((_, i) =>
          heavy(curve) && i === curve.k.length - 1 ? "x-open" : sign(group)) },
      hovertemplate: "%{meta}<br>K = %{x:,}: %{y:.3f}<extra></extra>" }).filter(Boolean);
    const ks = [...new Set(data.flatMap((each) => each.x))].sort((a, b) => a - b);
    const flags = drawn.curves.map((curve, group) => curve && seen(group) && heavy(curve) && {
      x: Math.log10(curve.k[curve.k.length - 1]), y: curve.bound[curve.bound.length - 1],
      text: `k-hat > 0.7: ${(100 * curve.heavy).toFixed(0)} %`, showarrow: false, yshift: -14,
      xanchor: "right", font: { size: 11, color: color(group) } }).filter(Boolean);
    draw("curves", data, {
      annotations: flags.length > 8 ? [] : flags,
      xaxis: { title: { text: "K" }, type: "log", tickvals: ks.slice(-12),
        ticktext: ks.slice(-12).map((k) => k.toLocaleString("en")) },
      yaxis: { title: { text: fits(`log p(x) >=, ${plain(drawn.unit)}`) } },
    });
  }

  function codes() {
    const data = drawn.codes.flatMap((runs, group) => !seen(group) ? [] : runs.map((run) => ({
      type: "scatter", mode: "lines+markers", x: run.kl.map((_, i) => i + 1), y: run.kl,
      line: { color: color(group), dash: dash(group), width: 1.2 },
      marker: { size: 5, symbol: sign(group) },
      meta: `${folded(label(group))}<br>${folded(run.name)}` + (run.units === null ? "" :
        `<br>${run.active} of ${run.units} units active`),
      hovertemplate: "%{meta}<br>dimension %{x}: %{y:.3f} nats<extra></extra>" })));
    draw("codes", data, {
      xaxis: { title: { text: "dimension, from the largest KL" } },
      yaxis: { title: { text: "KL (nats)" }, rangemode: "tozero" },
    });
  }

  function legend() {
    const place = document.getElementById("legend");
    place.replaceChildren(...drawn.labels.map((text, group) => {
      const button = document.createElement("button");
      const key = document.createElement("i");
      key.className = "key";
      key.style.background = color(group);
      button.type = "button";
      button.title = text;
      button.setAttribute("aria-pressed", String(seen(group)));
      button.append(key, " ", cut(text, 80));
      button.addEventListener("click", () => {
        if (!hidden.delete(group)) hidden.add(group);
        button.setAttribute("aria-pressed", String(seen(group)));
        grouped();
      });
      return button;
    }));
    document.querySelectorAll(".key[data-group]").forEach((each) => {
      each.style.background = color(Number(each.dataset.group));
    });
  }

  const drawings = { traces, forest, plane, curves, codes };
  const near = new Set(); // to the window: the others are drawn when they come there

  const draws = (names) => names.forEach((name) => near.has(name) && drawings[name]());
  const grouped = () => draws(["traces", "plane", "curves", "codes"]);

  function all() {
    legend();
    draws(Object.keys(drawings));
  }

  const watch = new IntersectionObserver((found) => found.forEach((each) => {
    if (!each.isIntersecting || near.has(each.target.id)) return;
    near.add(each.target.id);
    drawings[each.target.id]();
  }), { rootMargin: "400px" });

  // Numbers by their value, the rest as a person would order it; "-" comes last.
  function order(a, b) {
    const number = (text) => /^[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?/i.test(text)
      ? parseFloat(text.replace(/,/g, "")) : NaN;
    const [x, y] = [number(a), number(b)];
    if (!isNaN(x) && !isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild?.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const text = (row) => row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [text(a), text(b)];
        if (x === "-" || y === "-") return (x === "-") - (y === "-");
        return up ? order(x, y) : order(y, x);
      });
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      table.tBodies[0].append(...rows);
    }));
  }

  function theme(name) {
    root.dataset.theme = name;
    all();
  }

  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let before = "";
  root.dataset.theme = system.matches ? "dark" : "light";
  system.addEventListener("change", (event) => theme(event.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => theme(dark() ? "light" : "dark"));
  document.getElementById("choices").addEventListener("change", traces);
  document.querySelectorAll("table.sortable").forEach(sortable);
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    Object.keys(drawings).forEach((name) => near.add(name));
    theme("light"); // paper is white
  });
  window.addEventListener("afterprint", () => theme(before));
  let narrow = window.innerWidth < wideEnough;
  window.addEventListener("resize", () => {
    if (narrow === (narrow = window.innerWidth < wideEnough)) return;
    all(); // margins and texts are others
  });
  legend();
  document.querySelectorAll(".drawing").forEach((each) => watch.observe(each));
  root.dataset.ready = "yes";
})();
