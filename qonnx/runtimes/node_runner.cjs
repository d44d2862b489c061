// Runs a job of qonnx.runtimes.exchange in onnxruntime-node: node node_runner.cjs FOLDER NODE_MODULES
const fs = require('fs');
const path = require('path');

const [folder, modules] = process.argv.slice(2);
const TYPES = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, uint64: BigUint64Array, int32: Int32Array,
  uint32: Uint32Array, int16: Int16Array, uint16: Uint16Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
  float16: Uint16Array,
};

async function main() {
  const job = JSON.parse(fs.readFileSync(path.join(folder, 'job.json')));
  const ort = require(path.join(modules, 'onnxruntime-node'));
  const version = JSON.parse(fs.readFileSync(path.join(modules, 'onnxruntime-node', 'package.json'))).version;
  const read = ({ file, dtype, shape }) => {
    const bytes = fs.readFileSync(path.join(folder, file));
    const data = new TYPES[dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    return new ort.Tensor(dtype, data, shape);
  };
  const feeds = job.samples.map(
    (sample) => Object.fromEntries(Object.entries(sample).map(([name, one]) => [name, read(one)])));
  const before = process.memoryUsage().rss;
  let start = process.hrtime.bigint();
  const session = await ort.InferenceSession.create(path.join(folder, job.model), {
    intraOpNumThreads: job.threads, optimizedModelFilePath: path.join(folder, 'node_optimized.onnx'),
    logSeverityLevel: 3,
  });
  const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;
  const load = seconds(start);
  const samples = [];
  for (const [index, feed] of feeds.entries()) {
    const found = await session.run(feed, job.outputs);
    const row = {};
    job.outputs.forEach((name, place) => {
      const file = `out${index}_${place}.bin`, tensor = found[name];
      fs.writeFileSync(path.join(folder, file), Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
      row[name] = { file, dtype: tensor.type, shape: tensor.dims };
    });
    samples.push(row);
  }
  const times = [], begun = process.hrtime.bigint();
  while (times.length < 1 || (times.length < 50 && seconds(begun) < job.seconds)) {
    start = process.hrtime.bigint();
    await session.run(feeds[0], job.outputs);
    times.push(seconds(start));
  }
  const memory = process.memoryUsage().rss - before;
  fs.writeFileSync(path.join(folder, 'result.json'), JSON.stringify(
    { load, seconds: times, memory, fused: '', version: `onnxruntime-node ${version}`, samples }));
}

main().catch((error) => {
  fs.writeFileSync(path.join(folder, 'result.json'), JSON.stringify({ error: String(error.message || error) }));
});
