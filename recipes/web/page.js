// Images in, classes and decisions out; all of it on this machine.

import * as ort from "./ort.wasm.min.mjs";
import { prepared } from "./resize.js";

const known = JSON.parse(document.getElementById("known").textContent);
const cards = document.getElementById("cards"), status = document.getElementById("status");
const corrections = new Map();  // lines of labels.jsonl by name
const LIKELY = 3;  // classes with a button
ort.env.wasm.wasmPaths = "./";
ort.env.wasm.numThreads = 1;  // more would need headers that not every server sends

const say = (text) => (status.textContent = text);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function opened() {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly. Update it, or use another.");
  say("Loading the classifier ...");
  return ort.InferenceSession.create(`./${known.graph}`, { executionProviders: ["wasm"] });
}

async function pixelsOf(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function predicted(session, file) {
  const { data, width, height } = await pixelsOf(file);
  const size = known.image_size, images = prepared(data, width, height, known);
  const { probabilities, decision } = await session.run({ images: new ort.Tensor("uint8", images, [1, size, size, 3]) });
  const order = Array.from(probabilities.data.keys()).sort((one, other) => probabilities.data[other] - probabilities.data[one]);
  return { order, shares: probabilities.data, decision: decision ? known.decisions[Number(decision.data[0])] : "answer" };
}

function correct(name, label, place) {
  const time = new Date().toISOString().replace(/\.\d+Z$/, "+00:00");
  corrections.set(name, { file_name: name, digest: null, label, pick: "next", time, by: "person" });
  place.textContent = `your label: ${label}`;
  const lines = [...corrections.values()].map((line) => `${JSON.stringify(line)}\n`);
  const link = document.getElementById("download");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.textContent = `Download ${lines.length} line${lines.length > 1 ? "s" : ""} for labels.jsonl`;
  link.hidden = false;
}

function cardOf(name, file, { order, shares, decision }) {
  const yours = element("div", { className: "soft" });
  const chosen = (label) => () => correct(name, label, yours);
  const percent = (label) => `${(100 * shares[label]).toFixed(1)} %`;
  const classes = order.map((label) => known.class_names[label]);
  const buttons = classes.slice(0, LIKELY).map((label) => element("button", { textContent: label, onclick: chosen(label) }));
  const others = element("select", { ariaLabel: "another class" }, element("option", { textContent: "another ...", value: "" }));
  others.append(...[...known.class_names].sort().map((label) => element("option", { textContent: label, value: label })));
  others.onchange = () => others.value && correct(name, others.value, yours);
  const remark = { ask: "ask a person", none: "none of the classes" }[decision];
  const lines = [
    element("div", { className: "label", textContent: classes[0] }),
    element("div", { className: "probability", textContent: percent(order[0]) }),
    remark ? element("div", { className: "decision wrong", textContent: remark }) : "",
    element("div", { className: "soft", textContent: name }),
    element("div", { className: "classes" }, ...buttons, others),
    yours,
  ];
  const image = element("img", { alt: name, src: URL.createObjectURL(file) });
  const card = element("figure", { className: "card" }, element("div", { className: "frame" }, image), element("figcaption", {}, ...lines));
  card.dataset.name = name;
  card.dataset.probability = shares[order[0]];
  return card;
}

async function show(session, files) {
  for (const [number, file] of files.entries()) {
    const name = file.webkitRelativePath.split("/").slice(1).join("/") || file.name;
    say(`${number + 1} of ${files.length}: ${name}`);
    try {
      cards.prepend(cardOf(name, file, await predicted(session, file)));
    } catch (error) {
      const caption = element("figcaption", {}, element("div", { className: "wrong", textContent: `${name} cannot be read: ${error.message}` }));
      cards.prepend(element("figure", { className: "card" }, caption));
    }
  }
  say(`${files.length} image${files.length === 1 ? "" : "s"} done.`);
}

try {
  const session = await opened();
  let last = Promise.resolve();  // one after another
  const add = (files) => (last = last.then(() => show(session, [...files])));
  for (const input of document.querySelectorAll("input[type=file]")) input.onchange = () => add(input.files);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    add(event.dataTransfer.files);
  };
  say("Ready.");
} catch (error) {
  say(`The classifier does not start: ${error.message}`);
}
