// fastify with @fastify/rate-limit: a limit over all routes, and one for a single route. PORT REDIS_URL LIMIT WINDOW_SECONDS
const fastify = require("fastify");
const rateLimit = require("@fastify/rate-limit");
const { Redis } = require("ioredis");

const [port, redisUrl, limit, window] = process.argv.slice(2);
const redis = new Redis(redisUrl);
redis.on("error", console.error);
const settings = { max: Number(limit), timeWindow: Number(window) * 1000 };

async function main() {
  const app = fastify();
  await app.register(rateLimit, { ...settings, redis, keyGenerator: (request) => request.query.key });
  app.get("/ready", { config: { rateLimit: false } }, async () => "ready");
  app.get("/global", async () => "allowed");
  app.get("/route", { config: { rateLimit: settings } }, async () => "allowed");
  await app.listen({ port: Number(port), host: "127.0.0.1" });
}

main();
