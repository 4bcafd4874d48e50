"""Leafy's API: sign in, list notes, write one. Reads `DB_URL` (a PostgreSQL address) and `PORT`.

    POST /api/sign-in {name, password}  → 200 {name}, sets the cookie
    POST /api/sign-out                  → 200
    GET  /api/notes                     → 200 {notes: [{id, text, written_at}]}
    POST /api/notes {text}              → 201 {id, text, written_at}
    GET  /api/health                    → 200 when the database answers

Each request has a connection of its own, so a database that was replaced is found again under its name.
"""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import sys
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

COOKIE = "leafy"
DAYS = 14
LARGEST_BODY = 64 * 1024
LONGEST_NOTE = 2000


class Refused(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


@contextlib.contextmanager
def database():
    """Give a cursor in a transaction that is committed at the end."""
    try:
        connection = psycopg2.connect(os.environ["DB_URL"], connect_timeout=3)
    except psycopg2.OperationalError as error:
        print(f"the database does not answer: {error}", file=sys.stderr)
        raise Refused(503, "the database does not answer; try again in a moment") from error
    with contextlib.closing(connection), connection, connection.cursor() as cursor:
        yield cursor


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        self.route({"/api/health": self.health, "/api/notes": self.notes})

    def do_POST(self):
        self.route({"/api/sign-in": self.sign_in, "/api/sign-out": self.sign_out, "/api/notes": self.write})

    def route(self, table):
        try:
            body = self.body()
            action = table.get(self.path.partition("?")[0])
            if action is None:
                raise Refused(404, "no such thing")
            status, answer, headers = action(body)
        except Refused as refusal:
            status, answer, headers = refusal.status, {"problem": str(refusal)}, {}
        except psycopg2.Error as error:
            print(f"{self.path}: {error}", file=sys.stderr)
            status, answer, headers = (
                503,
                {"problem": "the database could not do it; try again in a moment"},
                {},
            )
        self.answer(status, answer, headers)

    def body(self):
        """Return the JSON object that was sent; an empty one where there is none."""
        text = self.headers.get("Content-Length", "0")
        if not text.isdecimal() or int(text) > LARGEST_BODY:
            self.close_connection = True
            raise Refused(413, "the body is too large")
        data = self.rfile.read(int(text))
        if not data:
            return {}
        if self.headers.get_content_type() != "application/json":  # forms of other sites cannot send this
            raise Refused(415, "send JSON")
        try:
            value = json.loads(data)
        except ValueError as error:
            raise Refused(400, "the body is no JSON") from error
        if not isinstance(value, dict):
            raise Refused(400, "the body must be an object")
        return value

    def answer(self, status, value, headers):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    # what it does

    def health(self, body):
        with database() as cursor:
            cursor.execute("SELECT 1")
        return 200, {"ok": True}, {}

    def sign_in(self, body):
        name, password = text_of(body, "name"), text_of(body, "password")
        with database() as cursor:
            cursor.execute(
                "SELECT id FROM gardener WHERE name = %s AND password = crypt(%s, password)", (name, password)
            )
            row = cursor.fetchone()
            if row is None:
                raise Refused(401, "name or password is wrong")
            token = secrets.token_urlsafe(32)
            cursor.execute("DELETE FROM session WHERE ends_at < now()")
            cursor.execute(
                "INSERT INTO session VALUES (%s, %s, now() + make_interval(days => %s))",
                (hashed(token), row[0], DAYS),
            )
        return 200, {"name": name}, {"Set-Cookie": cookie(token, DAYS * 86400)}

    def sign_out(self, body):
        with database() as cursor:
            cursor.execute("DELETE FROM session WHERE token_hash = %s", (hashed(self.token()),))
        return 200, {}, {"Set-Cookie": cookie("", 0)}

    def notes(self, body):
        with database() as cursor:
            cursor.execute(
                "SELECT id, text, written_at FROM note WHERE gardener_id = %s ORDER BY id DESC LIMIT 200",
                (self.gardener(cursor),),
            )
            return 200, {"notes": [note_of(row) for row in cursor.fetchall()]}, {}

    def write(self, body):
        text = text_of(body, "text").strip()
        if not 1 <= len(text) <= LONGEST_NOTE:
            raise Refused(400, f"a note has 1 to {LONGEST_NOTE} letters")
        with database() as cursor:
            cursor.execute(
                "INSERT INTO note (gardener_id, text) VALUES (%s, %s) RETURNING id, text, written_at",
                (self.gardener(cursor), text),
            )
            return 201, note_of(cursor.fetchone()), {}

    def gardener(self, cursor):
        """Return who is signed in."""
        cursor.execute(
            "SELECT gardener_id FROM session WHERE token_hash = %s AND ends_at > now()",
            (hashed(self.token()),),
        )
        row = cursor.fetchone()
        if row is None:
            raise Refused(401, "sign in first")
        return row[0]

    def token(self):
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return found.value if found else ""


def text_of(body, name):
    value = body.get(name)
    if not isinstance(value, str) or "\0" in value:
        raise Refused(400, f"{name} is missing")
    return value


def hashed(token):
    return hashlib.sha256(token.encode()).digest()


def cookie(token, seconds):
    return f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}"


def note_of(row):
    return {"id": row[0], "text": row[1], "written_at": row[2].isoformat()}


if __name__ == "__main__":
    # the first process of a container is not ended by a signal that it does not handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = int(os.environ.get("PORT", "8000"))
    print(f"listening on port {port}")
    ThreadingHTTPServer(("", port), Handler).serve_forever()
