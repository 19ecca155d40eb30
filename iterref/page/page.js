"use strict";
// The slider of a page: shows the watched rows at one step, each token by the number of steps since it last changed.
(() => {
  const data = JSON.parse(document.getElementById("trace").textContent);
  const slider = document.getElementById("step");
  const at = document.getElementById("at");
  const last = data.states.length - 1;
  const charts = [...document.querySelectorAll("svg.chart")].map((svg) => ({
    cursor: svg.querySelector(".cursor"),
    at: svg.dataset.at.split(" "),
  }));

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
  const age = { states: ages(data.states), guesses: ages(data.guesses) };

  const rows = [...document.querySelectorAll("section.row")].map((section, w) => {
    const home = section.querySelector(".tokens");
    const tokens = data.states[0][w].map(() => {
      const token = document.createElement("span");
      home.append(token, data.names === null ? " " : "");
      return token;
    });
    home.classList.toggle("ids", data.names === null);
    return { figures: section.querySelector(".figures"), tokens };
  });

  const named = (token) => {
    if (token === data.mask) return "\u25a2";
    if (data.names === null) return String(token);
    return (data.names[token] ?? String(token)).replaceAll("\n", "\u21b5") || "\u00b7";
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

  const show = () => {
    const k = Number(slider.value);
    const kind = document.querySelector("input[name=shown]:checked").value;
    at.textContent = `${k + 1} of ${last + 1}, time ${data.t[k].toFixed(3)}, ${data.denoiser[k]} denoiser rows`;
    slider.setAttribute("aria-valuetext", at.textContent);
    rows.forEach(({ figures, tokens }, w) => {
      const changed = [];
      tokens.forEach((token, i) => {
        const id = data[kind][k][w][i];
        const steps = age[kind][k][w][i];
        const masked = id === data.mask;
        const open = kind === "guesses" && data.states[k][w][i] !== id;
        if (steps === 0) changed.push(i);
        token.textContent = named(id);
        token.className = `token ${shade(steps)}${masked ? " mask" : ""}${open ? " open" : ""}`;
        token.title = `position ${i}, ${masked ? "mask" : `token ${id}`}, ${told(steps)}`;
        if (masked) {
          token.setAttribute("role", "img");
          token.setAttribute("aria-label", "mask");
        } else {
          token.removeAttribute("role");
          token.removeAttribute("aria-label");
        }
      });
      const places = changed.length === 0 ? "no token changed"
        : `${changed.length} changed, at ${changed.slice(0, 12).join(", ")}${changed.length > 12 ? " \u2026" : ""}`;
      figures.textContent = `${decided(data.accepted[k][w])}; ${places}; `
        + `reward ${figure(data.reward[k][w], "forbidden")}, best seen ${figure(data.best[k][w], "none yet")}`;
    });
    for (const { cursor, at: places } of charts) {
      cursor.setAttribute("x1", places[k]);
      cursor.setAttribute("x2", places[k]);
    }
  };

  slider.addEventListener("input", show);
  document.querySelectorAll("input[name=shown]").forEach((input) => input.addEventListener("change", show));
  // Wherever the focus is; a control that has a use of its own for the arrow keys keeps it.
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.tagName === "INPUT") return;
    slider.value = String(Math.min(last, Math.max(0, Number(slider.value) + by)));
    event.preventDefault();
    show();
  });
  document.documentElement.classList.add("live");
  show();
})();
