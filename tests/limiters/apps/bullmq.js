// BullMQ: a queue for each key, whose worker has a limiter. A job that is not begun at once is taken back, and counts
// as refused. PORT REDIS_URL LIMIT WINDOW_SECONDS
const { createServer } = require("node:http");
const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");

// How long a job may wait: far more than a worker takes to begin one.
const PATIENCE_MS = 300;

const [port, redisUrl, limit, window] = process.argv.slice(2);
const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
connection.on("error", console.error);
const limiter = { max: Number(limit), duration: Number(window) * 1000 };
const queues = new Map();

function queueOf(key) {
  if (!queues.has(key)) {
    // The name of a queue has no colon.
    const name = key.replaceAll(":", ".");
    const begun = new Map();
    const worker = new Worker(name, async (job) => begun.get(job.data)?.(), { connection, limiter });
    const queue = new Queue(name, { connection, defaultJobOptions: { removeOnComplete: true } });
    worker.on("error", console.error);
    queue.on("error", console.error);
    queues.set(key, { begun, queue });
  }
  return queues.get(key);
}

let requests = 0;

async function admitted(key) {
  const { begun, queue } = queueOf(key);
  const number = ++requests;
  let timer;
  const inTime = new Promise((resolve) => {
    begun.set(number, () => resolve(true));
    timer = setTimeout(() => resolve(false), PATIENCE_MS);
  });
  try {
    const job = await queue.add("send", number);
    if (await inTime) return true;
    // A job that a worker has begun meanwhile cannot be taken back.
    return await job.remove().then(() => false, () => true);
  } finally {
    clearTimeout(timer);
    begun.delete(number);
  }
}

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://127.0.0.1");
  try {
    if (pathname !== "/ready" && !(await admitted(searchParams.get("key")))) response.statusCode = 429;
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
  }
  response.end();
}).listen(Number(port), "127.0.0.1");
