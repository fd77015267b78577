"use strict";
// Draws the pictures of a report from the values in the page. Every picture takes the keyboard: arrows move a cursor, Home and
// End go to its ends, and the line below says what is there.
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent);
  const INKS = ["--a", "--b", "--c", "--d", "--e", "--f"];
  const DASHES = ["", "7 4", "2 3", "10 3 2 3", "4 2", "12 5"];
  const SVG = "http://www.w3.org/2000/svg";

  const svg = (name, attributes, parent, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  };
  const html = (name, parent, text, className) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    if (parent) parent.appendChild(node);
    return node;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const number = (value) => {
    if (value === null || value === undefined) return "not known";
    const size = Math.abs(value);
    if (size >= 1e4 && Number.isInteger(value)) return value.toLocaleString("en-US");
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return String(Number(value.toPrecision(4)));
  };
  const seconds = (value) => (value === null ? "not known" : value >= 0.1 || value === 0 ? `${number(value)} s` : `${number(1e3 * value)} ms`);
  const bytes = (value) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let at = 0;
    for (let v = value; v >= 999.5 && at < 4; v /= 1000) at += 1;
    return `${Number((value / 1000 ** at).toPrecision(3))} ${units[at]}`;
  };
  const percent = (value) => (value === null ? "none" : `${Math.round(100 * value)}%`);

  // at most `count` round numbers that span low to high
  const ticks = (low, high, count) => {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) found.push(Number((k * step).toPrecision(12)));
    return found;
  };
  const decades = (low, high) => {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) found.push(10 ** e);
    const inside = found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
    if (inside.length >= 2) return inside;
    const finer = found.flatMap((v) => [v, 2 * v, 5 * v]).filter((v) => v >= low * 0.999 && v <= high * 1.001);
    return finer.length >= 2 ? finer : ticks(low, high, 4);
  };

  // cursor: count places, where a pointer at (x, y) is, what to draw and to say there
  const interactive = (figure, box, cursor) => {
    const readout = figure.querySelector(".readout");
    box.tabIndex = 0;
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${figure.querySelector("h3").textContent}. Arrow keys move the cursor.`);
    let at = null;
    const go = (to) => {
      at = to;
      cursor.show(to);
      readout.textContent = to === null ? "" : cursor.say(to);
    };
    box.addEventListener("keydown", (event) => {
      const from = at ?? cursor.first;
      const to = at === null && event.key.startsWith("Arrow") ? from : cursor.move(from, event.key);
      if (to === null) return;
      event.preventDefault();
      go(to);
    });
    box.addEventListener("focus", () => { if (at === null && box.matches(":focus-visible")) go(cursor.first); });
    box.addEventListener("pointermove", (event) => {
      const place = box.getBoundingClientRect();
      const to = cursor.at(event.clientX - place.left, event.clientY - place.top);
      if (to !== null) go(to);
    });
    box.addEventListener("pointerleave", () => { if (document.activeElement !== box) go(null); });
    box.addEventListener("blur", () => go(null));
  };
  const along = (count) => (from, key) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: Math.ceil(count / 10), PageUp: -Math.ceil(count / 10) }[key];
    if (key === "Home") return 0;
    if (key === "End") return count - 1;
    return step === undefined ? null : Math.min(count - 1, Math.max(0, from + step));
  };

  const legend = (plot, series) => {
    const list = html("ul", plot, undefined, "legend");
    for (const each of series) {
      const item = html("li", list);
      const sample = svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, item);
      svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: `var(${each.ink})`, "stroke-width": 2.5, "stroke-dasharray": each.dash }, sample);
      if (each.dots) svg("circle", { cx: 13, cy: 6, r: 4, fill: `var(${each.ink})` }, sample);
      item.append(each.name);
    }
  };

  // series: {name, ink, dash, x, y, low, high, step (numbers to say), dots}
  const lines = (figure, series, options) => {
    const plot = figure.querySelector(".plot");
    plot.replaceChildren();
    const known = series.filter((each) => each.y.some((v) => v !== null && (!options.log || v > 0)));
    if (!known.length) { html("p", plot, "Nothing is recorded of it."); return; }
    if (known.length > 1 || options.legend) legend(plot, known);
    const width = Math.max(280, plot.clientWidth), height = options.height ?? (width < 500 ? 220 : 260);
    const box = svg("svg", { viewBox: `0 0 ${width} ${height}`, height }, plot);
    const usable = (v) => v !== null && v !== undefined && (!options.log || v > 0);
    const all = known.flatMap((each) => [...each.y, ...(each.low ?? []), ...(each.high ?? [])]).filter(usable);
    let low = Math.min(...all), high = Math.max(...all);
    if (options.zero) low = Math.min(0, low);
    if (low === high) { low = options.log ? low / 2 : Math.min(low, 0); high = high === 0 ? 1 : options.log ? high * 2 : high * 1.1; }
    const xs = known.flatMap((each) => each.x);
    let left = Math.min(...xs), right = Math.max(...xs);
    if (left === right) right = left + 1;
    const yTicks = options.log ? decades(low, high) : ticks(low, high, 5);
    const label = options.unit ?? number;
    const room = 14 + 7 * Math.max(...yTicks.map((v) => label(v).length));
    const area = { x: room, y: 8, w: width - room - 12, h: height - 44 };
    const scale = options.log ? Math.log10 : (v) => v;
    const px = (v) => area.x + (area.w * (v - left)) / (right - left);
    const py = (v) => area.y + area.h * (1 - (scale(v) - scale(low)) / (scale(high) - scale(low)));
    for (const v of yTicks) {
      svg("line", { class: "grid", x1: area.x, x2: area.x + area.w, y1: py(v), y2: py(v) }, box);
      svg("text", { x: area.x - 6, y: py(v) + 4, "text-anchor": "end" }, box, label(v));
    }
    for (const v of ticks(left, right, Math.floor(area.w / 90))) {
      svg("text", { x: px(v), y: area.y + area.h + 16, "text-anchor": "middle" }, box, number(v));
    }
    svg("line", { class: "axis", x1: area.x, x2: area.x + area.w, y1: area.y + area.h, y2: area.y + area.h }, box);
    svg("text", { x: area.x + area.w, y: height - 4, "text-anchor": "end" }, box, options.xname);
    for (const each of known) {
      if (each.low) {
        const at = each.y.map((v, i) => i).filter((i) => usable(each.low[i]) && usable(each.high[i]));
        const there = at.map((i) => `${px(each.x[i])},${py(each.high[i])}`);
        const back = at.reverse().map((i) => `${px(each.x[i])},${py(each.low[i])}`);
        svg("polygon", { class: "band", points: [...there, ...back].join(" "), fill: `var(${each.ink})` }, box);
      }
      if (each.dots) {
        each.y.forEach((v, i) => usable(v) && svg("circle", { cx: px(each.x[i]), cy: py(v), r: 4, fill: `var(${each.ink})` }, box));
        continue;
      }
      let path = "", pen = "M";
      each.y.forEach((v, i) => {
        if (!usable(v)) { pen = "M"; return; }
        path += `${pen}${px(each.x[i]).toFixed(1)},${py(v).toFixed(1)}`;
        pen = "L";
      });
      svg("path", { class: "line", d: path, stroke: `var(${each.ink})`, "stroke-dasharray": each.dash }, box);
    }
    const cross = svg("line", { class: "cross", y1: area.y, y2: area.y + area.h, visibility: "hidden" }, box);
    const base = known.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    const nearest = (each, x) => each.x.reduce((best, v, i) => (Math.abs(v - x) < Math.abs(each.x[best] - x) ? i : best), 0);
    interactive(figure, box, {
      first: base.x.length - 1,
      move: along(base.x.length),
      at: (x) => nearest(base, left + ((x * (width / box.clientWidth) - area.x) / area.w) * (right - left)),
      show: (i) => {
        if (i === null) { cross.setAttribute("visibility", "hidden"); return; }
        for (const end of ["x1", "x2"]) cross.setAttribute(end, px(base.x[i]));
        cross.setAttribute("visibility", "visible");
      },
      say: (i) => {
        const x = base.x[i];
        const told = known.filter((each) => x >= Math.min(...each.x) && x <= Math.max(...each.x));
        return `${options.xsay(x, base, i)}: ${told.map((each) => `${each.name} ${label(each.y[nearest(each, x)])}`).join(", ")}`;
      },
    });
  };

  const heat = (figure, run) => {
    const plot = figure.querySelector(".plot");
    plot.replaceChildren();
    const { edges, rows } = run.heat, columns = edges.length - 1, count = rows.length;
    if (columns < 1 || !count) { html("p", plot, "Nothing is recorded of it."); return; }
    const width = Math.max(280, plot.clientWidth), ratio = window.devicePixelRatio || 1;
    const room = 26 + 7 * String(count).length, cell = Math.max(7, Math.min(24, 480 / count));
    const height = cell * count + 24, wide = (width - room - 4) / columns;
    const box = html("canvas", plot);
    box.width = width * ratio; box.height = height * ratio; box.style.height = `${height}px`;
    const pen = box.getContext("2d");
    const paint = (marked) => {
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
      pen.textBaseline = "middle";
      const ink = colour("--soft"), cells = colour("--cell"), line = colour("--line");
      const every = Math.ceil(14 / cell);
      rows.forEach((row, r) => {
        const y = r * cell;
        if (r % every === 0 || run.troubled[r + 1]) {
          pen.fillStyle = run.troubled[r + 1] ? colour("--alarm") : ink;
          pen.textAlign = "right";
          if (cell >= 12 || r % every === 0) pen.fillText(`${run.troubled[r + 1] ? "▸ " : ""}${r + 1}`, room - 6, y + cell / 2);
        }
        for (let c = 0; c < columns; c += 1) {
          const x = room + c * wide, tall = cell - (cell > 10 ? 1.5 : 0.5);
          if (row[c] === "-") {
            pen.strokeStyle = ink;
            pen.lineWidth = 0.8;
            pen.save();
            pen.beginPath(); pen.rect(x, y, wide + 0.3, tall); pen.clip();
            pen.beginPath();
            for (let k = Math.floor((x - cell) / 5) * 5; k < x + wide; k += 5) { pen.moveTo(k, y + tall); pen.lineTo(k + tall, y); }
            pen.stroke();
            pen.restore();
            continue;
          }
          if (row[c] === ".") {
            pen.fillStyle = ink;
            pen.globalAlpha = 0.55;
            pen.fillRect(x, y + tall / 2 - 1, wide + 0.3, 2);
            pen.globalAlpha = 1;
            continue;
          }
          pen.fillStyle = `rgba(${cells}, ${0.06 + (0.94 * Number(row[c])) / 9})`;
          pen.fillRect(x, y, wide + 0.3, tall);
        }
      });
      pen.fillStyle = ink;
      pen.strokeStyle = line;
      const last = edges[columns];
      for (const v of ticks(edges[0], last, Math.floor(width / 90))) {
        const x = room + ((v - edges[0]) / (last - edges[0])) * (width - room - 4);
        pen.textAlign = x > width - 30 ? "right" : "center";
        pen.fillText(number(v), Math.min(x, width - 2), count * cell + 13);
      }
      if (marked) {
        pen.strokeStyle = colour("--ink");
        pen.lineWidth = 2;
        pen.strokeRect(room + marked.c * wide - 1, marked.r * cell - 1, Math.max(4, wide) + 2, cell + 1);
      }
    };
    paint(null);
    interactive(figure, box, {
      first: { r: 0, c: columns - 1 },
      move: (from, key) => {
        const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], PageDown: [0, 20], PageUp: [0, -20], Home: [0, -columns], End: [0, columns] }[key];
        if (!by) return null;
        return { r: Math.min(count - 1, Math.max(0, from.r + by[0])), c: Math.min(columns - 1, Math.max(0, from.c + by[1])) };
      },
      at: (x, y) => {
        const r = Math.floor(y / cell), c = Math.floor((x * (width / box.clientWidth) - room) / wide);
        return r >= 0 && r < count && c >= 0 && c < columns ? { r, c } : null;
      },
      show: paint,
      say: ({ r, c }) => {
        const from = edges[c], to = edges[c + 1] - 1, mark = rows[r][c];
        const when = from === to ? `step ${from}` : `steps ${from} to ${to}`;
        const trouble = run.troubled[r + 1] ? ` (${run.troubled[r + 1]})` : "";
        const share = from === to ? (Number(mark) > 4 ? "counted" : "did not count") : `counted in about ${percent(Number(mark) / 9)}`;
        return `worker ${r + 1}${trouble}, ${when}: ${mark === "-" ? "away" : mark === "." ? "only timed" : share}`;
      },
    });
  };

  // rows of bars: for each worker a list of {from, to, fill}; marks drawn by the caller
  const rowsOf = (figure, run, draw, say, axis) => {
    const plot = figure.querySelector(".plot");
    const count = run.workers;
    const width = Math.max(280, plot.clientWidth), room = 26 + 7 * String(count).length;
    const cell = Math.max(11, Math.min(22, 480 / count)), height = cell * count + 24;
    const box = svg("svg", { viewBox: `0 0 ${width} ${height}`, height }, plot);
    const area = { x: room, w: width - room - 14 };
    for (const v of axis.ticks) {
      const x = area.x + area.w * (v / axis.most);
      svg("line", { class: "grid", x1: x, x2: x, y1: 0, y2: cell * count }, box);
      svg("text", { x, y: height - 8, "text-anchor": v === axis.most ? "end" : "middle" }, box, axis.label(v));
    }
    const marker = svg("rect", { x: 0, width, height: cell, fill: "var(--grid)", visibility: "hidden" }, box);
    box.insertBefore(marker, box.firstChild);
    for (let r = 0; r < count; r += 1) {
      const y = r * cell;
      const name = svg("text", { x: room - 6, y: y + cell / 2 + 4, "text-anchor": "end" }, box, `${run.troubled[r + 1] ? "▸ " : ""}${r + 1}`);
      if (run.troubled[r + 1]) name.style.fill = "var(--alarm)";
      draw(box, r, (v) => area.x + area.w * (v / axis.most), y, cell);
    }
    interactive(figure, box, {
      first: 0,
      move: along(count),
      at: (x, y) => { const r = Math.floor(y / cell); return r >= 0 && r < count ? r : null; },
      show: (r) => {
        marker.setAttribute("visibility", r === null ? "hidden" : "visible");
        if (r !== null) marker.setAttribute("y", r * cell);
      },
      say: (r) => `worker ${r + 1}${run.troubled[r + 1] ? ` (${run.troubled[r + 1]})` : ""}: ${say(r)}`,
    });
  };
  const keys = (plot, entries) => {
    const list = html("ul", plot, undefined, "legend");
    for (const [name, fill, round] of entries) {
      const item = html("li", list), sample = html("i", item);
      sample.style.background = fill;
      if (round) sample.style.borderRadius = "50%";
      item.append(name);
    }
  };
  const shares = { most: 1, ticks: [0, 0.25, 0.5, 0.75, 1], label: percent };
  const WORDS = { computing: "computing", data: "waiting for data", other: "encoding, injected delay, dropped work", link: "link", idle: "idle", away: "away" };

  // what grey would not tell apart is hatched: in the bars by patterns, in their legend by gradients
  const HATCHED = {
    link: "repeating-linear-gradient(45deg, var(--parts-link) 0 3px, var(--card) 3px 5px)",
    away: "repeating-linear-gradient(-45deg, var(--parts-away) 0 1px, var(--card) 1px 4px)",
  };
  const hatches = (box, of) => {
    const defs = svg("defs", {}, box);
    for (const [name, size, thick, turn] of [["link", 5, 3, 45], ["away", 4, 1.2, -45]]) {
      const pattern = svg("pattern", { id: `${of}-${name}`, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${turn})` }, defs);
      svg("rect", { width: size, height: size, fill: "var(--card)" }, pattern);
      svg("rect", { width: thick, height: size, fill: `var(--parts-${name})` }, pattern);
    }
  };
  const parts = (figure, run) => {
    const plot = figure.querySelector(".plot");
    plot.replaceChildren();
    if (!run.parts) { html("p", plot, "Nothing is recorded of it."); return; }
    const names = run.parts.names;
    keys(plot, names.map((name) => [WORDS[name], HATCHED[name] ?? `var(--parts-${name})`]));
    rowsOf(figure, run, (box, r, px, y, cell) => {
      if (r === 0) hatches(box, figure.id);
      let from = 0;
      names.forEach((name, k) => {
        const share = run.parts.rows[r][k];
        if (share > 0) svg("rect", { x: px(from), y: y + 1.5, width: Math.max(0.5, px(from + share) - px(from) - 0.8), height: cell - 3, fill: HATCHED[name] ? `url(#${figure.id}-${name})` : `var(--parts-${name})` }, box);
        from += share;
      });
    }, (r) => names.map((name, k) => [name, run.parts.rows[r][k]]).filter(([, share]) => share >= 0.005).map(([name, share]) => `${WORDS[name]} ${percent(share)}`).join(", "), shares);
  };

  const arrival = (figure, run) => {
    const plot = figure.querySelector(".plot");
    plot.replaceChildren();
    keys(plot, [["observed", "var(--a)", true], ["promised", "transparent", false]]);
    rowsOf(figure, run, (box, r, px, y, cell) => {
      const [planned, seen] = run.arrival[r], middle = y + cell / 2;
      if (planned !== null && seen !== null) svg("line", { x1: px(planned), x2: px(seen), y1: middle, y2: middle, stroke: "var(--soft)", "stroke-width": 2 }, box);
      if (planned !== null) svg("rect", { x: px(planned) - 4, y: middle - 4, width: 8, height: 8, fill: "var(--card)", stroke: "var(--ink)", "stroke-width": 1.5 }, box);
      if (seen !== null) svg("circle", { cx: px(seen), cy: middle, r: Math.min(5, cell / 3), fill: "var(--a)" }, box);
    }, (r) => {
      const [planned, seen, sigmas] = run.arrival[r];
      return `observed ${percent(seen)}, promised ${planned === null ? "nothing" : `${percent(planned)}, ${number(sigmas)} sigmas off`}`;
    }, shares);
  };

  const bits = (figure, run) => {
    const plot = figure.querySelector(".plot");
    plot.replaceChildren();
    if (!run.bits.some((b) => b !== null)) { html("p", plot, "Nothing is recorded of it."); return; }
    const most = Math.max(8, ...run.bits.map((b) => b ?? 0));
    rowsOf(figure, run, (box, r, px, y, cell) => {
      const value = run.bits[r];
      if (value) svg("rect", { x: px(0), y: y + 2, width: px(value) - px(0), height: cell - 4, fill: "var(--a)" }, box);
      if (cell >= 14) svg("text", { class: "ink", x: px(value ?? 0) + 5, y: y + cell / 2 + 4 }, box, value === null ? "no row" : value === 0 ? "only timed" : String(value));
    }, (r) => (run.bits[r] === null ? "not in the plan" : `${run.bits[r]} bits a coordinate`), { most: most * 1.08, ticks: ticks(0, most, 4), label: number });
  };

  const bySteps = { xname: "step", xsay: (x) => `step ${x}` };
  const draw = {
    "loss-step": (figure) => lines(figure, runs.map((run, k) => ({ name: run.name, ink: INKS[k % 6], dash: DASHES[k % 6], x: run.x.step, y: run.loss.mean, low: run.loss.low, high: run.loss.high })), { ...bySteps, log: true }),
    "loss-seconds": (figure) => lines(figure, runs.map((run, k) => ({ name: run.name, ink: INKS[k % 6], dash: DASHES[k % 6], x: run.x.seconds, y: run.loss.mean })), { xname: "seconds", xsay: (x) => `after ${number(x)} s`, log: true }),
    heat, parts, arrival, bits,
    noise: (figure, run) => lines(figure, [
      { name: "planned", ink: "--a", dash: "", x: run.x.step, y: run.noise.planned },
      { name: "observed", ink: "--b", dash: "6 4", x: run.x.step, y: run.noise.observed },
    ], { ...bySteps, log: true }),
    deadline: (figure, run) => lines(figure, [
      { name: "deadline", ink: "--b", dash: "6 4", x: run.x.step, y: run.deadline.deadline },
      { name: "step took", ink: "--a", dash: "", x: run.x.step, y: run.deadline.step },
    ], { ...bySteps, log: true, unit: seconds }),
    bytes: (figure, run) => lines(figure, [
      { name: "up, to the master", ink: "--a", dash: "", x: run.x.step, y: run.bytes.up },
      { name: "down, to the workers", ink: "--b", dash: "6 4", x: run.x.step, y: run.bytes.down },
    ], { ...bySteps, zero: true, unit: bytes }),
  };

  const drawAll = () => {
    for (const figure of document.querySelectorAll("figure[data-kind]")) {
      const old = figure.querySelector("[tabindex]"), focused = old !== null && old === document.activeElement;
      const run = /^run-(\d+)-/.exec(figure.id);
      draw[figure.dataset.kind](figure, run ? runs[Number(run[1])] : undefined);
      if (focused) figure.querySelector("[tabindex]")?.focus();
    }
  };

  for (const table of document.querySelectorAll("table[data-events]")) {
    for (const row of runs[Number(table.dataset.events)].events) {
      const line = html("tr", table.tBodies[0]);
      for (const cell of row) html("td", line, cell);
    }
  }
  for (const table of document.querySelectorAll("table[data-whatif]")) {
    for (const row of runs[Number(table.dataset.whatif)].whatif) {
      const line = html("tr", table.tBodies[0], undefined, row.own ? "own" : "");
      html("th", line, row.setting);
      for (const cell of row.cells) html("td", line, cell);
    }
  }
  drawAll();
  let width = window.innerWidth, waiting = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.documentElement.dataset.ready = "yes";
})();
