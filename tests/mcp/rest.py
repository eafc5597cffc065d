"""What the drivers need of the REST API: a project of their own, and JSON over HTTP with the standard library alone."""

import contextlib
import json
import os
import urllib.error
import urllib.request

URL = os.environ.get("PVM_URL", "http://127.0.0.1:8787").rstrip("/")
KEY = os.environ["PVM_API_KEY"]


def call(method, path, body=None, key=KEY, headers=None):
    """Answers (status, headers, parsed body or text)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, method=method)
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    request.add_header("Content-Type", "application/json")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers, parsed(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, parsed(error.read())


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


@contextlib.contextmanager
def project(name):
    """A new project's id; the project is deleted afterwards."""
    status, _, made = call("POST", "/api/projects", {"name": name, "auto_setup_vm": True})
    assert status == 201, (status, made)
    try:
        yield made["project_id"]
    finally:
        call("DELETE", f"/api/projects/{made['project_id']}")
