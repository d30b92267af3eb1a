"use strict";
// Shows the items that changed: a list with filters, and both trajectories of one item. All text is set as text, never
// as HTML. The trajectories lie in compressed chunks, each read when one of its items is shown first.

const data = JSON.parse(document.getElementById("index").textContent);
const [BENCHMARK, ITEM, SAMPLE, PAIR, RIGHT, ERRORS, BIGRAMS, CHUNK, PLACE] = Array(9).keys();
const filters = Object.fromEntries(
  ["benchmark", "right", "bigram", "error"].map((name) => [name, document.getElementById(name)]));
const list = document.getElementById("list");
const article = document.getElementById("item");
const count = document.getElementById("count");
const rows = new Map(data.rows.map((row) => [address(row), row]));
const chunks = new Map();
let shown = [];  // addresses of the items in the list
let links = new Map();
let current = "";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Characters that are invisible, or that change the order of others, as visible signs.
function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (sign) => String.fromCharCode(0x2400 + sign.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
      (sign) => `[U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

function address(row) {
  const parts = [data.benchmarks[row[BENCHMARK]].name, row[ITEM], row[SAMPLE], data.pairs[row[PAIR]].join(",")];
  return parts.map((part) => encodeURIComponent(part)).join("/");
}

function option(value, text) {
  return element("option", { value }, text);
}

function fillFilters() {
  filters.benchmark.append(option("", "all"), ...data.benchmarks.map((each, number) => option(number, each.label)));
  filters.right.append(option("", "either"), ...data.names.map((name, number) => option(number, name)));
  filters.bigram.append(option("", "any"), ...data.bigrams.map((bigram, number) => option(number, bigram)));
}

function matches(row) {
  const error = filters.error.value;
  return (filters.benchmark.value === "" || row[BENCHMARK] === Number(filters.benchmark.value))
    && (filters.right.value === "" || row[RIGHT] === Number(filters.right.value))
    && (filters.bigram.value === "" || row[BIGRAMS].includes(Number(filters.bigram.value)))
    && (error === "" || (error === "none" ? row[ERRORS] === 0 : Boolean(row[ERRORS] & (1 << Number(error)))));
}

function title(row) {
  const sample = data.samples > 1 ? `, sample ${row[SAMPLE]}` : "";
  const pair = data.pair_labels[row[PAIR]];
  return visible(`${data.benchmarks[row[BENCHMARK]].label} ${row[ITEM]}`) + sample + (pair ? `, ${pair}` : "");
}

function updateList() {
  links = new Map();
  for (const [key, row] of rows) {
    if (!matches(row)) continue;
    const link = element("a", { href: `#${key}` }, title(row),
      element("small", {}, `right only in ${data.names[row[RIGHT]]}${row[ERRORS] ? ", tool error" : ""}`));
    links.set(key, link);
  }
  shown = [...links.keys()];
  list.replaceChildren(...[...links.values()].map((link) => element("li", {}, link)));
  count.textContent = `${shown.length} of ${rows.size}`;
  mark();
}

function mark() {
  for (const link of list.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
  const link = links.get(current);
  if (!link) return;
  link.setAttribute("aria-current", "true");
  link.scrollIntoView({ block: "nearest" });
}

async function unpack(number) {
  const packed = Uint8Array.from(atob(document.getElementById(`chunk-${number}`).textContent),
    (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function chunk(number) {
  if (!chunks.has(number)) chunks.set(number, unpack(number));
  return chunks.get(number);
}

function block(text) {
  return element("pre", { dir: "auto" }, visible(text));
}

function part([kind, text], number) {
  const name = kind === "text" ? "outside of actions" : kind === "error" ? "result: error" : kind;
  return element("section", { class: `part ${kind.split(",")[0]}`, "aria-label": `${number + 1}: ${name}` },
    element("h4", {}, name), block(text.replace(/^\n|\n$/g, "")));
}

function side(found, number, row) {
  const right = row[RIGHT] === number;
  const answer = found.answer === null ? "no answer" : visible(found.answer);
  const facts = [`ended by ${found.finish}`];
  if (found.tokens !== null) facts.push(`${found.tokens} tokens`);
  if (found.errors) facts.push(`${found.errors} tool error${found.errors > 1 ? "s" : ""}`);
  const model = data.pairs[row[PAIR]][number];
  return element("section", { "aria-label": `${data.names[number]}, ${right ? "right" : "wrong"}` },
    element("h3", {}, model + " ", element("span", { class: `verdict ${right ? "right" : "wrong"}` },
      right ? "right" : "wrong")),
    element("p", {}, "Answer: ", element("bdi", {}, answer), `; ${facts.join(", ")}.`),
    ...found.parts.map(part));
}

async function show(key) {
  const row = rows.get(key);
  current = row ? key : "";
  mark();
  if (!row) {
    article.replaceChildren(element("p", {}, key ? "This page has no such item." : "Choose an item of the list."));
    return;
  }
  let found;
  try {
    found = (await chunk(row[CHUNK]))[row[PLACE]];
  } catch (error) {
    article.replaceChildren(element("p", {}, `This browser cannot read the trajectories: ${error}`));
    return;
  }
  if (key !== current) return;  // another item was chosen meanwhile
  article.replaceChildren(
    element("h3", {}, title(row)),
    element("section", { class: "question", "aria-label": "question" }, block(found.question)),
    element("p", {}, "Accepted: ", element("bdi", {}, found.gold.map((gold) => visible(String(gold))).join(" | "))),
    element("div", { class: "sides" }, ...found.sides.map((each, number) => side(each, number, row))));
  article.focus({ preventScroll: true });
  article.scrollIntoView({ block: "start" });
}

function step(by) {
  if (!shown.length) return;
  const at = shown.indexOf(current);
  const next = at < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.min(shown.length - 1, Math.max(0, at + by));
  location.hash = shown[next];
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select, input")) return;
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "f") filters.benchmark.focus();
  else return;
  event.preventDefault();
}

fillFilters();
updateList();
document.getElementById("filters").addEventListener("change", updateList);
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", () => show(location.hash.slice(1)));
show(location.hash.slice(1));
