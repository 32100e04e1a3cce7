// @upstash/ratelimit over a client of ioredis, an endpoint for each algorithm. PORT REDIS_URL LIMIT WINDOW_SECONDS
const { createServer } = require("node:http");
const { Ratelimit } = require("@upstash/ratelimit");
const { Redis } = require("ioredis");

const [port, redisUrl, limit, window] = process.argv.slice(2);
const redis = new Redis(redisUrl);
redis.on("error", console.error);

// Replaces @upstash/redis, which uses HTTP. The first line of the scripts has a flag that only Upstash's Redis knows. Without
// that line, the scripts have another hash, so they are always sent in full.
const client = {
  evalsha: async () => {
    throw new Error("NOSCRIPT");
  },
  eval: (script, keys, args) => redis.eval(script.replace(/^\s*#!lua.*\n/, ""), keys.length, ...keys, ...args),
};

const algorithms = {
  "fixed-window": Ratelimit.fixedWindow(Number(limit), `${Number(window)} s`),
  "sliding-window": Ratelimit.slidingWindow(Number(limit), `${Number(window)} s`),
  "token-bucket": Ratelimit.tokenBucket(Number(limit), `${Number(window)} s`, Number(limit)),
};
const limiters = new Map(
  // Without its cache each refused request reaches Redis.
  Object.entries(algorithms).map(([name, limiter]) => [
    `/${name}`,
    { name, ratelimit: new Ratelimit({ redis: client, limiter, ephemeralCache: false }) },
  ]),
);

// The process also counts in its own memory. The script leaves keys without expiry.
limiters.set("/cached-fixed-window", {
  name: "cached-fixed-window",
  ratelimit: new Ratelimit({
    redis: client,
    limiter: Ratelimit.cachedFixedWindow(Number(limit), `${Number(window)} s`),
    ephemeralCache: new Map(),
  }),
});

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://127.0.0.1");
  const limiter = limiters.get(pathname);
  try {
    if (limiter) {
      const { success } = await limiter.ratelimit.limit(`${limiter.name}:${searchParams.get("key")}`);
      response.statusCode = success ? 200 : 429;
    }
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
  }
  response.end();
}).listen(Number(port), "127.0.0.1");
