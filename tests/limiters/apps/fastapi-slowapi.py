"""FastAPI with slowapi. PORT REDIS_URL LIMIT WINDOW_SECONDS"""

import sys

import uvicorn
from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

port, redis_url, limit, window = sys.argv[1:]
limiter = Limiter(lambda request: request.query_params["key"], storage_uri=redis_url)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)


@app.get("/ready")
def ready():
    return "ready"


@app.get("/fixed-window")
@limiter.limit(f"{limit} per {window} second")
def fixed_window(request: Request):
    return "allowed"


uvicorn.run(app, host="127.0.0.1", port=int(port))
