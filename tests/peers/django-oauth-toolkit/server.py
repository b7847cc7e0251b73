"""django-oauth-toolkit, an OAuth 2.0 server that nobody here wrote, set up for tests: HTTP on loopback, nobody
to ask for consent, short-lived tokens, and knobs to spoil answers.

    target/tools/peers/venv/bin/python server.py

Settings, from the environment: PORT (0: any free one, the first line of output says which), ACCESS_SECONDS (5),
CALLBACKS (addresses that clients may send people back to, divided by spaces), ROTATE (1; 0: refresh tokens stay),
GRACE_SECONDS (0; how long a refresh token that was replaced brings the same replacement again), DATABASE (a file,
peer.sqlite3 of the current folder if not set), UNTIL_STDIN_ENDS (1: stop when the standard input ends, so that
nothing outlives whoever started it).

Clients: broker, and machine, which acts for itself; each has the secret `<id>-secret`, in the header or in the
body. The one account is alice. The endpoints are /o/authorize/, /o/token/, /o/revoke_token/ and /o/introspect/; GET
/me says whose a token is; there is no `iss`. A refresh token that comes again when it must not ends its family.

Knobs: GET /_control/counts   calls by path
       POST /_control/faults  a JSON fault, for the next calls of a path:
           {"path": "/o/token/", "times": 1, "delay_ms": 0, and one of
            "lose": true          the server does its work, and the connection ends before the answer
            "status": 503, "headers": {}, "body": ""}
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings
from django.urls import include, path

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        __name__ + ".AlwaysAlice",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("DATABASE", "peer.sqlite3"),
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": int(os.environ.get("ACCESS_SECONDS", "5")),
        "REFRESH_TOKEN_EXPIRE_SECONDS": 3600,
        "ROTATE_REFRESH_TOKEN": os.environ.get("ROTATE", "1") == "1",
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": int(os.environ.get("GRACE_SECONDS", "0")),
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "PKCE_REQUIRED": True,
        "SCOPES": {"mail.read": "read mail", "mail.send": "send mail", "introspection": "look at tokens"},
        "DEFAULT_SCOPES": ["mail.read"],
    },
)


class AlwaysAlice:
    """Whoever comes to the consent page is alice, and is logged in."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, request):
        if request.path.startswith("/o/authorize"):
            from django.contrib.auth import get_user_model

            request.user = get_user_model().objects.get(username="alice")
        return self.answer(request)


django.setup()


def me(request):
    from django.http import JsonResponse
    from oauth2_provider.decorators import protected_resource

    tell = protected_resource()(lambda request: JsonResponse({"id": request.resource_owner.username}))
    return tell(request)


urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("me", me),
]


def fill():
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from oauth2_provider.models import Application

    call_command("migrate", verbosity=0)
    alice, _ = get_user_model().objects.get_or_create(username="alice")
    callbacks = os.environ.get("CALLBACKS", "http://127.0.0.1:9/callback")
    for client, grant_type, redirect_uris in (
        ("broker", Application.GRANT_AUTHORIZATION_CODE, callbacks),
        ("machine", Application.GRANT_CLIENT_CREDENTIALS, ""),
    ):
        Application.objects.filter(client_id=client).delete()
        Application.objects.create(
            client_id=client,
            client_secret=f"{client}-secret",
            client_type=Application.CLIENT_CONFIDENTIAL,
            authorization_grant_type=grant_type,
            redirect_uris=redirect_uris,
            skip_authorization=True,
            user=alice,
            name=client,
        )


class Knobs:
    """Counts and spoils what the application answers."""

    def __init__(self, application):
        self.application, self.counts, self.faults, self.lock = application, Counter(), [], threading.Lock()

    def __call__(self, environ, start_response):
        where = environ["PATH_INFO"]
        if where.startswith("/_control/"):
            return self.control(where, environ, start_response)
        fault = self.take(where)
        time.sleep(fault.get("delay_ms", 0) / 1000)
        if fault.get("lose"):
            list(self.application(environ, lambda *_: None))
            raise ConnectionAbortedError("the answer is lost")
        if "status" in fault:
            headers = fault.get("headers", {"Content-Type": "application/json"})
            start_response(f"{fault['status']} Spoilt", list(headers.items()))
            return [fault.get("body", '{"error":"server_error"}').encode()]
        return self.application(environ, start_response)

    def control(self, where, environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        with self.lock:
            if where == "/_control/counts":
                return [json.dumps(self.counts).encode()]
            length = int(environ.get("CONTENT_LENGTH") or 0)
            self.faults.append({"times": 1, **json.loads(environ["wsgi.input"].read(length))})
        return [b""]

    def take(self, where):
        with self.lock:
            self.counts[where] += 1
            for fault in self.faults:
                if fault["path"] == where and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return {}


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self):
        # The base class asks a name server who we are.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address
        self.setup_environ()

    def handle_error(self, *_):
        """Answers are lost on purpose."""


def main():
    from django.core.wsgi import get_wsgi_application

    # The settings name classes of this module.
    sys.modules.setdefault("server", sys.modules["__main__"])
    fill()
    port = int(os.environ.get("PORT", "0"))
    server = make_server("127.0.0.1", port, Knobs(get_wsgi_application()), Server, Handler)
    if os.environ.get("UNTIL_STDIN_ENDS") == "1":
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
