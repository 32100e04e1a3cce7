"""pyrate-limiter in Flask: a bucket for each key, and a state of GCRA for each. PORT REDIS_URL LIMIT WINDOW_SECONDS"""

import sys
from functools import cache

from flask import Flask, request
from pyrate_limiter import GCRA, Limiter, Rate, RedisBucket, RedisStateStore, StateBucket
from redis import Redis

port, redis_url, limit, window = sys.argv[1:]
rates = [Rate(int(limit), int(window) * 1000)]
redis = Redis.from_url(redis_url)
app = Flask(__name__)


@cache
def limiter(algorithm, key):
    if algorithm == "gcra":
        return Limiter(StateBucket(rates, GCRA(), RedisStateStore(redis, f"gcra:{key}")))
    return Limiter(RedisBucket.init(rates, redis, f"bucket:{key}"))


@app.get("/ready")
def ready():
    return "ready"


@app.get("/<algorithm>")
def limited(algorithm):
    allowed = limiter(algorithm, f"{algorithm}:{request.args['key']}").try_acquire("request", blocking=False)
    return "allowed" if allowed else ("refused", 429)


app.run("127.0.0.1", int(port), threaded=True)
