"""A small web app with registration, login and a dashboard over the uploaded weather data."""
import csv
import os
import secrets
import sqlite3

from flask import Flask, flash, g, redirect, render_template, request, url_for
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from werkzeug.security import check_password_hash, generate_password_hash

HERE = os.path.dirname(os.path.abspath(__file__))
DATABASE = os.path.join(HERE, "users.db")
SUMMARY = os.path.join(HERE, "..", "summary.csv")

app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ.get("SECRET_KEY") or secrets.token_hex(32)
login_manager = LoginManager(app)
login_manager.login_view = "login"


class User(UserMixin):
    def __init__(self, row):
        self.id, self.name, self.password_hash = row


def database():
    if "database" not in g:
        g.database = sqlite3.connect(DATABASE)
        g.database.execute(
            "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, password_hash TEXT NOT NULL)"
        )
    return g.database


@app.teardown_appcontext
def close_database(_error):
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()


def find_user(column, value):
    row = database().execute(f"SELECT id, name, password_hash FROM users WHERE {column} = ?", (value,)).fetchone()
    return User(row) if row else None


@login_manager.user_loader
def load_user(user_id):
    return find_user("id", user_id)


@app.get("/")
def index():
    return redirect(url_for("dashboard" if current_user.is_authenticated else "login"))


@app.route("/register", methods=["GET", "POST"])
def register():
    if request.method == "POST":
        name, password = request.form["username"].strip(), request.form["password"]
        if not name or len(password) < 8:
            flash("A user name and a password of at least 8 characters are needed.")
        elif find_user("name", name):
            flash("That user name is taken.")
        else:
            with database() as connection:
                connection.execute(
                    "INSERT INTO users (name, password_hash) VALUES (?, ?)", (name, generate_password_hash(password))
                )
            flash("Registered; please log in.")
            return redirect(url_for("login"))
    return render_template("form.html", title="Register", action="Register")


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "POST":
        user = find_user("name", request.form["username"].strip())
        if user and check_password_hash(user.password_hash, request.form["password"]):
            login_user(user)
            return redirect(url_for("dashboard"))
        flash("Wrong user name or password.")
    return render_template("form.html", title="Log in", action="Log in")


@app.get("/logout")
@login_required
def logout():
    logout_user()
    return redirect(url_for("login"))


@app.get("/dashboard")
@login_required
def dashboard():
    rows = []
    if os.path.exists(SUMMARY):
        with open(SUMMARY, newline="") as file:
            rows = list(csv.DictReader(file))
    return render_template("dashboard.html", title="Dashboard", rows=rows)


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", "5000")))
