// express with express-rate-limit and rate-limit-redis. PORT REDIS_URL LIMIT WINDOW_SECONDS
const express = require("express");
const { rateLimit } = require("express-rate-limit");
const { Redis } = require("ioredis");
const { RedisStore } = require("rate-limit-redis");

const [port, redisUrl, limit, window] = process.argv.slice(2);
const redis = new Redis(redisUrl);
redis.on("error", console.error);
const store = new RedisStore({ sendCommand: (...command) => redis.call(...command) });
const limiter = rateLimit({
  limit: Number(limit),
  windowMs: Number(window) * 1000,
  keyGenerator: (request) => request.query.key,
  store,
});

const app = express();
app.get("/ready", (_, response) => response.send("ready"));
app.get("/express", limiter, (_, response) => response.send("allowed"));
// skipFailedRequests does this after an answer. Here, no request comes first, as if the counter had expired meanwhile.
app.get("/late-decrement", async (request, response) => {
  await store.decrement(request.query.key);
  response.send("taken back");
});
app.listen(Number(port), "127.0.0.1");
