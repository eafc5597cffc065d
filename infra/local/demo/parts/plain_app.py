"""Registration, login and a dashboard over the uploaded weather data, with the standard library only."""
import csv
import hashlib
import html
import http.cookies
import http.server
import os
import secrets
import sqlite3
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
SUMMARY = os.path.join(HERE, "..", "summary.csv")
SESSIONS = {}


def database():
    connection = sqlite3.connect(os.path.join(HERE, "users.db"))
    connection.execute("CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL)")
    return connection


def hashed(password, salt):
    return hashlib.scrypt(password.encode(), salt=salt, n=16384, r=8, p=1)


def register(name, password):
    salt = secrets.token_bytes(16)
    with database() as connection:
        connection.execute("INSERT INTO users VALUES (?, ?, ?)", (name, salt, hashed(password, salt)))


def known(name, password):
    row = database().execute("SELECT salt, hash FROM users WHERE name = ?", (name,)).fetchone()
    return bool(row) and secrets.compare_digest(hashed(password, row[0]), row[1])


def form(action):
    return (
        '<form method="post"><label>User name <input name="username" required></label>'
        f'<label>Password <input name="password" type="password" required></label><button>{action}</button></form>'
    )


def dashboard():
    rows = []
    if os.path.exists(SUMMARY):
        with open(SUMMARY, newline="") as file:
            rows = list(csv.reader(file))
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{cells}</table>"


class Handler(http.server.BaseHTTPRequestHandler):
    def user(self):
        cookie = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
        return SESSIONS.get(cookie["session"].value) if "session" in cookie else None

    def page(self, title, content, message=""):
        with open(os.path.join(HERE, "templates", "base.html")) as file:
            frame = file.read()
        note = f'<p class="message">{html.escape(message)}</p>' if message else ""
        user = html.escape(self.user() or "")
        body = frame.format(title=title, content=content, message=note, user=user).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, path, session=None):
        self.send_response(303)
        self.send_header("Location", path)
        if session:
            self.send_header("Set-Cookie", f"session={session}; HttpOnly; SameSite=Lax; Path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/login":
            self.page("Log in", form("Log in"))
        elif path == "/register":
            self.page("Register", form("Register"))
        elif path == "/dashboard" and self.user():
            self.page("Weather by year", dashboard())
        elif path in ("/", "/dashboard"):
            self.redirect("/dashboard" if self.user() else "/login")
        else:
            self.send_error(404)

    def do_POST(self):
        path = urllib.parse.urlsplit(self.path).path
        length = int(self.headers.get("Content-Length", 0))
        fields = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode()))
        name, password = fields.get("username", "").strip(), fields.get("password", "")
        if path == "/register":
            if not name or len(password) < 8:
                return self.page("Register", form("Register"), "A user name and a password of at least 8 characters are needed.")
            try:
                register(name, password)
            except sqlite3.IntegrityError:
                return self.page("Register", form("Register"), "That user name is taken.")
            return self.redirect("/login")
        if path == "/login":
            if not known(name, password):
                return self.page("Log in", form("Log in"), "Wrong user name or password.")
            session = secrets.token_urlsafe(32)
            SESSIONS[session] = name
            return self.redirect("/dashboard", session)
        return self.send_error(404)


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "5000"))
    http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
