// BullMQ: a queue for each key, whose worker has a limiter. A job that the limit delays is removed, and counts as refused.
// PORT REDIS_URL LIMIT WINDOW_SECONDS
const { createServer } = require("node:http");
const { setTimeout: sleep } = require("node:timers/promises");
const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");

// The time between two checks of a job that has not begun, and the most checks.
const LOOK_EVERY_MS = 50;
const LOOKS = 200;

const [port, redisUrl, limit, window] = process.argv.slice(2);
const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
connection.on("error", console.error);
const limiter = { max: Number(limit), duration: Number(window) * 1000 };
const queues = new Map();

function queueOf(key) {
  if (!queues.has(key)) {
    // Names of queues must not have colons.
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
  let began = false;
  const beginning = new Promise((resolve) => {
    begun.set(number, () => resolve((began = true)));
  });
  try {
    const job = await queue.add("send", number);
    for (let look = 0; look < LOOKS; look++) {
      await Promise.race([beginning, sleep(LOOK_EVERY_MS)]);
      // The worker of another process may have begun it.
      if (began || !["waiting", "delayed"].includes(await job.getState())) return true;
      // A job that a worker has begun meanwhile cannot be removed.
      if ((await queue.getRateLimitTtl(limiter.max)) > 0) return await job.remove().then(() => began, () => true);
    }
    throw new Error(`no worker begins ${key}`);
  } finally {
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
