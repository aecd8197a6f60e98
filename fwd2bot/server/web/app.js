// The page: the album as a grid, the search above it, the selected images beside it.

import { Failure, askForTokensWith, getJson, pictureSource, postJson } from "./api.js";
import { Attention } from "./attention.js";
import { Chat } from "./chat.js";
import { Grid, showPicture } from "./grid.js";
import { Found, Listed, captionOf } from "./sources.js";

const TOP = 200; // results of a search
const PAUSE = 250; // milliseconds after the last key before a search begins
const LARGEST = 3e6; // bytes of a picture that is sent as it is; a larger one is made smaller first
const SIDE = 1536;

const at = (id) => document.getElementById(id);
const selected = new Map(); // name -> image
const grid = new Grid(at("grid"), at("scroller"));
const attention = new Attention(at("attention"), at("veil"), at("look"));
const chat = new Chat({ log: at("log"), form: at("ask"), announce, look });
let album = {};
let results = null; // of the search that is shown
let query = null; // {query: text}, {like: data URL} or {image: name}; null: the whole album
let searching = null;
let listing = null;
let turn = 0; // the newest search or list is shown, whatever arrives after it

// Errors.

function announce(text) {
  at("announcer").textContent = text;
}

function fail(error) {
  if (error.name === "AbortError") return;
  at("error-text").textContent = error instanceof Failure ? error.message : `The page has a mistake: ${error.message}`;
  at("error").hidden = false;
  if (!(error instanceof Failure)) throw error;
}

const safely = (job) => (...given) => Promise.resolve(job(...given)).catch(fail);

at("error-close").onclick = () => (at("error").hidden = true);

// The token.

askForTokensWith((again) => new Promise((resolve) => {
  at("gate-text").textContent = again
    ? "That token was refused. Try another."
    : "It is what the server was started with. It stays in this tab.";
  at("gate").returnValue = "";
  at("gate-token").value = "";
  at("gate").onclose = () => resolve(at("gate").returnValue === "enter" ? at("gate-token").value.trim() : null);
  at("gate").showModal();
}));
at("gate-cancel").onclick = () => at("gate").close();

// The album and the search.

async function open() {
  album = await getJson("/album");
  chat.model = album.model;
  document.title = `${album.store} · fwd2bot`;
  at("about").textContent = album.store;
  at("facts").textContent = `${album.model} · ${album.num_tokens} tokens, ${bytes(album.bytes_per_row)} an image`;
  await list();
}

async function list() {
  const mine = (turn += 1);
  const source = new Listed(at("path").value.trim());
  listing?.abort();
  listing = new AbortController();
  await source.need(0, 0, listing.signal);
  if (mine !== turn) return;
  results = null;
  at("cutoff-field").hidden = true;
  at("path-field").hidden = false;
  at("count").textContent = source.path ? `${count(source.total, "image")} there` : count(source.total, "image");
  show(source, source.path
    ? `No path fits ${source.path}.`
    : "The album is empty: add pictures with fwd2bot compress.");
}

async function search() {
  searching?.abort();
  at("error").hidden = true;
  at("query").hidden = !query || "query" in query;
  at("text").classList.toggle("short", !at("query").hidden);
  if (!query) return list();
  turn += 1;
  searching = new AbortController();
  at("search").setAttribute("aria-busy", "true");
  try {
    const found = await postJson("/album/search", { ...query, top: TOP }, searching.signal);
    results = found.results;
    at("cutoff-field").hidden = false;
    at("path-field").hidden = true;
    drawScores();
    cut();
  } finally {
    at("search").removeAttribute("aria-busy");
  }
}

function cut() {
  const cutoff = Number(at("cutoff").value);
  const source = new Found(results, cutoff);
  at("cutoff-value").textContent = cutoff.toFixed(2);
  at("count").textContent = cutoff > 0
    ? `${source.total} of ${results.length}`
    : `${count(results.length, "image")}, the nearest first`;
  drawScores();
  show(source, `No image scores ${cutoff.toFixed(2)} or more: lower the cut-off.`);
}

function show(source, nothing) {
  at("nothing").textContent = nothing;
  at("nothing").hidden = source.total > 0;
  grid.show(source);
}

// A tick for each score, above the slider: where to cut can be seen.
function drawScores() {
  const canvas = at("scores");
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (const { score } of results ?? []) {
    pen.fillStyle = score >= Number(at("cutoff").value) ? style.color : style.borderTopColor;
    pen.fillRect(Math.round(Math.max(0, Math.min(1, score)) * (canvas.width - 3)), 2, 3, canvas.height - 4);
  }
}

let typed = null;
at("text").oninput = () => {
  clearTimeout(typed);
  typed = setTimeout(safely(searchText), PAUSE);
};
at("search").onsubmit = (event) => {
  event.preventDefault();
  clearTimeout(typed);
  safely(searchText)();
};
at("query-clear").onclick = safely(() => leaveSearch());
at("cutoff").oninput = cut;
at("path").oninput = () => {
  clearTimeout(typed);
  typed = setTimeout(safely(list), PAUSE);
};

function searchText() {
  const text = at("text").value.trim();
  query = text ? { query: text } : null;
  return search();
}

function leaveSearch() {
  at("text").value = "";
  query = null;
  return search();
}

async function searchLike(file) {
  if (!file.type.startsWith("image/")) throw new Failure(`${file.name || "That"} is not a picture.`);
  const like = await dataUrl(await smaller(file));
  query = { like };
  at("query-picture").hidden = false;
  at("query-picture").src = like;
  at("query-name").textContent = file.name || "a picture";
  at("text").value = "";
  await search();
}

