// rate-limiter-flexible behind Node's own server. PORT REDIS_URL LIMIT WINDOW_SECONDS
const { createServer } = require("node:http");
const { Redis } = require("ioredis");
const { RateLimiterRedis } = require("rate-limiter-flexible");

const [port, redisUrl, limit, window] = process.argv.slice(2);
const redis = new Redis(redisUrl);
redis.on("error", console.error);
const limiter = new RateLimiterRedis({ storeClient: redis, points: Number(limit), duration: Number(window) });

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://127.0.0.1");
  if (pathname !== "/ready") {
    try {
      await limiter.consume(searchParams.get("key"));
    } catch (refused) {
      // A refusal is not an Error.
      response.statusCode = refused instanceof Error ? 500 : 429;
    }
  }
  response.end();
}).listen(Number(port), "127.0.0.1");
