"""Flask with Flask-Limiter: an endpoint for each strategy. PORT REDIS_URL LIMIT WINDOW_SECONDS"""

import sys

from flask import Flask, request
from flask_limiter import Limiter

port, redis_url, limit, window = sys.argv[1:]
app = Flask(__name__)


@app.get("/ready")
def ready():
    return "ready"


# A strategy is chosen for a whole Limiter, so there are three. Its counters are named by the endpoint.
for strategy in ("fixed-window", "moving-window", "sliding-window-counter"):
    limiter = Limiter(lambda: request.args["key"], app=app, strategy=strategy, storage_uri=redis_url)
    view = limiter.limit(f"{limit} per {window} second")(lambda: "allowed")
    app.add_url_rule(f"/{strategy}", strategy, view)

app.run("127.0.0.1", int(port), threaded=True)
