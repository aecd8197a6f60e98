// What the summary tokens drew on (pass 1), as a veil over the picture, and how much an answer used each (pass 2).
//
// Where nothing was looked at the veil is dark; what was looked at shows in its own colours.

import { postJson } from "./api.js";

const DARKEST = 0.86;
const TOGETHER = "together";
const USED = "used";

export class Attention {
  constructor(box, veil, pressed) {
    this.box = box;
    this.veil = veil;
    this.pressed = pressed; // the button that says whether the view is there
    this.bars = box.querySelector("#bars");
    this.bars.addEventListener("keydown", (event) => this.#moved(event));
    this.hide();
  }

  hide() {
    this.asked?.abort();
    this.asked = null;
    this.box.hidden = this.veil.hidden = true;
    this.pressed.setAttribute("aria-pressed", "false");
  }

  // Of an image and a question; null: of its caption. Throws a Failure.
  async show(image, question) {
    this.hide();
    const asked = (this.asked = new AbortController());
    this.pressed.setAttribute("aria-pressed", "true");
    this.pressed.setAttribute("aria-busy", "true");
    try {
      this.view = await postJson("/album/attention", { image, question }, asked.signal);
    } catch (error) {
      if (this.asked === asked) this.hide(); // else another one has its place
      throw error;
    } finally {
      if (this.asked === asked || !this.asked) this.pressed.removeAttribute("aria-busy");
    }
    this.box.querySelector("#asked").textContent = question ? `${question} — ${this.view.text}` : "";
    this.box.hidden = false;
    this.#makeBars();
    this.#choose(this.view.compress ? TOGETHER : 0);
  }

  #makeBars() {
    const { answer, compress } = this.view;
    const most = Math.max(...answer) || 1;
    const bars = answer.map((weight, token) => {
      const bar = radio(token, `Summary token ${token + 1}, ${percent(weight, answer)} of what the answer used`);
      const fill = document.createElement("span");
      fill.style.height = `${Math.max(3, (100 * weight) / most)}%`;
      bar.append(fill);
      return bar;
    });
    const whole = document.createElement("div");
    whole.className = "whole";
    if (compress) {
      whole.append(radio(TOGETHER, "All tokens together", "All tokens"), radio(USED, "As the answer used them", "As used"));
    }
    const chart = document.createElement("div");
    chart.className = "chart";
    chart.append(...bars);
    this.bars.replaceChildren(whole, chart);
    for (const option of this.#options()) option.onclick = () => this.#choose(option.value, option);
  }

  #options() {
    return [...this.bars.querySelectorAll("button")];
  }

  #choose(value, focused) {
    for (const option of this.#options()) {
      const chosen = option.value === String(value);
      option.setAttribute("aria-checked", String(chosen));
      option.tabIndex = chosen ? 0 : -1;
      if (chosen && focused) option.focus();
    }
    this.box.querySelector("#reading").textContent = this.#reading(value);
    this.#draw(value);
  }

  #moved(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const options = this.#options();
    const now = options.findIndex((option) => option.getAttribute("aria-checked") === "true");
    const next = options[(now + by + options.length) % options.length];
    this.#choose(next.value, next);
  }

  #reading(value) {
    const { answer, compress } = this.view;
    if (value === TOGETHER) return "What all summary tokens drew on. The bars: how much the answer used each.";
    if (value === USED) return "What the tokens drew on, each counted as much as the answer used it.";
    const share = `The answer used it for ${percent(answer[value], answer)}.`;
    if (!compress) return `Token ${Number(value) + 1}. ${share} The picture is gone, so what it drew on is not shown.`;
    return `Token ${Number(value) + 1} drew on what is bright. ${share}`;
  }

  #draw(value) {
    const { grid: [rows, columns], seen: [across, down], compress } = this.view;
    this.veil.hidden = !compress;
    if (!compress) return;
    const map = blend(this.view, value);
    const most = Math.max(...map) || 1;
    this.veil.width = columns;
    this.veil.height = rows;
    const pixels = new ImageData(columns, rows);
    map.forEach((weight, place) => {
      pixels.data.set([10, 10, 14, 255 * DARKEST * (1 - weight / most)], 4 * place);
    });
    this.veil.getContext("2d", { willReadFrequently: true }).putImageData(pixels, 0, 0);
    const box = { left: (1 - across) / 2, top: (1 - down) / 2, width: across, height: down };
    for (const [side, share] of Object.entries(box)) this.veil.style[side] = `${100 * share}%`;
  }
}

// The weights of the picture's parts: of one token, or of all, counted alike or as the answer used them.
function blend({ compress, answer }, value) {
  if (value !== TOGETHER && value !== USED) return compress[value];
  const counts = value === USED ? answer : answer.map(() => 1);
  return compress[0].map((_, place) => compress.reduce((sum, map, token) => sum + counts[token] * map[place], 0));
}

function percent(weight, all) {
  const sum = all.reduce((one, other) => one + other, 0) || 1;
  return `${Math.round((100 * weight) / sum)}%`;
}

function radio(value, name, text = "") {
  const option = document.createElement("button");
  option.type = "button";
  option.value = value;
  option.role = "radio";
  option.textContent = text;
  option.title = name;
  option.setAttribute("aria-label", name);
  return option;
}
