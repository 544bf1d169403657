"use strict";
// Draws figures from their tables, sorts tables, offers CSV, switches light and dark, and follows a live run.
(() => {
  const root = document.documentElement;
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const live = "live" in document.body.dataset;
  root.classList.add("js");

  // Tables: a cell's value is data-v, or its text where that says it all.
  const value = (cell) => {
    const text = cell.dataset.v ?? cell.textContent;
    if (text === "") return null;
    return cell.classList.contains("n") && !isNaN(text) ? Number(text) : text;
  };
  const rowsOf = (table) => [...table.tBodies[0].rows].map((row) => [...row.cells].map(value));
  const headsOf = (table) => [...table.tHead.rows[0].cells];

  const records = (figure) => {
    const table = figure.querySelector("table");
    const keys = headsOf(table).map((head) => head.dataset.key);
    const titles = headsOf(table).map((head) => head.dataset.title ?? head.textContent);
    const melt = figure.dataset.melt && JSON.parse(figure.dataset.melt);
    const as = (row, last) => Object.fromEntries(keys.slice(0, last).map((key, i) => [key, row[i]]));
    if (!melt) return rowsOf(table).map((row) => as(row, keys.length));
    const [name, number, first] = melt;
    return rowsOf(table).flatMap((row) =>
      row.slice(first).map((one, i) => ({ ...as(row, first), [name]: isNaN(titles[first + i]) ? titles[first + i] : Number(titles[first + i]), [number]: one })));
  };

  const cmp = (a, b) =>
    a === null || b === null ? (a === null) - (b === null)
      : typeof a === "number" && typeof b === "number" ? a - b
        : String(a).localeCompare(String(b), undefined, { numeric: true });

  const sort = (table, column, up) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
    const empty = rows.filter(([one]) => one === null);
    const full = rows.filter(([one]) => one !== null).sort((a, b) => (up ? 1 : -1) * cmp(a[0], b[0]));
    body.append(...[...full, ...empty].map(([, row]) => row));
    headsOf(table).forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };

  const sortable = (table) => headsOf(table).forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    // Numbers begin with the largest, words with the first.
    button.onclick = () => sort(table, i, head.getAttribute("aria-sort")
      ? head.getAttribute("aria-sort") === "descending" : !head.classList.contains("n"));
  });

  const csv = (table) => {
    // As fedhello.formatting.spreadsheet_safe: no cell is taken for a formula.
    const cell = (one) => {
      if (one === null) return "";
      const text = typeof one === "string" && /^([\t\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20])/.test(one) ? "'" + one : String(one);
      return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    return [headsOf(table).map((head) => head.textContent), ...rowsOf(table)]
      .map((row) => row.map(cell).join(",") + "\n").join("");
  };

  const offer = (button) => {
    const of = button.closest(".figure, .part, .folded");
    button.hidden = false;
    button.onclick = () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(of.querySelector("table"))], { type: "text/csv" }));
      link.download = (of.querySelector("h3, summary").textContent.trim().replace(/[^\p{L}\p{N}]+/gu, "-") || "data") + ".csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };
  };

  // Figures are drawn when they come into sight; the new drawing takes the old one's place when it is done.
  const draw = async (figure) => {
    const plot = figure.querySelector(".plot");
    const next = document.createElement("div");
    next.className = "next";
    next.ariaHidden = "true";  // who does not see it reads the caption and the table
    plot.append(next);
    figure.dataset.drawn = theme();
    try {
      const spec = JSON.parse(figure.querySelector("script.spec").textContent);
      const whole = {
        width: "container", autosize: { type: "fit-x", contains: "padding" },
        data: { values: spec.data ? [] : records(figure) }, ...spec,
      };
      const { legend, ...config } = themes[theme()];
      const room = plot.clientWidth - 80;  // beside the labels of the axis
      const columns = Math.max(1, Math.floor(room / 135));
      config.legend = { ...legend, columns, labelLimit: Math.max(60, room / columns - 28) };
      const result = await vegaEmbed(next, whole, {
        actions: false, config, renderer: "canvas" in figure.dataset ? "canvas" : "svg", tooltip: { theme: "custom" },
        ast: live,  // the server of a live page allows no code made of text; without, drawing is faster
      });
      figure.result?.finalize();
      figure.result = result;
      plot.replaceChildren(next);
      next.className = "";
    } catch (error) {
      next.remove();
      delete figure.dataset.drawn;
      console.error(`the figure ${figure.id} cannot be drawn: ${error}`);
    }
  };
  const seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    if (isIntersecting && target.dataset.drawn !== theme()) draw(target);
  }), { rootMargin: "600px" });
  const figures = () => [...document.querySelectorAll(".figure")];
  const redraw = () => figures().forEach((figure) => { seen.unobserve(figure); seen.observe(figure); });

  const prepare = (within) => {
    within.querySelectorAll("table.data").forEach(sortable);
    within.querySelectorAll(".csv").forEach(offer);
    within.querySelectorAll(".figure").forEach((figure) => seen.observe(figure));
  };

  const button = document.getElementById("theme");
  const label = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; };
  button.hidden = false;
  button.onclick = () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    label();
    redraw();
  };
  system.addEventListener("change", () => { label(); redraw(); });
  addEventListener("beforeprint", () => figures().forEach((figure) => figure.dataset.drawn || draw(figure)));
  label();
  prepare(document);

  // Live: the server says when something has changed; what a reader opened, sorted and sees stays as it is.
  const swap = (html) => {
    const main = document.getElementById("main");
    const fresh = document.createElement("main");
    fresh.innerHTML = html;
    const name = (one) => one.closest("section")?.id + "/" + one.querySelector("summary").textContent;
    const open = new Set([...main.querySelectorAll("details[open]")].map(name));
    fresh.querySelectorAll("details").forEach((one) => { one.open = open.has(name(one)); });
    fresh.querySelectorAll(".figure").forEach((figure) => {
      const old = document.getElementById(figure.id);
      if (!old) return;
      const plot = old.querySelector(".plot");
      const same = (one) => one.querySelector(".spec").textContent + JSON.stringify(records(one));
      figure.querySelector(".plot").append(...plot.childNodes);
      figure.result = old.result;
      if (same(old) === same(figure) && old.dataset.drawn) figure.dataset.drawn = old.dataset.drawn;
      seen.unobserve(old);
    });
    const sorted = [...main.querySelectorAll("table.data")].map((table) => {
      const column = headsOf(table).findIndex((head) => head.hasAttribute("aria-sort"));
      return [table.closest(".wide").getAttribute("aria-label"), column, column >= 0 && headsOf(table)[column].getAttribute("aria-sort") === "ascending"];
    });
    main.replaceChildren(...fresh.childNodes);
    const lead = document.getElementById("lead").content.textContent.split("\n");
    document.querySelectorAll("header .lead").forEach((one, i) => { one.textContent = lead[i] ?? ""; });
    prepare(main);
    sorted.filter(([, column]) => column >= 0).forEach(([title, column, up]) => {
      const table = [...main.querySelectorAll(".wide")].find((one) => one.getAttribute("aria-label") === title)?.querySelector("table");
      if (table) sort(table, column, up);
    });
    document.getElementById("said").textContent = `New numbers, ${new Date().toLocaleTimeString()}`;
    root.dataset.updates = Number(root.dataset.updates ?? 0) + 1;
  };

  // What happens right now, from .status.json: the phase and time left in words, and a bar for each client asked.
  const clock = (seconds) => seconds < 90 ? `${Math.round(seconds)} s`
    : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  const sentence = (status) => {
    if (!status.phase || status.phase === "ended") return "the run has ended";
    if (status.alive === false) return "the run's process is gone; fedhello resume goes on with it";
    const round = status.round != null && status.rounds ? `round ${Math.min(status.round + 1, status.rounds)} of ${status.rounds}, ` : "";
    const left = status.seconds_left == null ? "" : `, about ${clock(status.seconds_left)} left`;
    return `${round}${status.phase}${left}`;
  };
  const bars = (status, now) => {
    const clients = (status.phase === "ended" || status.alive === false ? [] : status.clients ?? []).slice(0, 60);
    now.hidden = clients.length === 0;
    now.replaceChildren(...clients.map((one) => {
      const item = document.createElement("div");
      item.className = "client " + one.phase;
      const name = document.createElement("span");
      name.textContent = `${one.name ?? "client " + one.client}: ${one.phase}`
        + (one.phase === "training" && one.steps ? ` ${one.step}/${one.steps}` : "");
      const bar = document.createElement("i");
      const share = one.phase === "sent" ? 1 : one.steps ? one.step / one.steps : 0;
      bar.style.setProperty("--share", `${Math.round(100 * share)}%`);
      item.append(name, bar);
      return item;
    }));
  };

  if (live) {
    const at = (path) => new URL(path + location.search, location.href);
    const strip = document.getElementById("live");
    const say = (text) => { if (strip.textContent !== text) strip.textContent = text; };
    const events = new EventSource(at("events"));
    const load = async () => {
      const reply = await fetch(at("main"));
      if (reply.ok) swap(await reply.text());
    };
    let ended = false;
    events.onopen = () => ended || say("following the run");
    events.onerror = () => ended || say("the connection is lost; trying again …");
    events.addEventListener("change", () => load().catch(() => say("the connection is lost; trying again …")));
    events.addEventListener("status", (event) => {
      const status = JSON.parse(event.data);
      ended = status.phase === "ended";
      say(sentence(status));
      bars(status, document.getElementById("now"));
    });
  }
})();
