// Questions about the selected images, each answered from one image's row, streaming. Every selection has its own log.

import { Failure, streamChat } from "./api.js";
import { showPicture } from "./grid.js";

const AT_ONCE = 4; // answers that stream at the same time

export class Chat {
  // announce(text): read aloud; look(image, question): the attention behind an answer
  constructor({ log, form, announce, look }) {
    this.place = log;
    this.form = form;
    this.input = form.querySelector("input");
    this.button = form.querySelector("button");
    this.announce = announce;
    this.look = look;
    this.logs = new Map(); // the names of a selection -> its log
    this.model = "";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submitted();
    });
  }

  show(images) {
    this.images = images;
    const key = JSON.stringify(images.map(({ image }) => image).sort());
    if (!this.logs.has(key)) {
      const entries = document.createElement("ol");
      entries.className = "entries";
      this.logs.set(key, { entries, running: null });
    }
    this.current = this.logs.get(key);
    this.place.replaceChildren(this.current.entries);
    this.input.placeholder = images.length === 1 ? "Ask about this image" : `Ask about these ${images.length} images`;
    this.#tell();
  }

  async #submitted() {
    const log = this.current;
    if (log.running) return log.running.abort();
    const question = this.input.value.trim();
    if (!question) return this.input.focus();
    this.input.value = "";
    log.running = new AbortController();
    this.#tell();
    const entry = element("li", "entry");
    entry.append(element("p", "asked-bubble", question));
    const answers = this.images.map((image) => this.#answer(entry, image, question, this.images.length > 1));
    log.entries.append(entry);
    entry.scrollIntoView({ block: "end" });
    try {
      await atOnce(answers.map((answer) => () => answer(log.running.signal)));
    } finally {
      log.running = null;
      this.#tell();
    }
  }

  // Adds a place for an answer, and gives what fills it.
  #answer(entry, image, question, named) {
    const line = element("div", named ? "answer named" : "answer");
    if (named) {
      const box = element("div", "shot");
      showPicture(box, image, 320);
      line.append(box, element("span", "who", image.image));
    }
    const words = element("p", "words waiting");
    line.append(words);
    entry.append(line);
    return async (signal) => {
      try {
        await this.#stream(words, image, question, signal);
        this.announce(named ? `${image.image}: ${words.textContent}` : words.textContent);
        line.append(this.#looker(image, question));
      } catch (error) {
        if (signal.aborted) return words.classList.add("stopped");
        if (!(error instanceof Failure)) throw error;
        words.textContent = error.message;
        words.classList.add("failed");
        this.announce(error.message);
      } finally {
        words.classList.remove("waiting");
      }
    };
  }

  async #stream(words, image, question, signal) {
    const content = [
      { type: "image_url", image_url: { url: image.url } },
      { type: "text", text: question },
    ];
    const body = { model: this.model, messages: [{ role: "user", content }] };
    for await (const text of streamChat(body, signal)) {
      const { scrollTop, scrollHeight, clientHeight } = this.place.parentElement;
      const atEnd = scrollTop + clientHeight > scrollHeight - 40;
      words.textContent += text;
      if (atEnd) this.place.parentElement.scrollTop = scrollHeight;
    }
    if (!words.textContent.trim()) throw new Failure("The model had nothing to say.");
  }

  #looker(image, question) {
    const button = element("button", "link", "Where it looked");
    button.type = "button";
    button.onclick = () => this.look(image, question);
    return button;
  }

  #tell() {
    const running = Boolean(this.current.running);
    this.form.classList.toggle("running", running);
    this.button.setAttribute("aria-label", running ? "Stop" : "Ask");
  }
}

async function atOnce(jobs) {
  const waiting = jobs.values();
  const work = async () => {
    for (const job of waiting) await job();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function element(kind, name, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  return made;
}
