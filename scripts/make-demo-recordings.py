#!/usr/bin/env python3
"""Writes infra/local/demo/*.json, the recordings that `make demo` replays, from the files in infra/local/demo/parts."""
import json
import pathlib

DEMO = pathlib.Path(__file__).resolve().parent.parent / "infra/local/demo"


def part(name):
    return (DEMO / "parts" / name).read_text()


def heredoc(path, name):
    return f"/vm cat > {path} << 'EOF'\n{part(name)}EOF\n"


def write(path, name):
    return {"name": "write_file", "arguments": {"path": path, "content": part(name)}}


def run(command, directory="/workspace"):
    return {"name": "execute_command", "arguments": {"command": command, "working_dir": directory}}


def service(command):
    arguments = {"name": "web-app", "command": command, "port": 5000, "working_dir": "/workspace/app"}
    return {"name": "start_service", "arguments": arguments}


def says(text, *calls):
    return {"text": text, "tool_calls": list(calls)}


def recording(file, name, message, agents):
    body = {"name": name, "initial_message": message, "agents": agents}
    (DEMO / file).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


recording(
    "flask-app.json",
    "flask-app",
    "Build a Flask web app with user authentication",
    {
        "dev_agent": [
            says(
                "I start with the folders and a virtual environment, then install Flask and Flask-Login.\n\n"
                "/vm mkdir -p /workspace/app/templates /workspace/app/static\n"
                "/vm cd /workspace/app && python -m venv venv\n"
                "/vm source venv/bin/activate && pip install --quiet flask flask-login && pip list --format=freeze\n"
            ),
            says(
                "Flask is there. Now the application: registration, login with hashed passwords, and a dashboard that only "
                "logged-in users see.\n\n" + heredoc("/workspace/app/app.py", "app.py")
            ),
            says(
                "The dashboard shows the uploaded weather data by year, so I summarise it with a small script.",
                write("/workspace/summarise.py", "summarise.py"),
                run("python3 summarise.py"),
            ),
            says(
                "The summary is written. I start the app as a service, so that it is brought back whenever the VM is.",
                service("venv/bin/python app.py"),
            ),
            says(
                "The back end runs on port 5000: `/register`, `/login`, `/dashboard`, `/logout`. The pages have no templates "
                "yet. @designer_agent, please make `base.html`, `form.html`, `dashboard.html` and a style sheet."
            ),
        ],
        "designer_agent": [
            says(
                "I will keep it plain and readable: one base page, one form for both login and registration, one table.\n\n"
                + heredoc("/workspace/app/templates/base.html", "base.html")
            ),
            says(
                "Now the form, the dashboard and the style sheet.",
                write("/workspace/app/templates/form.html", "form.html"),
                write("/workspace/app/templates/dashboard.html", "dashboard.html"),
                write("/workspace/app/static/style.css", "style.css"),
            ),
            says(
                "Let me look at the login page as a visitor gets it.",
                run("curl -s http://127.0.0.1:5000/login | grep -E '<title>|<form|<button'"),
            ),
            says(
                "The login page has its form and style. The app is complete: register, log in, and the dashboard shows the "
                "weather by year."
            ),
        ],
    },
)

recording(
    "standard-library-app.json",
    "standard-library-app",
    "Build a web app with user authentication from the Python standard library",
    {
        "dev_agent": [
            says(
                "No registry is in reach, so the app uses the standard library only.\n\n"
                "/vm mkdir -p /workspace/app/templates\n"
                "/vm cd /workspace/app\n" + heredoc("app.py", "plain_app.py")
            ),
            says(
                "Now the summary of the uploaded weather data.",
                write("/workspace/summarise.py", "summarise.py"),
                run("python3 summarise.py"),
            ),
            says("I start the app as a service.", service("python3 app.py")),
            says("The back end runs on port 5000. @designer_agent, please make `templates/base.html`, the frame of all pages."),
        ],
        "designer_agent": [
            says("One frame for all pages, with the styles inside.\n\n" + heredoc("/workspace/app/templates/base.html", "plain_base.html")),
            says(
                "Let me look at the login page as a visitor gets it.",
                run(
                    "python3 -c \"import urllib.request; "
                    "print(urllib.request.urlopen('http://127.0.0.1:5000/login').read().decode()[:400])\""
                ),
            ),
            says("The login page has its form. The app is complete."),
        ],
    },
)