async function moreLike(image) {
  query = { image: image.image };
  at("query-name").textContent = image.image;
  at("text").value = "";
  at("query-picture").hidden = !image.picture;
  if (image.picture) at("query-picture").src = await pictureSource(`${image.picture}&size=320`);
  await search();
}

async function smaller(file) {
  if (file.size <= LARGEST) return file;
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Failure(`${file.name} is no picture that this browser can read.`);
  });
  const scale = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Failure("The picture cannot be read."));
    reader.readAsDataURL(blob);
  });
}

// A picture that is picked, dropped or pasted.

at("file").onchange = safely(async () => {
  const [file] = at("file").files;
  if (file) await searchLike(file);
  at("file").value = "";
});
document.addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  at("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").hidden = true;
});
document.addEventListener("drop", safely(async (event) => {
  const [file] = event.dataTransfer.files;
  if (!file) return;
  event.preventDefault();
  at("drop").hidden = true;
  await searchLike(file);
}));
document.addEventListener("paste", safely(async (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) await searchLike(file);
}));

// The selection and its panel.

grid.addEventListener("fail", ({ detail }) => fail(detail));
grid.addEventListener("open", ({ detail }) => {
  selected.clear();
  selected.set(detail.image, detail);
  showSheet(true);
  showSelection();
  at(narrow.matches ? "panel-title" : "question").focus({ preventScroll: true }); // no keyboard over a telephone's half
});
grid.addEventListener("toggle", ({ detail }) => {
  if (!selected.delete(detail.image)) selected.set(detail.image, detail);
  showSelection();
});

function showSelection() {
  const images = [...selected.values()];
  grid.select(selected);
  attention.hide();
  at("panel").hidden = images.length === 0;
  at("chosen").hidden = images.length === 0;
  at("chosen-count").textContent = `${images.length} selected`;
  if (images.length === 0) return showSheet(false);
  at("panel-title").textContent = images.length === 1 ? images[0].image : `${images.length} images`;
  at("one").hidden = images.length > 1;
  at("several").hidden = at("sum").hidden = images.length === 1;
  if (images.length === 1) safely(showOne)(images[0]);
  else {
    at("several").replaceChildren(...images.map(chosenTile));
    showSum(images);
  }
  chat.show(images);
  return undefined;
}

// On a telephone the panel covers the page, which then cannot be reached behind it.
const narrow = matchMedia("(max-width: 720px)");
narrow.onchange = () => showSheet(document.body.classList.contains("sheet"));

function showSheet(there) {
  document.body.classList.toggle("sheet", there);
  for (const behind of [at("top"), at("main")]) behind.inert = there && narrow.matches;
}

async function showOne(image) {
  const gone = () => selected.size !== 1 || !selected.has(image.image); // another was chosen meanwhile
  at("frame").hidden = !image.picture;
  at("picture").removeAttribute("src");
  at("picture").alt = image.image;
  at("picture").onerror = () => (at("frame").hidden = true);
  at("caption").textContent = "…";
  showSizes(image);
  const source = image.picture && (await pictureSource(`${image.picture}&size=640`));
  if (gone()) return;
  if (source) at("picture").src = source;
  const caption = await captionOf(image.image);
  if (!gone()) at("caption").textContent = at("picture").alt = caption;
}

function showSizes(image) {
  const { width, height, file_bytes: file, row_bytes: row, tokens } = image;
  const most = Math.max(row, file);
  at("row-bar").style.width = `${(100 * row) / most}%`;
  at("file-bar").style.width = `${(100 * file) / most}%`;
  at("row-size").textContent = `${bytes(row)}, ${tokens} tokens`;
  at("file-size").textContent = `${bytes(file)}, ${width} × ${height}`;
  at("frame").style.setProperty("--ratio", width / height);
}

// What all selected images take together.
function showSum(images) {
  const sum = (name) => images.reduce((total, image) => total + image[name], 0);
  const rows = `${bytes(sum("row_bytes"))}, ${sum("tokens").toLocaleString("en")} tokens`;
  at("sum").textContent = `Rows ${rows}; files ${bytes(sum("file_bytes"))}`;
}

function chosenTile(image) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `Leave out ${image.image}`);
  button.title = image.image;
  button.onclick = () => {
    selected.delete(image.image);
    showSelection();
  };
  const box = document.createElement("span");
  box.className = "shot";
  showPicture(box, image, 320);
  button.append(box);
  item.append(button);
  return item;
}

function look(image, question) {
  if (selected.size !== 1 || !selected.has(image.image)) {
    selected.clear();
    selected.set(image.image, image);
    showSelection();
  }
  at("inside").scrollTo({ top: 0, behavior: "auto" });
  return safely(() => attention.show(image.image, question))();
}

function closePanel() {
  selected.clear();
  showSelection();
  grid.focus();
}

at("look").onclick = () => {
  if (at("look").getAttribute("aria-pressed") === "true") attention.hide();
  else look([...selected.values()][0], null);
};
at("like").onclick = safely(() => {
  showSheet(false);
  return moreLike([...selected.values()][0]);
});
at("panel-close").onclick = closePanel;
at("chosen-clear").onclick = closePanel;
at("chosen-open").onclick = () => {
  showSheet(true);
  at("question").focus();
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || at("gate").open) return;
  if (!at("panel").hidden) closePanel();
  else if (query) safely(leaveSearch)();
  else return;
  event.preventDefault();
});

// Words.

function count(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
}

function bytes(number) {
  const units = ["B", "KB", "MB", "GB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, number)) / 3));
  return `${(number / 1000 ** step).toFixed(step && number / 1000 ** step < 100 ? 1 : 0)} ${units[step]}`;
}

safely(open)();
