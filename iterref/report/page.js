"use strict";
// The slider of a page: shows the watched rows at one step, each token by the number of steps since it last changed,
// and on request everything that competed at that step.
(() => {
  const data = JSON.parse(document.getElementById("trace").textContent);
  const slider = document.getElementById("step");
  const at = document.getElementById("at");
  const play = document.getElementById("play");
  const charts = [...document.querySelectorAll("svg.chart")].map((svg) => ({
    cursor: svg.querySelector(".cursor"),
    at: svg.dataset.at.split(" "),
  }));

  const changed = (tokens, pairs) => {
    const now = tokens.slice();
    for (let i = 0; i < pairs.length; i += 2) now[pairs[i]] = pairs[i + 1];
    return now;
  };
  // Every step whole again, from the first one and what changed after it.
  const whole = ({ first, then }) => {
    const steps = [first];
    for (const step of then) steps.push(step.map((pairs, w) => changed(steps.at(-1)[w], pairs)));
    return steps;
  };
  // Steps since each token last changed, counted from the first step, at which nothing is known to have changed.
  const ages = (series) => {
    const found = [];
    series.forEach((rows, k) => {
      found.push(rows.map((row, w) => row.map((token, i) => {
        if (k === 0) return null;
        if (series[k - 1][w][i] !== token) return 0;
        return found[k - 1][w][i] === null ? null : found[k - 1][w][i] + 1;
      })));
    });
    return found;
  };
  const tokensOf = { states: whole(data.states), clean: whole(data.clean) };
  const age = { states: ages(tokensOf.states), clean: ages(tokensOf.clean) };
  const last = tokensOf.states.length - 1;

  // Where the run of equal tokens begins that a canvas ends with, behind the first of them; the length without a run.
  const tailOf = (ids) => {
    let start = ids.length;
    while (start > 1 && ids[start - 2] === ids.at(-1)) start -= 1;
    return ids.length - start > 2 && data.picture === null && ids.at(-1) !== data.mask ? start : ids.length;
  };

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const blanks = data.names !== null && Object.values(data.names).some((name) => /\s/.test(name));
  const raw = (token) => (data.names === null ? String(token) : data.names[token] ?? String(token));
  // Names that carry their own blanks keep them, in front of the box; the others stand apart.
  const gap = (token) => (!blanks || token === data.mask || /^\s/.test(raw(token)) ? " " : "");
  const named = (token) => {
    if (token === data.mask) return "\u25a2";
    const name = raw(token);
    return (blanks ? name.replace(/^ /, "") : name).replaceAll("\n", "\u21b5") || "\u00b7";
  };
  const shade = (steps) => {
    if (steps === null || steps > 7) return "a4";
    return steps > 3 ? "a3" : steps > 1 ? "a2" : steps === 1 ? "a1" : "a0";
  };
  const figure = (value, low) => (value === null ? "none yet" : value === "-inf" ? low : value.toFixed(4));
  const decided = (share) => {
    if (share === null) return "nothing to decide";
    return share === 1 ? "accepted" : share === 0 ? "rejected" : `${Math.round(100 * share)}% accepted`;
  };
  const told = (steps) => (steps === null ? "as at the first step" : steps === 0 ? "changed" : `changed ${steps} ago`);

  // One canvas: as words, as a grid of pixels, or as a picture of its own.
  const board = (home, length) => {
    if (data.drawn !== null) {
      const image = make("img", "drawn");
      home.append(image);
      return { image };
    }
    if (data.picture !== null) {
      home.classList.add("grid");
      home.style.setProperty("--wide", data.picture.width);
      home.setAttribute("role", "img");
    }
    const tokens = Array.from({ length }, () => make("span"));
    const gaps = tokens.map((token, i) => {
      if (data.picture !== null) return home.append(token);
      const space = document.createTextNode(i === 0 ? "" : " ");
      home.append(space, token);
      return space;
    });
    return { tokens, gaps };
  };
  const put = (token, space, id, first) => {
    const masked = id === data.mask;
    token.dataset.token = id;
    if (data.picture !== null) {
      token.style.backgroundColor = masked ? "" : data.picture.colours[id];
      return;
    }
    if (!first) space.data = gap(id);
    token.textContent = named(id);
    if (masked) {
      token.setAttribute("role", "img");
      token.setAttribute("aria-label", "mask");
    } else {
      token.removeAttribute("role");
      token.removeAttribute("aria-label");
    }
  };

  const rows = [...document.querySelectorAll("section.row")].map((section, w) => {
    const home = section.querySelector(".tokens");
    const moves = section.querySelector(".moves");
    home.classList.toggle("ids", data.names === null && data.picture === null);
    if (moves) moves.addEventListener("toggle", () => list(moves, Number(slider.value), w));
    return {
      figures: section.querySelector(".figures"), home, moves, ...board(home, tokensOf.states[0][w].length),
    };
  });

  const VERDICTS = { "-1": ["weighted", "\u00b7"], 0: ["not chosen", "\u00b7"], 1: ["rejected", "\u2717"], 2: ["accepted", "\u2713"] };
  const number = (reward) => (typeof reward === "number" ? reward : -Infinity);
  const candidate = (one, before, base, marked) => {
    const [[reward, verdict, pairs], count] = one;
    const [word, sign] = VERDICTS[verdict];
    const line = make("tr", `v${verdict}`);
    const gain = typeof reward === "number" && typeof before === "number" ? reward - before : null;
    line.append(make("td", "verdict", `${sign} ${word}${count > 1 ? ` \u00d7${count}` : ""}`), make("td", "figure", figure(reward, "forbidden")));
    line.append(make("td", "figure", gain === null ? "" : `${gain < 0 ? "\u2212" : "+"}${Math.abs(gain).toFixed(4)}`));
    if (data.drawn !== null) return line;
    const cell = make("td", "text");
    if (pairs === null) {
      cell.textContent = "not written out on this page";
      cell.classList.add("note");
    } else {
      const inside = make("div", data.picture === null ? "words" : "tokens small");
      const ids = changed(base, pairs);
      const end = tailOf(ids);
      const { tokens, gaps } = board(inside, end);
      const fresh = new Set(marked ? pairs.filter((_, i) => i % 2 === 0) : []);
      tokens.forEach((token, i) => {
        put(token, gaps[i], ids[i], i === 0);
        token.className = `token ${fresh.has(i) ? "a0" : "a4"}${ids[i] === data.mask ? " mask" : ""}`;
      });
      if (end < ids.length) inside.append(make("span", "tail", ` \u00d7${ids.length - end + 1}`));
      if (data.picture !== null) inside.setAttribute("aria-label", `${fresh.size} pixels differ`);
      cell.append(inside);
    }
    line.append(cell);
    return line;
  };
  // Equal candidates of equal fate once, with their number.
  const folded = (decision) => {
    const found = new Map();
    for (const one of decision) {
      const key = one[2] === null ? one : JSON.stringify(one);
      found.set(key, [one, (found.get(key)?.[1] ?? 0) + 1]);
    }
    return [...found.values()].sort((a, b) => number(b[0][0]) - number(a[0][0]));
  };
  // The candidates of a row at a step, best reward first in each decision; written only while they are shown.
  const list = (moves, k, w) => {
    const decisions = data.rounds[k][w];
    const all = decisions.flat();
    const count = (wanted) => all.filter(([, verdict]) => verdict === wanted).length;
    const parts = [`${all.length} proposal${all.length === 1 ? "" : "s"}`];
    if (decisions.length > 1) parts.push(`${decisions.length} decisions`);
    if (count(-1) < all.length) parts.push(`${count(2)} accepted, ${count(1)} rejected`);
    moves.querySelector("summary").textContent = all.length === 0 ? "no proposals at this step" : parts.join(", ");
    const home = moves.querySelector(".candidates");
    home.replaceChildren();
    if (!moves.open || all.length === 0) return;
    const table = make("table", "proposals");
    table.setAttribute("aria-label", `proposals of row ${data.watch[w]} at step ${k + 1}`);
    const head = table.createTHead().insertRow();
    const heads = ["verdict", "reward", "change", ...(data.drawn !== null ? [] : [data.picture ? "picture" : "text"])];
    for (const name of heads) {
      const cell = make("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    const base = tokensOf.clean[Math.max(k - 1, 0)][w];
    let before = k === 0 ? null : data.reward[k - 1][w];
    decisions.forEach((decision, d) => {
      const body = table.createTBody();
      if (decisions.length > 1) {
        const title = make("th", "part", `decision ${d + 1} of ${decisions.length}`);
        title.colSpan = heads.length;
        title.scope = "rowgroup";
        body.insertRow().append(title);
      }
      for (const one of folded(decision)) body.append(candidate(one, before, base, k > 0));
      const taken = decision.find(([, verdict]) => verdict === 2);
      if (taken) before = taken[0];
    });
    home.append(table);
    if (data.most !== null) home.append(make("p", "note", `Of a decision, ${data.most} are written out on this page.`));
  };

  const show = () => {
    const k = Number(slider.value);
    const kind = document.querySelector("input[name=shown]:checked").value;
    const scored = data.reward_calls[k] === null ? "" : `, ${data.reward_calls[k]} reward calls`;
    at.textContent = `${k + 1} of ${last + 1}, time ${data.t[k].toFixed(3)}, ${data.nfe[k]} NFE${scored}`;
    slider.setAttribute("aria-valuetext", at.textContent);
    rows.forEach(({ figures, home, moves, tokens, gaps, image }, w) => {
      const ids = tokensOf[kind][k][w];
      const places = ids.map((_, i) => i).filter((i) => age[kind][k][w][i] === 0);
      if (image) {
        image.src = data.images[data.drawn[kind][k][w]];
        image.alt = `row ${data.watch[w]} at step ${k + 1}`;
      } else {
        const end = tailOf(ids);
        tokens.forEach((token, i) => {
          const masked = ids[i] === data.mask;
          const open = kind === "clean" && tokensOf.states[k][w][i] !== ids[i];
          put(token, gaps[i], ids[i], i === 0);
          token.className = `token ${shade(age[kind][k][w][i])}${masked ? " mask" : ""}${open ? " open" : ""}`
            + (i >= end ? " tail" : "");
          token.title = `position ${i}, ${masked ? "mask" : `token ${ids[i]}`}, ${told(age[kind][k][w][i])}`;
        });
      }
      const where = places.length === 0 ? "no token changed"
        : `${places.length} changed, at ${places.slice(0, 12).join(", ")}${places.length > 12 ? " \u2026" : ""}`;
      if (data.picture !== null) home.setAttribute("aria-label", `picture of row ${data.watch[w]}, ${where}`);
      figures.textContent = `${decided(data.accepted[k][w])}; ${where}; `
        + `reward ${figure(data.reward[k][w], "forbidden")}, best seen ${figure(data.best[k][w], "none yet")}`;
      if (moves) list(moves, k, w);
    });
    for (const { cursor, at: places } of charts) {
      cursor.setAttribute("x1", places[k]);
      cursor.setAttribute("x2", places[k]);
    }
  };

  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "play";
  };
  const go = (k) => {
    slider.value = String(Math.min(last, Math.max(0, k)));
    show();
  };
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    play.textContent = "pause";
    go(Number(slider.value) === last ? 0 : Number(slider.value));
    timer = setInterval(() => {
      go(Number(slider.value) + 1);
      if (Number(slider.value) === last) stop();
    }, 400);
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  document.querySelectorAll("input[name=shown]").forEach((input) => input.addEventListener("change", show));
  // Wherever the focus is; a control that has a use of its own for the arrow keys keeps it.
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.tagName === "INPUT") return;
    event.preventDefault();
    stop();
    go(Number(slider.value) + by);
  });
  document.documentElement.classList.add("live");
  show();
})();
