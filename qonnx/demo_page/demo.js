// The demo: prepares an input, runs both models in turns, draws their outputs and says how far apart they are.
import * as ort from './ort/ort.wasm.min.mjs';
import { encode, feed, word } from './text.js';

const ROUNDS = 3; // timed runs of each model, in turns, after one that is not timed
const $ = (id) => document.getElementById(id);
const make = (tag, text = '', kind = '') => Object.assign(document.createElement(tag), { textContent: text, className: kind });
const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const median = (numbers) => numbers.slice().sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

let config, models, busy = false, next = null;

async function start() {
  config = await (await fetch('config.json')).json();
  $('title').textContent = config.title;
  document.title = config.title;
  ort.env.wasm.wasmPaths = new URL('./ort/', location.href).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(2, navigator.hardwareConcurrency || 1) : 1;
  models = [];
  for (const one of config.models) {
    const begun = performance.now();
    const bytes = new Uint8Array(await (await fetch(one.file)).arrayBuffer());
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'], logSeverityLevel: 3 });
    models.push({ ...one, session, load: performance.now() - begun });
  }
  for (const [index, sample] of config.samples.entries()) {
    if (config.text) { said(sample.text); continue; }
    const data = new Float32Array(await (await fetch(sample.file)).arrayBuffer());
    pictured(data, sample.shape, `sample ${index + 1}`);
  }
  if (config.text) {
    let wait;
    $('words').hidden = false;
    $('text').oninput = () => { clearTimeout(wait); wait = setTimeout(() => { press(null); read($('text').value); }, 400); };
  }
  if (config.prepare) {
    $('drop').hidden = false;
    const take = (file) => file && image(file).catch(() => { $('verdict').textContent = `${file.name} is no image that this browser reads`; });
    $('file').onchange = (event) => take(event.target.files[0]);
    document.ondragover = (event) => event.preventDefault();
    document.ondrop = (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); };
  }
  $('samples').firstChild?.click();
}

// A sample of numbers, as a button with its picture.
function pictured(data, shape, title) {
  const button = make('button');
  button.title = title;
  button.append(picture(data, shape));
  button.onclick = () => { press(button); run({ [config.input]: new ort.Tensor('float32', data, shape) }); };
  $('samples').append(button);
  return button;
}

// A sample of words, as a button that puts them into the field.
function said(text) {
  const button = make('button', text.length > 60 ? `${text.slice(0, 57)} …` : text, 'said');
  button.onclick = () => { press(button); $('text').value = text; read(text); };
  $('samples').append(button);
}

function read(text) {
  const coded = encode(text, config.text);
  $('tokens').replaceChildren(...coded.ids.slice(0, coded.count).map((id) => make('span', word(id, config.text))));
  run(feed(ort, coded, config.text));
}

function press(button) {
  for (const one of $('samples').children) one.setAttribute('aria-pressed', String(one === button));
}

// Float32 data [1, C, H, W] or [1, H, W, C] as a picture, stretched to the range that it spans.
function picture(data, shape) {
  const canvas = make('canvas');
  if (shape.length !== 4) return make('span', `[${shape}]`);
  const last = config.layout === 'nhwc';
  const [channels, height, width] = last ? [shape[3], shape[1], shape[2]] : shape.slice(1);
  let low = Infinity, high = -Infinity;
  for (const x of data) { if (x < low) low = x; if (x > high) high = x; }
  const pixels = new ImageData(width, height);
  for (let place = 0; place < height * width; place++) {
    for (let c = 0; c < 3; c++) {
      const from = Math.min(config.color === 'bgr' ? 2 - c : c, channels - 1);
      const x = last ? data[place * channels + from] : data[from * height * width + place];
      pixels.data[4 * place + c] = (255 * (x - low)) / (high - low || 1);
    }
    pixels.data[4 * place + 3] = 255;
  }
  canvas.width = width; canvas.height = height;
  canvas.style.height = `${Math.min(84, (216 * height) / width)}px`;
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  return canvas;
}

// A file of the user: scaled to the model's size, then normalised as config.prepare says.
async function image(file) {
  const bitmap = await createImageBitmap(file), p = config.prepare;
  const height = p.height || bitmap.height;
  const width = p.width || Math.max(32, Math.round((bitmap.width * height) / bitmap.height / 32) * 32);
  const canvas = make('canvas');
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data, plane = width * height;
  const data = new Float32Array(3 * plane);
  for (let place = 0; place < plane; place++) {
    for (let c = 0; c < 3; c++) {
      const x = pixels[4 * place + (config.color === 'bgr' ? 2 - c : c)] / p.scale;
      const value = (x - (p.mean[c] ?? 0)) / (p.std[c] ?? 1);
      data[config.layout === 'nhwc' ? place * 3 + c : c * plane + place] = value;
    }
  }
  const shape = config.layout === 'nhwc' ? [1, height, width, 3] : [1, 3, height, width];
  pictured(data, shape, file.name).click();
}

async function run(feeds) {
  if (busy) { next = feeds; return; }
  busy = true;
  document.documentElement.dataset.state = 'busy';
  $('verdict').textContent = 'running …';
  await new Promise((done) => setTimeout(done, 20)); // lets the page draw first
  try {
    const outputs = [], times = models.map(() => []);
    for (const model of models) outputs.push((await model.session.run(feeds))[config.output]);
    for (let round = 0; round < ROUNDS; round++) {
      for (const [index, model] of models.entries()) {
        const begun = performance.now();
        await model.session.run(feeds);
        times[index].push(performance.now() - begun);
      }
    }
    const rows = models.map((model, index) => ({
      name: model.name, bytes: model.bytes, ms: median(times[index]), view: show(outputs[index]),
    }));
    rows.forEach((row, index) => card($(['first', 'second'][index]), row));
    judge(rows, outputs);
  } catch (error) {
    $('verdict').textContent = `failed: ${error.message || error}`;
    window.results = { error: String(error.message || error) };
  }
  busy = false;
  if (next) { const later = next; next = null; run(later); return; } // what was typed meanwhile
  document.documentElement.dataset.state = 'done';
}

