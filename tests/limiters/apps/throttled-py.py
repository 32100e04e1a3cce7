"""throttled-py in Flask: an endpoint for each algorithm. PORT REDIS_URL LIMIT WINDOW_SECONDS"""

import sys
from datetime import timedelta

from flask import Flask, request
from throttled import RateLimiterType, Throttled, per_duration, store

port, redis_url, limit, window = sys.argv[1:]
quota = per_duration(timedelta(seconds=int(window)), int(limit))
redis = store.RedisStore(server=redis_url)
limiters = {
    algorithm.value.replace("_", "-"): Throttled(using=algorithm.value, quota=quota, store=redis)
    for algorithm in RateLimiterType
}
app = Flask(__name__)


@app.get("/ready")
def ready():
    return "ready"


@app.get("/<algorithm>")
def limited(algorithm):
    result = limiters[algorithm].limit(f"{algorithm}:{request.args['key']}")
    return ("refused", 429) if result.limited else "allowed"


app.run("127.0.0.1", int(port), threaded=True)
