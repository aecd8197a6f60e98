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
  async need(first, last, signal) {
    const wanted = [];
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page += 1) {
      if (!this.pages.has(page)) wanted.push(page);
    }
    await Promise.all(wanted.map((page) => this.#read(page, signal)));
    return wanted.length > 0;
  }

  async #read(page, signal) {
    this.pages.set(page, []);
    try {
      const asked = new URLSearchParams({ offset: page * PAGE, limit: PAGE });
      if (this.path) asked.set("path", this.path);
      const found = await getJson(`/album/images?${asked}`, signal);
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

// Captions are written when a picture that is gone comes into sight: one at a time, each once, the newest first.
const captions = new Map(); // image -> its caption, which may still be to come
const line = []; // what is to be written, the newest at the end
let writing = false;

// `wanted` says whether anybody still waits for it; where nobody does, it is left out and never comes.
export function captionOf(image, wanted = () => true) {
  if (!captions.has(image)) {
    const job = { image, wishes: [] };
    job.written = new Promise((resolve, reject) => Object.assign(job, { resolve, reject }));
    captions.set(image, job);
    line.push(job);
  }
  const job = captions.get(image);
  job.wishes?.push(wanted);
  write();
  return job.written;
}

async function write() {
  if (writing) return;
  writing = true;
  await null; // what wants them is put into the page first
  while (line.length) {
    const job = line.pop();
    const { image, wishes } = job;
    job.wishes = null; // it is begun, or left out: tiles are not held by what is no longer asked
    try {
      if (!wishes.some((wanted) => wanted())) captions.delete(image);
      else job.resolve((await postJson("/album/caption", { image })).caption);
    } catch (error) {
      captions.delete(image);
      job.reject(error);
    }
  }
  writing = false;
}