function card(place, row) {
  const facts = make('dl');
  for (const [word, value] of [['file', size(row.bytes)], ['latency', `${row.ms.toFixed(row.ms < 9.95 ? 2 : 0)} ms`]]) {
    const one = make('div');
    one.append(make('dt', word), make('dd', value));
    facts.append(one);
  }
  place.replaceChildren(make('h2', row.name), facts, row.view);
}

// What an output means, as an element: a map, the best classes, a line of text, or its first numbers.
function show(tensor) {
  const { data, dims } = tensor;
  if (config.view === 'map') return heat(data, dims);
  if (config.view === 'text') return make('div', greedy(data, dims) || '(no text)', 'text');
  if (config.view === 'classes') return bars(data, config.labels, 'class');
  if (config.view === 'next') return bars(data.slice(-dims.at(-1)), config.text.vocabulary, 'token');
  return make('code', Array.from(data.slice(0, 12), (x) => Number(x).toPrecision(4)).join(', '));
}

function heat(data, dims) {
  const [height, width] = dims.slice(-2), canvas = make('canvas', '', 'map'), pixels = new ImageData(width, height);
  let low = Infinity, high = -Infinity;
  for (const x of data) { if (x < low) low = x; if (x > high) high = x; }
  for (let i = 0; i < height * width; i++) {
    const t = (data[i] - low) / (high - low || 1); // from dark blue over green to yellow
    pixels.data.set([255 * Math.min(1, 1.6 * t * t), 255 * (0.1 + 0.85 * t), 255 * (0.35 + 0.3 * t - 0.5 * t * t), 255], 4 * i);
  }
  canvas.width = width; canvas.height = height;
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  return canvas;
}

function bars(data, names, kind) {
  let values = Array.from(data, Number);
  const sum = values.reduce((a, b) => a + b, 0);
  if (Math.min(...values) < 0 || Math.abs(sum - 1) > 1e-3) {
    const top = Math.max(...values), powers = values.map((x) => Math.exp(x - top)), total = powers.reduce((a, b) => a + b, 0);
    values = powers.map((x) => x / total);
  }
  const box = make('div');
  const best = values.map((x, i) => [x, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  for (const [x, i] of best) {
    const row = make('div', '', 'bar'), bar = make('i');
    bar.style.width = `${100 * x}%`;
    const track = make('span');
    track.append(bar);
    row.append(make('span', names[i] ?? `${kind} ${i}`), track, make('span', `${(100 * x).toFixed(1)} %`));
    box.append(row);
  }
  return box;
}

// Best class of each step, repeats merged, blanks (class 0) dropped: best-path decoding of CTC.
function greedy(data, dims) {
  const [steps, classes] = dims.slice(-2);
  let text = '', before = 0;
  for (let step = 0; step < steps; step++) {
    let best = 0;
    for (let i = 1; i < classes; i++) if (data[step * classes + i] > data[step * classes + best]) best = i;
    if (best && best !== before) text += config.labels[best] ?? '?';
    before = best;
  }
  return text;
}

// A figure with two bars under it, float above quantized.
function tile(figure, words, pair = []) {
  const box = make('div', '', 'tile'), most = Math.max(...pair);
  box.append(make('strong', figure), make('span', words));
  for (const [index, value] of pair.entries()) {
    const bar = make('i', '', index ? 'two' : 'one');
    bar.style.width = `${(100 * value) / most}%`;
    box.append(bar);
  }
  return box;
}

function judge(rows, [a, b]) {
  let signal = 0, noise = 0;
  for (let i = 0; i < a.data.length; i++) {
    const right = Number(a.data[i]); // whole numbers of 64 bits come as BigInt
    signal += right ** 2;
    noise += (right - Number(b.data[i])) ** 2;
  }
  const decibels = 10 * Math.log10(signal / noise);
  const times = (x) => (x >= 9.95 ? x.toFixed(0) : x.toFixed(1));
  const faster = rows[0].ms / rows[1].ms;
  $('verdict').replaceChildren(
    tile(`${times(rows[0].bytes / rows[1].bytes)}×`, 'smaller', rows.map((row) => row.bytes)),
    tile(`${times(faster >= 1 ? faster : 1 / faster)}×`, faster >= 1 ? 'faster' : 'slower here', rows.map((row) => row.ms)),
    tile(noise ? `${decibels.toFixed(1)} dB` : 'equal', noise ? 'signal to noise' : 'outputs, to the bit'),
  );
  const threads = ort.env.wasm.numThreads;
  $('made').textContent = `onnxruntime-web ${ort.env.versions.web}, WebAssembly, ${threads} thread${threads > 1 ? 's' : ''}; median of ${ROUNDS} runs each, in turns`;
  window.results = {
    sqnr_db: noise ? decibels : null, rows: rows.map(({ name, bytes, ms, view }) => ({ name, bytes, ms, text: view.textContent })),
  };
}

start().catch((error) => {
  $('verdict').textContent = `failed: ${error.message || error}`;
  window.results = { error: String(error.message || error) };
  document.documentElement.dataset.state = 'done';
});
