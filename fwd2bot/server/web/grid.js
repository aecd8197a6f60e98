// A grid of any number of tiles, of which only those in sight are in the document.
//
// To a screen reader it is a list box: the focus stays on it, and aria-activedescendant names the tile.

import { pictureSource } from "./api.js";
import { captionOf } from "./sources.js";

const NARROWEST = 160;
const LABEL = 34;
const GAP = 16;
const TALLEST = 8e6; // pixels: browsers cut off what is far taller, so beyond it scrolling goes in longer steps

export class Grid extends EventTarget {
  // Events: open, toggle (detail: the image), fail (detail: an error).
  constructor(element, scroller) {
    super();
    this.element = element;
    this.scroller = scroller;
    this.tiles = new Map(); // place -> tile
    this.selected = new Map();
    this.active = 0;
    this.source = null;
    scroller.addEventListener("scroll", () => this.#later());
    scroller.style.setProperty("--gutter", `${scroller.offsetWidth - scroller.clientWidth}px`);
    new ResizeObserver(() => this.#resized()).observe(scroller);
    element.addEventListener("keydown", (event) => this.#pressed(event));
    element.addEventListener("click", (event) => this.#clicked(event));
    element.addEventListener("focus", () => this.draw());
  }

  show(source) {
    this.source = source;
    this.active = 0;
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.scroller.scrollTop = 0;
    this.draw();
  }

  select(images) {
    this.selected = images;
    this.draw();
  }

  focus() {
    this.element.focus({ preventScroll: true });
  }

  draw() {
    if (!this.source) return;
    const view = this.#measure();
    const first = Math.max(0, Math.floor(view.top / view.step) - 1) * view.columns;
    const last = Math.min(this.source.total, Math.ceil((view.top + view.height) / view.step + 1) * view.columns) - 1;
    for (const [place, tile] of this.tiles) {
      if (place < first || place > last) {
        tile.remove();
        this.tiles.delete(place);
      }
    }
    for (let place = first; place <= last; place += 1) this.#place(place, view);
    const seen = this.tiles.has(this.active);
    if (seen) this.element.setAttribute("aria-activedescendant", this.tiles.get(this.active).id);
    else this.element.removeAttribute("aria-activedescendant");
    this.#read(first, last);
  }

  #measure() {
    const width = this.element.clientWidth;
    const columns = Math.max(2, Math.floor((width + GAP) / (NARROWEST + GAP)));
    const side = (width - GAP * (columns - 1)) / columns;
    const step = side + LABEL + GAP;
    const height = this.scroller.clientHeight;
    const whole = Math.ceil(this.source.total / columns) * step;
    const shown = Math.min(whole, TALLEST);
    this.element.style.height = `${shown}px`;
    const stretch = shown > height ? (whole - height) / (shown - height) : 1;
    const scrolled = Math.max(0, this.scroller.scrollTop - this.element.offsetTop);
    return { columns, side, step, height, stretch, scrolled, top: scrolled * stretch };
  }

  #place(place, view) {
    let tile = this.tiles.get(place);
    const image = this.source.at(place);
    if (!tile) {
      tile = emptyTile(place);
      this.tiles.set(place, tile);
      const next = [...this.tiles.keys()].filter((other) => other > place).sort((a, b) => a - b)[0];
      this.element.insertBefore(tile, this.tiles.get(next) ?? null); // in order, as it is read aloud
    }
    if (image && tile.dataset.image !== image.image) fill(tile, image);
    const row = Math.floor(place / view.columns);
    const left = (place % view.columns) * (view.side + GAP);
    tile.style.width = `${view.side}px`;
    tile.style.height = `${view.side + LABEL}px`;
    tile.style.transform = `translate(${left}px, ${row * view.step - view.top + view.scrolled}px)`;
    tile.classList.toggle("active", place === this.active);
    tile.setAttribute("aria-selected", String(Boolean(image && this.selected.has(image.image))));
    tile.setAttribute("aria-setsize", this.source.total);
  }

  async #read(first, last) {
    const source = this.source;
    try {
      if (last >= first && (await source.need(first, last)) && source === this.source) this.draw();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("fail", { detail: error }));
    }
  }

  #later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  #clicked(event) {
    const tile = event.target.closest(".tile");
    const place = [...this.tiles].find(([, other]) => other === tile)?.[0];
    const image = place === undefined ? undefined : this.source.at(place);
    if (!image) return;
    this.active = place;
    const several = event.target.closest(".check") || event.ctrlKey || event.metaKey || event.shiftKey;
    this.dispatchEvent(new CustomEvent(several ? "toggle" : "open", { detail: image }));
  }

  #pressed(event) {
    if (!this.source) return;
    const { columns, height, step } = this.#measure();
    const page = columns * Math.max(1, Math.floor(height / step));
    const moves = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
      PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity,
    };
    const image = this.source.at(this.active);
    if (event.key in moves) this.#move(moves[event.key]);
    else if (event.key === "Enter" && image) this.dispatchEvent(new CustomEvent("open", { detail: image }));
    else if (event.key === " " && image) this.dispatchEvent(new CustomEvent("toggle", { detail: image }));
    else return;
    event.preventDefault();
  }

  #move(by) {
    const to = this.active + by;
    const sideways = Math.abs(by) === 1 || !Number.isFinite(by);
    if (!sideways && (to < 0 || to >= this.source.total) && Math.abs(by) === this.#measure().columns) return;
    this.active = Math.max(0, Math.min(this.source.total - 1, to));
    this.#reveal();
    this.draw();
  }

  // With other columns the tile in use is elsewhere, and stays in sight.
  #resized() {
    if (this.source && this.tiles.has(this.active)) this.#reveal();
    this.draw();
  }

  #reveal() {
    const { columns, step, stretch, top, height } = this.#measure();
    const above = Math.floor(this.active / columns) * step;
    const room = height - step;
    if (above < top) this.scroller.scrollTop = above / stretch;
    else if (above > top + room) this.scroller.scrollTop = (above - room) / stretch + this.element.offsetTop;
  }
}

function emptyTile(place) {
  const tile = document.createElement("div");
  tile.className = "tile";
  tile.id = `tile-${place}`;
  tile.role = "option";
  tile.setAttribute("aria-posinset", place + 1);
  tile.innerHTML = '<div class="shot"></div><span class="check" aria-hidden="true"></span>'
    + '<div class="label"><span class="name"></span><span class="score"></span></div>';
  return tile;
}

function fill(tile, image) {
  tile.dataset.image = image.image;
  const score = image.score === undefined ? "" : image.score.toFixed(2);
  tile.querySelector(".name").textContent = image.image;
  tile.querySelector(".score").textContent = score;
  tile.title = image.image;
  tile.setAttribute("aria-label", score ? `${image.image}, score ${score}` : image.image);
  showPicture(tile.querySelector(".shot"), image, 320);
}

// The picture of an image in a box of the page; where it is gone, its caption.
export async function showPicture(box, image, size) {
  const gone = async () => {
    const words = document.createElement("p");
    words.className = "gone";
    words.textContent = "…";
    box.replaceChildren(words);
    words.textContent = await captionOf(image.image, () => words.isConnected).catch(() => "The picture is gone.");
  };
  if (!image.picture) return gone();
  const picture = document.createElement("img");
  picture.alt = "";
  picture.draggable = false;
  picture.onload = () => picture.classList.add("here");
  picture.onerror = gone;
  box.replaceChildren(picture);
  try {
    picture.src = await pictureSource(`${image.picture}&size=${size}`);
  } catch {
    await gone();
  }
}
