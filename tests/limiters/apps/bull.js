// bull: one queue, whose limiter counts by groupKey. A job that the limit delays is removed, and counts as refused.
// PORT REDIS_URL LIMIT WINDOW_SECONDS
const { createServer } = require("node:http");
const { setTimeout: sleep } = require("node:timers/promises");
const Queue = require("bull");

// The time between two checks of a job that has not begun.
const LOOK_EVERY_MS = 50;

const [port, redisUrl, limit, window] = process.argv.slice(2);
const limiter = { max: Number(limit), duration: Number(window) * 1000, groupKey: "client" };
const queue = new Queue("mail", redisUrl, { limiter });
queue.on("error", console.error);
queue.process(100, async () => {});

async function admitted(client) {
  const job = await queue.add({ client });
  for (;;) {
    const state = await job.getState();
    if (state === "active" || state === "completed") return true;
    if (state === "delayed") return await job.remove().then(() => false, () => true);
    await sleep(LOOK_EVERY_MS);
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
