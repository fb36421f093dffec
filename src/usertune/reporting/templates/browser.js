// The browser of samples. Tabulator (https://tabulator.info) draws the list, and only the rows that are in view; this
// file gives it the samples, filters and orders, and shows one sample. Texts are set as text, never as HTML.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("samples-data").textContent);
  const { samples, answers, experiments, verdicts, pictures } = data;
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_PRINTED = 100;
  const MOST_COLUMNS = 6;
  // In pixels; with more experiments than these, columns have room for a symbol and the start of a name.
  const [WIDE_COLUMN, NARROW_COLUMN, MOST_WIDE] = [62, 40, 4];
  const SYMBOLS = { right: "✓", partly: "◐", wrong: "✗", unparsed: "?", "not measured": "–", "not asked": "–" };
  const KEYS = ["experiment", "outcome", "user", "app", "agreement", "min", "max", "text", "sort"];

  const section = document.getElementById("samples");
  const form = section.querySelector("form");
  const list = document.getElementById("samples-list");
  const pane = document.getElementById("sample");
  const count = document.getElementById("samples-count");
  const position = (names) => Object.fromEntries(names.map((name, index) => [name, index]));
  const userNumber = position(data.users);
  const appNumber = position(data.apps);
  const experimentNumber = position(experiments.map((item) => item.name));
  const rank = data.ranks.map((ranked) => {
    const places = new Int32Array(ranked.length);
    ranked.forEach((user, place) => { places[user] = place; });
    return places;
  });
  const rows = samples.id.map((_, number) => ({ number }));

  let filters = {};
  let current = null;
  let active = [];
  let table = null;
  let shownExperiment = "";

  // ---- elements

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  function shape(experiment, x, y, r, parent, halo) {
    const { colour, outline } = experiments[experiment];
    const attributes = { fill: colour };
    if (halo) Object.assign(attributes, { stroke: "#ffffff", "stroke-width": 0.5 * r, "paint-order": "stroke" });
    if (!outline.length) return drawn("circle", { cx: x, cy: y, r, ...attributes }, parent);
    const points = outline.map(([dx, dy]) => `${x + r * dx},${y + r * dy}`).join(" ");
    return drawn("polygon", { points, ...attributes }, parent);
  }

  function mark(experiment) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "mark");
    svg.setAttribute("viewBox", "-10 -10 20 20");
    svg.setAttribute("aria-hidden", "true");
    shape(experiment, 0, 0, 8, svg, false);
    return svg;
  }

  // ---- what is known of a sample

  const verdictOf = (experiment, number) => verdicts[answers[experiment].verdict[number]][0];
  const wordOf = (experiment, number) => verdicts[answers[experiment].verdict[number]][1];
  const userOf = (number) => data.users[samples.user[number]];
  const appOf = (number) => data.apps[samples.app[number]];
  const agreementOf = (number) => data.agreements[samples.agreement[number]] ?? "";

  function question(number) {
    const [before, after] = data.common;
    const text = samples.instruction[number];
    return text.slice(before, text.length - after).replace(/\s+/g, " ").trim();
  }

  const everyExperiment = experiments.map((_, index) => index);
  const onlyExperiment = experiments.map((_, index) => [index]);
  const chosen = () => onlyExperiment[experimentNumber[filters.experiment]] ?? everyExperiment;

  function distanceOf(number) {
    let largest = null;
    for (const experiment of chosen()) {
      const value = answers[experiment].distance[number];
      if (value !== null && (largest === null || value > largest)) largest = value;
    }
    return largest;
  }

  // ---- filters and order

  function matcher() {
    const { outcome, agreement, min, max } = filters;
    const shown = chosen();
    const user = filters.user ? userNumber[filters.user] ?? -1 : null;
    const app = filters.app ? appNumber[filters.app] ?? -1 : null;
    const right = agreement ? data.agreements.indexOf(agreement) : null;
    const wanted = outcome === "failed" ? data.failed : outcome ? [outcome] : null;
    const accepted = wanted && verdicts.map(([verdict]) => wanted.includes(verdict));
    const low = min ? Number(min) : null;
    const high = max ? Number(max) : null;
    const words = (filters.text ?? "").toLowerCase().trim();
    const within = (value) => value !== null && (low === null || value >= low) && (high === null || value <= high);
    const has = (text) => text.toLowerCase().includes(words);
    return ({ number }) =>
      (user === null || samples.user[number] === user) &&
      (app === null || samples.app[number] === app) &&
      (right === null || samples.agreement[number] === right) &&
      ((!accepted && low === null && high === null) ||
        shown.some(
          (i) =>
            (!accepted || accepted[answers[i].verdict[number]]) &&
            ((low === null && high === null) || within(answers[i].distance[number])),
        )) &&
      (!words ||
        has(samples.instruction[number]) ||
        has(samples.id[number]) ||
        has(samples.reference[number]) ||
        shown.some((i) => has(answers[i].text[number])));
  }

  function sorter() {
    const shown = chosen();
    const ranked = rank[filters.experiment in experimentNumber ? shown[0] : experimentNumber[data.start.experiment]];
    const far = (number) => distanceOf(number) ?? -1;
    const near = (number) => distanceOf(number) ?? Infinity;
    const first = {
      worst: (number) => ranked[samples.user[number]],
      far: (number) => -far(number),
      near,
      outcome: (number) => Math.min(...shown.map((i) => answers[i].verdict[number])),
      agreement: (number) => samples.agreement[number] ?? data.agreements.length,
      app: (number) => samples.app[number],
    }[filters.sort];
    if (!first) return (a, b) => a - b;
    const keys = Float64Array.from(rows, ({ number }) => first(number));
    // Where keys are equal (infinite ones too), the study's order.
    return (a, b) => (keys[a] === keys[b] ? a - b : keys[a] - keys[b]);
  }

  let compare = (a, b) => a - b;

  function apply({ keep }) {
    compare = sorter();
    table.blockRedraw();
    table.setFilter(matcher());
    table.setSort("number", "asc");
    table.restoreRedraw();
    active = table.getData("active").map(({ number }) => number);
    const total = rows.length.toLocaleString("en");
    count.textContent = active.length === rows.length
      ? `All ${total} samples`
      : `${active.length.toLocaleString("en")} of ${total} samples`;
    // Distances are those of the chosen experiment.
    if (shownExperiment !== filters.experiment) {
      shownExperiment = filters.experiment;
      for (const [number, cell] of distanceCells) cell.textContent = distanceText(number);
    }
    show(keep !== null ? keep : active[0] ?? null);
  }

  // ---- the list

  function outcomeCell(experiment) {
    return (cell) => {
      const { number } = cell.getData();
      const verdict = verdictOf(experiment, number);
      const symbol = element("span", { "aria-hidden": "true", class: "symbol" }, SYMBOLS[verdict]);
      const box = element("span", { class: "verdict", "data-verdict": verdict, title: answers[experiment].outcome[number] });
      box.append(symbol, element("span", { class: experiments.length > 2 ? "unseen" : "word" }, wordOf(experiment, number)));
      return box;
    };
  }

  function pictureCell(cell) {
    const { number } = cell.getData();
    const picture = pictures[samples.picture[number]];
    if (!picture) return "";
    const [source, width, height] = picture;
    return element("img", { src: source, alt: "", loading: "lazy", decoding: "async", width, height, class: "thumbnail" });
  }

  function sampleCell(cell) {
    const { number } = cell.getData();
    const where = [userOf(number), samples.id[number], appOf(number)].filter(Boolean).join(" · ");
    return element("span", { class: "of" }, element("span", { class: "asked" }, question(number)), element("span", { class: "where" }, where));
  }

  const distanceText = (number) => distanceOf(number)?.toLocaleString("en", { maximumFractionDigits: 0 }) ?? "–";
  // Of the rows that were in view: they show the distance of the chosen experiment, which changes.
  const distanceCells = new Map();

  function distanceCell(cell) {
    const { number } = cell.getData();
    const made = element("span", {}, distanceText(number));
    distanceCells.set(number, made);
    return made;
  }

  function columns() {
    const order = (a, b, rowA, rowB) => compare(rowA.getData().number, rowB.getData().number);
    const plain = { headerSort: false, resizable: false };
    const shown = experiments.length <= MOST_COLUMNS ? experiments.map((_, index) => index) : [];
    const least = shown.length > MOST_WIDE ? NARROW_COLUMN : WIDE_COLUMN;
    const found = [{ ...plain, title: "", field: "number", sorter: order, width: 44, formatter: () => "", visible: false }];
    if (pictures.length) found.push({ ...plain, title: "screenshot", titleFormatter: () => element("span", { class: "unseen" }, "screenshot"), field: "picture", width: 62, formatter: pictureCell, responsive: 0 });
    found.push({ ...plain, title: "sample", field: "sample", minWidth: 150, widthGrow: 4, formatter: sampleCell, responsive: 0 });
    for (const index of shown) {
      const { name } = experiments[index];
      // Where there is no room for all, the experiment of the failures that are shown first stays longest.
      const priority = name === data.start.experiment ? 1 : 3;
      const head = () => element("span", { class: "head", title: name }, mark(index), element("span", {}, name));
      found.push({ ...plain, title: name, field: `outcome${index}`, minWidth: least, widthGrow: 1, formatter: outcomeCell(index), responsive: priority, titleFormatter: head });
    }
    if (answers.some((answer) => answer.distance.some((value) => value !== null))) {
      found.push({ ...plain, title: "distance", field: "distance", width: 78, hozAlign: "right", formatter: distanceCell, responsive: 2 });
    }
    if (!shown.length) found.push({ ...plain, title: "agreement", field: "agreement", minWidth: 90, formatter: (cell) => agreementOf(cell.getData().number), responsive: 3 });
    return found;
  }

  // ---- one sample

  function screen(number) {
    const picture = pictures[samples.picture[number]];
    const size = picture ? picture.slice(1) : samples.size[number];
    if (!size) return element("p", { class: "note" }, "This sample has no screenshot.");
    const [width, height] = size;
    const unit = Math.max(width, height) / 100;
    const box = element("div", { class: picture ? "shot" : "shot blank" });
    // As wide as there is room for, but no higher than the height that the style sheet gives.
    box.style.setProperty("--shape", String(width / height));
    const said = experiments.map((item, index) => `${item.name}: ${answers[index].outcome[number]}`).join("; ");
    const label = `${picture ? "Screenshot" : "Place of the marks"} of sample ${samples.id[number]} with the target and the answers. ${said}.`;
    if (picture) box.append(element("img", { src: picture[0], alt: label, width, height }));
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (picture) svg.setAttribute("aria-hidden", "true");
    else {
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", label);
    }
    const [target, radii, place] = [samples.target[number], samples.radii[number], samples.box[number]];
    if (target) {
      for (const [stroke, factor] of [["#ffffff", 0.6], ["#111418", 0.28]]) {
        const line = { fill: "none", stroke, "stroke-width": factor * unit };
        if (place) drawn("rect", { x: place[0], y: place[1], width: place[2], height: place[3], ...line }, svg);
        const dashes = { "stroke-dasharray": `${unit} ${0.8 * unit}`, "stroke-opacity": 0.85, class: "region" };
        drawn("ellipse", { cx: target[0], cy: target[1], rx: radii[0], ry: radii[1], ...line, ...dashes }, svg);
      }
      const [x, y] = target;
      const [near, far] = [0.8 * unit, 2.4 * unit];
      const cross = `M${x - far} ${y} H${x - near} M${x + near} ${y} H${x + far} M${x} ${y - far} V${y - near} M${x} ${y + near} V${y + far}`;
      for (const [stroke, factor] of [["#ffffff", 0.9], ["#111418", 0.4]]) {
        drawn("path", { d: cross, fill: "none", stroke, "stroke-width": factor * unit, "stroke-linecap": "round" }, svg);
      }
    }
    answers.forEach((answer, index) => {
      const point = answer.point[number];
      if (point) shape(index, point[0], point[1], 0.95 * unit, svg, true);
    });
    box.append(svg);
    return box;
  }

  function text(title, content, ...more) {
    const name = typeof title === "string" ? title : title[1];
    const head = element("dt", {}, ...(typeof title === "string" ? [title] : title), ...more);
    return element("div", {}, head, element("dd", {}, element("pre", { tabindex: 0, role: "group", "aria-label": name }, content)));
  }

  function facts(number) {
    const about = [["episode", `${samples.episode[number]}, step ${samples.step[number]}`], ["app", appOf(number)], ...samples.about[number], ["experiments", agreementOf(number)]];
    const line = element("dl", { class: "about" });
    for (const [key, value] of about) if (value) line.append(element("div", {}, element("dt", {}, key), element("dd", {}, value)));
    const found = element("dl", {}, text("Instruction", samples.instruction[number]), text("Expected answer", samples.reference[number]));
    experiments.forEach((item, index) => {
      const answer = answers[index];
      const [form, meaning] = data.forms[answer.form[number]];
      const read = verdictOf(index, number) === "unparsed" ? "; not read: " : "; read as ";
      const outcome = element("span", {}, ` ${answer.outcome[number]}`);
      const how = form ? element("span", { class: "form" }, read, element("code", { title: meaning }, form)) : "";
      found.append(text([mark(index), item.name], answer.text[number], outcome, how));
    });
    return [line, found];
  }

  function show(number) {
    current = number;
    pane.hidden = number === null;
    for (const row of list.querySelectorAll('[aria-selected="true"]')) row.setAttribute("aria-selected", "false");
    if (number === null) return remember();
    const place = active.indexOf(number);
    const where = place < 0 ? "not in the list" : `${(place + 1).toLocaleString("en")} of ${active.length.toLocaleString("en")}`;
    document.getElementById("sample-title").replaceChildren(`User ${userOf(number)}, sample ${samples.id[number]} `, element("small", {}, where));
    pane.querySelector(".screen").replaceChildren(screen(number));
    pane.querySelector(".facts").replaceChildren(...facts(number));
    for (const button of pane.querySelectorAll("[data-step]")) {
      const next = place + Number(button.dataset.step);
      button.disabled = place < 0 || next < 0 || next >= active.length;
    }
    const row = table.getRow(number);
    if (row && place >= 0) {
      table.scrollToRow(row, "nearest", false).catch(() => {}).finally(() => row.getElement().setAttribute("aria-selected", String(current === number)));
    }
    remember();
  }

  function step(by) {
    const place = active.indexOf(current);
    if (!active.length) return;
    show(active[Math.min(active.length - 1, Math.max(0, place + by))]);
    const said = experiments.map((item, index) => `${item.name}: ${wordOf(index, current)}`).join(", ");
    document.getElementById("samples-said").textContent = `${userOf(current)}, ${question(current)}. ${said}`;
  }

  // ---- the address

  function remember() {
    const said = new URLSearchParams();
    for (const key of KEYS) if (filters[key] && !(key === "sort" && filters.sort === "worst")) said.set(key, filters[key]);
    if (current !== null && touched) {
      if (!filters.user) said.set("of", userOf(current));
      said.set("sample", samples.id[current]);
    }
    if (touched) history.replaceState(null, "", `#${said}`);
  }

  // The address stays as it was until somebody uses the browser.
  let touched = false;

  function fromAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    const known = KEYS.concat("sample", "of").some((key) => said.has(key));
    filters = known ? {} : { ...data.start, outcome: "failed" };
    for (const key of KEYS) if (said.get(key)) filters[key] = said.get(key);
    filters.sort ??= "worst";
    for (const key of KEYS) {
      const field = form.elements[key];
      if (!field) continue;
      field.value = filters[key] ?? "";
      // A link of another study: a filter that there is not must not hide everything without a word.
      if (field.value !== (filters[key] ?? "")) {
        delete filters[key];
        field.selectedIndex = 0;
      }
    }
    const user = userNumber[said.get("of") ?? said.get("user")];
    const id = said.get("sample");
    let number = id === null ? -1 : samples.id.findIndex((own, index) => own === id && (user === undefined || samples.user[index] === user));
    touched = touched || known;
    apply({ keep: number < 0 ? null : number });
    if (id !== null && number < 0) count.textContent += `; there is no sample ${id} of this user`;
    if (known) section.scrollIntoView({ behavior: "instant", block: "start" });
  }

  function changed() {
    touched = true;
    for (const key of KEYS) filters[key] = form.elements[key]?.value ?? "";
    apply({ keep: null });
  }

  // ---- printing: the shown sample, and the beginning of the list

  function printed() {
    const head = element("tr", {}, ...["user", "sample", "instruction", ...experiments.map((item) => item.name)].map((name) => element("th", { scope: "col" }, name)));
    const body = element("tbody");
    for (const number of active.slice(0, MOST_PRINTED)) {
      const cells = [userOf(number), samples.id[number], question(number), ...answers.map((answer) => answer.outcome[number])];
      body.append(element("tr", {}, ...cells.map((cell) => element("td", { class: "text" }, cell))));
    }
    const more = active.length > MOST_PRINTED ? `, of which the first ${MOST_PRINTED} are here` : "";
    const caption = element("caption", {}, `${count.textContent}${more}.`);
    document.getElementById("samples-print").replaceChildren(element("table", {}, caption, element("thead", {}, head), body));
  }

  document.getElementById("browser").hidden = false;
  list.append(element("div", { id: "samples-table" }));
  section.append(element("p", { id: "samples-said", class: "unseen", role: "status" }));
  table = new Tabulator("#samples-table", {
    data: rows,
    index: "number",
    height: "100%",
    rowHeight: 60,
    layout: "fitColumns",
    responsiveLayout: "hide",
    headerVisible: true,
    keybindings: false,
    placeholder: "No sample has all of this.",
    columns: columns(),
    rowFormatter: (row) => {
      row.getElement().setAttribute("aria-selected", String(row.getData().number === current));
    },
  });
  table.on("rowClick", (_, row) => {
    touched = true;
    show(row.getData().number);
  });
  table.on("tableBuilt", () => {
    // The part that scrolls takes the focus, so it has to be the group of rows.
    const holder = list.querySelector(".tabulator-tableholder");
    holder.setAttribute("role", "rowgroup");
    holder.querySelector(".tabulator-table").setAttribute("role", "presentation");
    table.element.removeAttribute("aria-owns");
    table.element.setAttribute("aria-label", "Samples");
    fromAddress();
    document.documentElement.dataset.samples = "ready";
    performance.mark("samples-ready");
  });
  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / 60) - 1);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    touched = true;
    step(by);
  });
  pane.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    touched = true;
    if (button.dataset.step) step(Number(button.dataset.step));
    else button.setAttribute("aria-pressed", String(pane.classList.toggle("larger")));
  });
  // Lists are heard when a value is chosen, fields at every letter.
  form.addEventListener("change", (event) => event.target.matches("select") && changed());
  form.addEventListener("input", (event) => event.target.matches("input") && changed());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const key of KEYS) if (form.elements[key]) form.elements[key].value = key === "sort" ? "study" : "";
    changed();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) fromAddress();
  });
  window.addEventListener("beforeprint", printed);
})();
