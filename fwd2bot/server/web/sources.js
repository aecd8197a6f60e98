// What a grid shows: the whole album, read page by page, or the results of a search.

import { getJson, postJson } from "./api.js";

const PAGE = 60;
const KEPT_PAGES = 60;

export class Listed {
  constructor(path) {
    this.path = path;
    this.total = 0;
    this.pages = new Map(); // number -> images; an empty list while they are read
  }

  at(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  }

  // Reads what lies between two places, and says whether anything is new.
  async need(first, last) {
    const wanted = [];
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page += 1) {
      if (!this.pages.has(page)) wanted.push(page);
    }
    await Promise.all(wanted.map((page) => this.#read(page)));
    return wanted.length > 0;
  }

  async #read(page) {
    this.pages.set(page, []);
    try {
      const asked = new URLSearchParams({ offset: page * PAGE, limit: PAGE });
      if (this.path) asked.set("path", this.path);
      const found = await getJson(`/album/images?${asked}`);
      this.total = found.total;
      this.pages.delete(page); // to the end: the oldest are let go
      this.pages.set(page, found.images);
    } catch (error) {
      this.pages.delete(page);
      throw error;
    }
    for (const oldest of this.pages.keys()) {
      if (this.pages.size <= KEPT_PAGES) break;
      this.pages.delete(oldest);
    }
  }
}

export class Found {
  constructor(results, cutoff) {
    this.results = results.filter(({ score }) => score >= cutoff);
    this.total = this.results.length;
  }

  at(index) {
    return this.results[index];
  }

  async need() {
    return false;
  }
}

// Captions are written when a picture that is gone comes into sight: one at a time, each once.
const captions = new Map();
let line = Promise.resolve();

export function captionOf(image) {
  if (!captions.has(image)) {
    const written = line.then(() => postJson("/album/caption", { image })).then(({ caption }) => caption);
    line = written.catch(() => captions.delete(image));
    captions.set(image, written);
  }
  return captions.get(image);
}
