"""Django REST framework's throttling, in a cache of django-redis. PORT REDIS_URL LIMIT WINDOW_SECONDS"""

import sys

import django
from django.conf import settings
from django.urls import path
from werkzeug.serving import run_simple

port, redis_url, limit, window = sys.argv[1:]
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url}},
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=sys.modules[__name__],
    SECRET_KEY="signs nothing",
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402: Django wants to be set up first
from rest_framework.decorators import api_view, throttle_classes  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.throttling import SimpleRateThrottle  # noqa: E402


class PerKey(SimpleRateThrottle):
    scope = "user"
    rate = "ignored: the rates of the framework have only a second, a minute, an hour or a day"

    def parse_rate(self, rate):
        return int(limit), int(window)

    def get_cache_key(self, request, view):
        return self.cache_format % {"scope": self.scope, "ident": request.query_params["key"]}


@api_view()
def ready(request):
    return Response("ready")


@api_view()
@throttle_classes([PerKey])
def throttle(request):
    return Response("allowed")


urlpatterns = [path("ready", ready), path("throttle", throttle)]
run_simple("127.0.0.1", int(port), get_wsgi_application(), threaded=True)
