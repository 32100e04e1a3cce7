// express with express-rate-limit and rate-limit-redis. PORT REDIS_URL LIMIT WINDOW_SECONDS
const express = require("express");
const { rateLimit } = require("express-rate-limit");
const { Redis } = require("ioredis");
const { RedisStore } = require("rate-limit-redis");

const [port, redisUrl, limit, window] = process.argv.slice(2);
const redis = new Redis(redisUrl);
redis.on("error", console.error);
const limiter = rateLimit({
  limit: Number(limit),
  windowMs: Number(window) * 1000,
  keyGenerator: (request) => request.query.key,
  store: new RedisStore({ sendCommand: (...command) => redis.call(...command) }),
});

const app = express();
app.get("/ready", (_, response) => response.send("ready"));
app.get("/express", limiter, (_, response) => response.send("allowed"));
app.listen(Number(port), "127.0.0.1");
