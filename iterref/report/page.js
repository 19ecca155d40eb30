"use strict";
// The slider of a page: shows the watched texts of one run, or of two at equal NFE, each token by the number of steps
// since it last changed, and on request everything that competed at that step; and the page's exports.
(() => {
  const page = JSON.parse(document.getElementById("run").textContent);
  const NAMES = ["A", "B"];
  const several = page.runs.length > 1;

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
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
  const shade = (steps) => {
    if (steps === null || steps > 7) return "a4";
    return steps > 3 ? "a3" : steps > 1 ? "a2" : steps === 1 ? "a1" : "a0";
  };
  const signed = (gain) => `${gain < 0 ? "\u2212" : "+"}${Math.abs(gain).toFixed(4)}`;
  const figure = (value, low) => (value === null ? "none yet" : value === "-inf" ? low : value.toFixed(4));
  const decided = (share) => {
    if (share === null) return "nothing to decide";
    return share === 1 ? "accepted" : share === 0 ? "rejected" : `${Math.round(100 * share)}% accepted`;
  };
  const told = (steps) => (steps === null ? "as at the first step" : steps === 0 ? "changed" : `changed ${steps} ago`);
  const isNumber = (value) => typeof value === "number";
  const percent = (chance) => (chance > 0 && chance < 0.005 ? "under 1%" : `${Math.round(100 * chance)}%`);

  // What became of a candidate, and why, in words. `before` is the reward of the state that it competed with, `best` the
  // best reward seen before and after the step, `taken` the candidate of the decision that was accepted, if any.
  const verdictOf = ([reward, verdict, chance, pairs], before, best, taken) => {
    const repeated = verdict === 0 && taken?.[0] === reward;
    const above = (other) => !isNumber(other) || reward > other;
    const isBest = !repeated && isNumber(reward) && reward === best.now && above(best.before) && above(verdict < 0 ? null : before);
    const kept = isBest ? ", kept as the best so far" : "";
    const gain = isNumber(reward) && isNumber(before) ? reward - before : null;
    if (reward === "-inf") return ["\u2717", "rejected: the reward forbids it"];
    if (verdict === 2) {
      if (chance === null) return ["\u2713", `chosen, without a test${kept}`];
      const same = pairs.length === 0 ? ", the same text" : "";
      return ["\u2713", `accepted${same}${chance >= 0.995 ? "" : `, a chance of ${percent(chance)}`}${kept}`];
    }
    if (verdict === 1) {
      const why = [];
      if (gain !== null && gain < 0) why.push(`its reward is ${(-gain).toFixed(4)} lower`);
      if (chance !== null) why.push(`the chance of accepting it was ${percent(chance)}`);
      return ["\u2717", `rejected${why.length ? `: ${why.join(", and ")}` : ""}${kept}`];
    }
    if (verdict === 0) return ["\u00b7", `not chosen: another was ${!taken ? "tested" : taken[2] === null ? "taken" : "accepted"}${kept}`];
    return ["\u00b7", isBest ? "kept as the best so far" : "weighed by its reward, without a test"];
  };
  const number = (reward) => (isNumber(reward) ? reward : -Infinity);
  // Equal candidates of equal fate once, with their number.
  const folded = (decision) => {
    const found = new Map();
    for (const one of decision) {
      const key = JSON.stringify(one);
      found.set(key, [one, (found.get(key)?.[1] ?? 0) + 1]);
    }
    return [...found.values()].sort((a, b) => number(b[0][0]) - number(a[0][0]));
  };

  // A run with all that its panels need; `show(k)` shows its step k.
  const begin = (run, place) => {
    const data = run.steps;
    const tokensOf = { states: whole(data.states), clean: whole(data.clean) };
    const age = { states: ages(tokensOf.states), clean: ages(tokensOf.clean) };
    const ends = new Set(data.ends ?? []);
    // Behind which place a text is over, by its first end; the length without one.
    const overOf = (ids, w) => {
      const start = data.begins?.[w] ?? 0;
      const end = ids.findIndex((token, i) => i >= start && ends.has(token));
      return end < 0 ? ids.length : end;
    };
    // Where the run of equal tokens begins that a canvas ends with, behind the first of them; the length without a run.
    const tailOf = (ids) => {
      let start = ids.length;
      while (start > 1 && ids[start - 2] === ids.at(-1)) start -= 1;
      return ids.length - start > 2 && data.picture === null && ids.at(-1) !== data.mask ? start : ids.length;
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
    const written = (ids, w) => ids.slice(0, overOf(ids, w)).map((id, i) => (i ? gap(id) : "") + named(id)).join("");

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

    let now = 0;
    const panels = [...document.querySelectorAll(`.panel[data-run="${place}"]`)].map((panel) => {
      const w = Number(panel.dataset.place);
      const home = panel.querySelector(".tokens");
      const moves = panel.querySelector(".moves");
      home.classList.toggle("ids", data.names === null && data.picture === null);
      if (moves) moves.addEventListener("toggle", () => list(moves, now, w));
      const line = run.rows.find(({ row }) => row === data.watch[w]);
      return { w, figures: panel.querySelector(".figures"), home, moves, line, ...board(home, tokensOf.states[0][w].length) };
    });

    const candidate = ([one, count], before, best, taken, base, w, marked) => {
      const [reward, verdict, , pairs] = one;
      const [sign, words] = verdictOf(one, before, best, taken);
      const line = make("tr", `v${verdict}`);
      const gain = isNumber(reward) && isNumber(before) ? signed(reward - before) : "";
      line.append(make("td", "verdict", `${sign} ${words}${count > 1 ? ` \u00d7${count}` : ""}`));
      line.append(make("td", "figure", figure(reward, "forbidden")), make("td", "figure", gain));
      if (data.drawn !== null) return line;
      const cell = make("td", "text");
      const inside = make("div", data.picture === null ? "words" : "tokens small");
      const ids = changed(base, pairs);
      const end = tailOf(ids);
      const over = overOf(ids, w);
      const { tokens, gaps } = board(inside, end);
      const fresh = new Set(marked ? pairs.filter((_, i) => i % 2 === 0) : []);
      tokens.forEach((token, i) => {
        put(token, gaps[i], ids[i], i === 0);
        token.className = `token ${fresh.has(i) ? "a0" : "a4"}${ids[i] === data.mask ? " mask" : ""}${i > over ? " past" : ""}`;
      });
      if (end < ids.length) inside.append(make("span", "tail", ` \u00d7${ids.length - end + 1}`));
      if (data.picture !== null) inside.setAttribute("aria-label", `${fresh.size} pixels differ`);
      cell.append(inside);
      line.append(cell);
      return line;
    };
    // The candidates of a row at a step, best reward first in each decision; written only while they are shown.
    const list = (moves, k, w) => {
      const decisions = data.rounds[k][w];
      const all = decisions.flatMap(([, , listed]) => listed);
      const left = decisions.reduce((sum, [more]) => sum + more, 0);
      const count = (wanted) => all.filter(([, verdict]) => verdict === wanted).length;
      const parts = [`${all.length + left} proposal${all.length + left === 1 ? "" : "s"}`];
      if (decisions.length > 1) parts.push(`${decisions.length} decisions`);
      const tested = all.some(([, , chance]) => chance !== null);
      if (count(-1) < all.length) parts.push(tested ? `${count(2)} accepted, ${count(1)} rejected` : `${count(2)} chosen`);
      moves.querySelector("summary").textContent = all.length + left === 0 ? "no proposals at this step" : parts.join(", ");
      const home = moves.querySelector(".candidates");
      home.replaceChildren();
      if (!moves.open || all.length + left === 0) return;
      const table = make("table", "proposals");
      table.setAttribute("aria-label", `proposals of row ${data.watch[w]} at step ${data.step[k]}`);
      const head = table.createTHead().insertRow();
      const heads = ["verdict", "reward", "change", ...(data.drawn !== null ? [] : [data.picture ? "picture" : "text"])];
      for (const name of heads) {
        const cell = make("th", "", name);
        cell.scope = "col";
        head.append(cell);
      }
      const base = tokensOf.clean[Math.max(k - 1, 0)][w];
      const best = { before: data.step[k] === 1 ? null : data.before.best[k][w], now: data.best[k][w] };
      const shown = data.step[k] === 1 ? null : data.before.reward[k][w];
      decisions.forEach(([more, before, decision], d) => {
        const body = table.createTBody();
        if (decisions.length > 1) {
          const title = make("th", "part", `decision ${d + 1} of ${decisions.length}`);
          title.colSpan = heads.length;
          title.scope = "rowgroup";
          body.insertRow().append(title);
        }
        const taken = decision.find(([, verdict]) => verdict === 2);
        const against = decision.some(([, verdict]) => verdict >= 0) ? before : shown;
        for (const one of folded(decision)) body.append(candidate(one, against, best, taken, base, w, k > 0));
        if (more > 0) {
          const rest = make("td", "note", `and ${more} more, which the page of a run of this size leaves out`);
          rest.colSpan = heads.length;
          body.insertRow().append(rest);
        }
      });
      home.append(table);
    };

    const show = (k) => {
      now = k;
      const kind = document.querySelector("input[name=shown]:checked").value;
      for (const { w, figures, home, moves, line, tokens, gaps, image } of panels) {
        const ids = tokensOf[kind][k][w];
        const places = ids.map((_, i) => i).filter((i) => age[kind][k][w][i] === 0);
        if (image) {
          image.src = data.images[data.drawn[kind][k][w]];
          image.alt = `row ${data.watch[w]} at step ${data.step[k]}`;
        } else {
          const end = tailOf(ids);
          const over = overOf(ids, w);
          tokens.forEach((token, i) => {
            const masked = ids[i] === data.mask;
            const open = kind === "clean" && tokensOf.states[k][w][i] !== ids[i];
            put(token, gaps[i], ids[i], i === 0);
            token.className = `token ${shade(age[kind][k][w][i])}${masked ? " mask" : ""}${open ? " open" : ""}`
              + `${i >= end ? " tail" : ""}${i > over ? " past" : ""}`;
            token.title = `position ${i}, ${masked ? "mask" : `token ${ids[i]}`}, ${told(age[kind][k][w][i])}`
              + (i > over ? ", behind the end" : "");
          });
        }
        const where = places.length === 0 ? "no token changed"
          : `${places.length} changed, at ${places.slice(0, 12).join(", ")}${places.length > 12 ? " \u2026" : ""}`;
        if (data.picture !== null) home.setAttribute("aria-label", `picture of row ${data.watch[w]}, ${where}`);
        const likely = isNumber(line?.log_likelihood) ? `; final log-likelihood ${line.log_likelihood.toFixed(1)}` : "";
        figures.textContent = `${decided(data.accepted[k][w])}; ${where}; `
          + `reward ${figure(data.reward[k][w], data.best[k][w] === "-inf" ? "none yet" : "forbidden")}, best seen ${figure(data.best[k][w], "none yet")}${likely}`;
        if (moves) list(moves, k, w);
      }
    };
    const position = (k) => `${data.step[k]} of ${data.all}`;
    const said = (k) => {
      const scored = data.reward_calls[k] === null ? "" : `, ${data.reward_calls[k]} reward calls`;
      return `${position(k)}, time ${data.t[k].toFixed(3)}, ${data.nfe[k]} NFE${scored}`;
    };
    const kind = () => document.querySelector("input[name=shown]:checked").value;
    const lines = () => (data.names === null ? [] : data.watch.map((row, w) => [row, written(tokensOf[kind()][now][w], w), now]));
    return { data, place, show, said, at: position, lines, last: data.step.length - 1 };
  };

  const watched = page.runs.map((run, place) => (run.steps ? begin(run, place) : null)).filter((run) => run !== null);
  const byRun = Object.fromEntries(watched.map((run) => [run.place, run]));

  // What is saved as a file, without a network.
  const save = (name, type, text) => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll("\"", "\"\"")}"` : value);
  const asCsv = () => {
    const names = [...new Set(page.runs.flatMap(({ rows }) => rows.flatMap((row) => Object.keys(row))))].filter((name) => name !== "picture");
    const lines = page.runs.flatMap(({ rows }, place) => rows.map((row) => [
      ...(several ? [NAMES[place]] : []), ...names.map((name) => quoted(String(row[name] ?? ""))),
    ]));
    return `${[[...(several ? ["run"] : []), ...names], ...lines].map((line) => line.join(",")).join("\r\n")}\r\n`;
  };
  const asText = () => page.runs.map((run, place) => {
    const facts = Object.entries(run.facts).map(([name, words]) => `${name}: ${words}`);
    const rows = run.rows.flatMap(({ row, prompt, reward, log_likelihood, text }) => text === undefined ? [] : [
      "", `row ${row}, reward ${figure(reward, "forbidden")}${isNumber(log_likelihood) ? `, log-likelihood ${log_likelihood.toFixed(1)}` : ""}`,
      ...(prompt ? [`prompt: ${prompt}`] : []), text,
    ]);
    const steps = (byRun[place]?.lines() ?? []).flatMap(([row, text, k]) => ["", `row ${row} at step ${byRun[place].at(k)}`, text]);
    return [...(several ? [`run ${NAMES[place]}`] : []), ...facts, ...rows, ...steps].join("\n");
  }).join("\n\n") + "\n";
  const EXPORTS = {
    json: () => save("iterref-run.json", "application/json", JSON.stringify(page)),
    csv: () => save("iterref-run.csv", "text/csv", asCsv()),
    txt: () => save("iterref-run.txt", "text/plain", asText()),
  };
  for (const button of document.querySelectorAll("[data-export]")) {
    button.addEventListener("click", () => EXPORTS[button.dataset.export]());
  }
  document.documentElement.classList.add("live");
  if (watched.length === 0) return;

  const slider = document.getElementById("step");
  const at = document.getElementById("at");
  const play = document.getElementById("play");
  // The places of the slider: the steps of a run, or of two runs each NFE at which one of them has a step.
  const spent = [...new Set(watched.flatMap(({ data }) => data.nfe))].sort((a, b) => a - b);
  const alone = watched.length === 1;
  const last = alone ? watched[0].last : spent.length - 1;
  const stepAt = ({ data }, position) => (alone ? position : Math.max(0, data.nfe.findLastIndex((nfe) => nfe <= spent[position])));
  slider.max = String(last);
  const charts = [...document.querySelectorAll("svg.chart")].map((svg) => ({
    cursors: [...svg.querySelectorAll(".cursor")],
    series: svg.dataset.axis.startsWith("NFE") ? "nfe" : "reward_calls",
    values: svg.dataset.values.split(" ").map(Number),
    places: svg.dataset.places.split(" ").map(Number),
  }));

  const show = () => {
    const position = Number(slider.value);
    const words = watched.map((run) => {
      const k = stepAt(run, position);
      run.show(k);
      for (const { cursors, series, values: [low, high], places: [left, right] } of charts) {
        const x = left + (run.data[series][k] - low) / (high - low) * (right - left);
        for (const cursor of cursors.filter(({ dataset }) => Number(dataset.run) === run.place)) {
          cursor.setAttribute("x1", x.toFixed(1));
          cursor.setAttribute("x2", x.toFixed(1));
        }
      }
      return alone ? run.said(k) : `${NAMES[run.place]} at step ${run.at(k)}`;
    });
    at.textContent = alone ? words[0] : `${spent[position]} NFE: ${words.join(", ")}`;
    slider.setAttribute("aria-valuetext", at.textContent);
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
  show();
})();
