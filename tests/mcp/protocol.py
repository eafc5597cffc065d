"""The protocol's edges, by plain HTTP: who is let in, what is refused and how, jobs and tasks of long tools, progress,
repeated requests. Usage: PVM_URL=... PVM_API_KEY=... python protocol.py"""

import http.client
import json
import time
import urllib.parse

from rest import KEY, URL, call, project

NEW = "2026-07-28"
OLD = "2025-11-25"
TASKS = "io.modelcontextprotocol/tasks"
HOST = urllib.parse.urlparse(URL)


def post(path, message, key=KEY, headers=None):
    """Answers (status, headers, list of JSON-RPC messages or the raw text)."""
    connection = http.client.HTTPConnection(HOST.hostname, HOST.port, timeout=120)
    all_headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    if key:
        all_headers["Authorization"] = f"Bearer {key}"
    all_headers.update(headers or {})
    connection.request("POST", path, json.dumps(message), all_headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("text/event-stream"):
        data = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        messages = [json.loads(item) for item in data if item]
    elif "json" in kind:
        messages = [json.loads(text)]
    else:
        messages = text
    connection.close()
    return answer.status, answer.headers, messages


class Server:
    def __init__(self, project_id, key=KEY):
        self.path, self.key, self.ids = f"/api/projects/{project_id}/mcp", key, 0

    def request(self, method, params=None, tasks=False, meta=None, headers=None):
        """A request of the stateless era; answers all messages."""
        self.ids += 1
        params = dict(params or {})
        capabilities = {"extensions": {TASKS: {}}} if tasks else {}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": NEW,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
            "io.modelcontextprotocol/clientInfo": {"name": "driver", "version": "1"},
            **(meta or {}),
        }
        name = params.get("name") or params.get("uri") or params.get("taskId")
        known = {"MCP-Protocol-Version": NEW, "Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
        message = {"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params}
        return post(self.path, message, self.key, {**known, **(headers or {})})

    def result(self, method, params=None, **more):
        status, _, messages = self.request(method, params, **more)
        assert status == 200, (status, messages)
        return messages[-1]["result"]

    def tool(self, name, arguments=None, **more):
        return self.result("tools/call", {"name": name, "arguments": arguments or {}}, **more)


def check_doors(project_id, server):
    path = server.path
    for method in ("GET", "DELETE"):
        status, headers, _ = call(method, path)
        assert status == 405, (method, status)
        assert "POST" in headers["Allow"], headers["Allow"]
    ping = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    status, headers, _ = post(path, ping, key=None)
    assert status == 401 and "Bearer" in headers["WWW-Authenticate"], (status, headers.items())
    assert post(path, ping, key="pvm_nonsense")[0] == 401
    other = "/api/projects/prj_00000000000000000000000000/mcp"
    assert post(other, ping)[0] == 404
    assert post(path, ping, headers={"Origin": "https://evil.example"})[0] == 403
    assert post(path, ping, headers={"Host": "evil.example"})[0] == 403
    assert post(path, ping, headers={"Accept": "application/json"})[0] == 406
    status, _, messages = server.request("nonsense/method")
    assert status == 404 and messages[0]["error"]["code"] == -32601, (status, messages)
    status, _, messages = server.request("tools/list", headers={"Mcp-Method": "tools/call"})
    assert status == 400 and messages[0]["error"]["code"] == -32020, (status, messages)
    status, _, messages = server.request("tools/call", {"name": "no_such_tool", "arguments": {}})
    assert messages[0]["error"]["code"] == -32602, messages
    status, _, _ = post(path, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert status == 202, status
    print("ok: doors and refusals")


def check_handshake(server):
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "driver", "version": "1"}}}
    status, headers, messages = post(server.path, message)
    result = messages[0]["result"]
    assert status == 200 and result["protocolVersion"] == OLD, messages
    assert "Mcp-Session-Id" not in headers, "sessions are not made"
    assert result["serverInfo"]["name"] == "project-vm"
    discovered = server.result("server/discover")
    assert NEW in discovered["supportedVersions"], discovered
    print("ok: both eras")


def check_scopes(project_id):
    status, _, made = call("POST", "/api/keys", {"name": "reader", "scope": "read", "project_ids": [project_id]})
    assert status == 201, (status, made)
    reader = Server(project_id, made["api_key"])
    names = [tool["name"] for tool in reader.result("tools/list")["tools"]]
    assert "read_file" in names and "execute_command" not in names, names
    changing = [tool["name"] for tool in reader.result("tools/list")["tools"] if not tool["annotations"]["readOnlyHint"]]
    assert changing == [], changing
    assert reader.result("resources/list")["resources"], "what may be read may be listed"
    result = reader.tool("write_file", {"path": "x", "content": "x"})
    assert result["isError"] and "write" in result["content"][0]["text"], result
    print("ok: tools by scope")


def errors(server, method, params):
    """The error of a request that must be refused."""
    status, _, messages = server.request(method, params)
    assert "error" in messages[-1], (status, messages)
    return messages[-1]["error"]


def check_resources(project_id, server):
    for path in ("docs/a b#1.md", "image.png"):
        query = urllib.parse.urlencode({"path": path})
        connection = http.client.HTTPConnection(HOST.hostname, HOST.port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/octet-stream"}
        body = b"\x89PNG\x00\xff" if path.endswith("png") else b"# Notes\n"
        connection.request("POST", f"/api/projects/{project_id}/files?{query}", body, headers)
        assert connection.getresponse().status == 201, path
        connection.close()
    started = server.tool("start_service", {"name": "web", "command": "echo hello; echo oops >&2; exec sleep 300"})
    assert started["structuredContent"]["status"] == "running", started

    listed = {resource["uri"]: resource for resource in server.result("resources/list")["resources"]}
    assert "pvm://status" in listed and "pvm://services/web/logs" in listed, list(listed)
    notes = listed["pvm://workspace/docs/a%20b%231.md"]
    assert (notes["mimeType"], notes["size"]) == ("text/markdown", 8), notes
    read = lambda uri: server.result("resources/read", {"uri": uri})["contents"][0]
    assert read(notes["uri"])["text"] == "# Notes\n"
    image = read("pvm://workspace/image.png")
    assert (image["mimeType"], image["blob"]) == ("image/png", "iVBORwD/"), image
    # What a command made is read from the machine before it is saved.
    server.tool("execute_command", {"command": "echo fresh > fresh.txt"})
    assert read("pvm://workspace/fresh.txt")["text"] == "fresh\n"
    status = json.loads(read("pvm://status")["text"])
    assert status["vm_status"] == "active" and "web" in [s["name"] for s in status["services"]], status
    deadline = time.monotonic() + 20
    while "hello" not in (log := read("pvm://services/web/logs")["text"]) or "oops" not in log:
        assert time.monotonic() < deadline, log
        time.sleep(0.2)
    for uri in ("pvm://workspace/none", "pvm://workspace/../etc/passwd", "pvm://services/none/logs", "file:///etc/passwd"):
        error = errors(server, "resources/read", {"uri": uri})
        assert error["code"] in (-32002, -32602), (uri, error)
    templates = [t["uriTemplate"] for t in server.result("resources/templates/list")["resourceTemplates"]]
    assert templates == ["pvm://workspace/{+path}", "pvm://services/{name}/logs"], templates

    def complete(template, name, value):
        asked = {"ref": {"type": "ref/resource", "uri": template}, "argument": {"name": name, "value": value}}
        return server.result("completion/complete", asked)["completion"]["values"]

    assert complete(templates[0], "path", "docs/") == ["docs/a b#1.md"]
    assert complete(templates[1], "name", "w") == ["web"]
    assert complete(templates[1], "name", "zzz") == []
    server.tool("stop_service", {"name": "web"})
    print("ok: resources")


def check_pages(server):
    server.tool("execute_command", {"command": "mkdir -p many && cd many && touch $(seq -f %03g 1 230)"})
    deadline = time.monotonic() + 60
    while True:
        seen, cursor, pages = [], None, 0
        while True:
            page = server.result("resources/list", {"cursor": cursor} if cursor else {})
            seen += [resource["uri"] for resource in page["resources"]]
            cursor, pages = page.get("nextCursor"), pages + 1
            if not cursor:
                break
        many = [uri for uri in seen if uri.startswith("pvm://workspace/many/")]
        if len(many) == 230:
            break
        assert time.monotonic() < deadline, len(many)
        time.sleep(0.5)
    assert len(set(seen)) == len(seen) and pages >= 2, (len(seen), pages)
    assert errors(server, "resources/list", {"cursor": "nonsense"})["code"] == -32602
    print("ok: pages of resources")


def check_prompts(server):
    prompts = {prompt["name"]: prompt for prompt in server.result("prompts/list")["prompts"]}
    kinds = ("python", "node", "fullstack", "data-science", "rust")
    assert sorted(prompts) == sorted(f"setup-{kind}" for kind in kinds), list(prompts)
    for kind in kinds:
        got = server.result("prompts/get", {"name": f"setup-{kind}", "arguments": {"path": "app", "packages": "x y"}})
        text = got["messages"][0]["content"]["text"]
        for part in ("create_development_environment", kind, "app", "x y"):
            assert part in text, (kind, part, text)
    assert errors(server, "prompts/get", {"name": "setup-cobol"})["code"] == -32602
    print("ok: prompts")


def check_jobs(server):
    began = time.monotonic()
    result = server.tool("execute_command", {"command": "echo begun; sleep 30; echo done", "timeout_secs": 120})
    assert result["structuredContent"]["status"] == "running", result
    assert time.monotonic() - began < 29, "a gateway would have ended the request"
    handle = result["structuredContent"]["command_id"]
    for _ in range(10):
        seen = server.tool("get_command", {"command_id": handle, "wait_secs": 10})["structuredContent"]
        if seen["status"] != "running":
            break
    assert seen["status"] == "exited" and seen["stdout"] == "begun\ndone\n", seen
    print("ok: a long call answers a handle")


def check_tasks(server):
    created = server.tool("execute_command", {"command": "sleep 5; echo late"}, tasks=True)
    assert created["resultType"] == "task" and created["status"] == "working", created
    task_id = created["taskId"]
    deadline = time.monotonic() + 60
    while True:
        task = server.result("tasks/get", {"taskId": task_id}, tasks=True)
        if task["status"] != "working":
            break
        assert time.monotonic() < deadline, task
        time.sleep(0.3)
    assert task["status"] == "completed", task
    assert task["result"]["structuredContent"]["stdout"] == "late\n", task
    again = server.result("tasks/get", {"taskId": task_id}, tasks=True)
    assert again["result"] == task["result"]

    quick = server.tool("execute_command", {"command": "echo now"}, tasks=True)
    assert quick["resultType"] == "complete", quick

    created = server.tool("execute_command", {"command": "sleep 300"}, tasks=True)
    server.result("tasks/cancel", {"taskId": created["taskId"]}, tasks=True)
    task = server.result("tasks/get", {"taskId": created["taskId"]}, tasks=True)
    assert task["status"] == "cancelled", task
    server.result("tasks/cancel", {"taskId": created["taskId"]}, tasks=True)
    seen = server.tool("get_command", {"command_id": created["taskId"]})["structuredContent"]
    assert seen["status"] == "killed", seen
    _, _, messages = server.request("tasks/get", {"taskId": "cmd_unknown"}, tasks=True)
    assert messages[0]["error"]["code"] == -32602, messages
    _, _, messages = server.request("tasks/get", {"taskId": task_id})
    assert messages[0]["error"]["code"] == -32021, messages
    print("ok: tasks")


def check_progress(server):
    command = "for i in 1 2 3 4; do echo line $i; sleep 1.5; done"
    status, headers, messages = server.request(
        "tools/call", {"name": "execute_command", "arguments": {"command": command}}, meta={"progressToken": "p"})
    assert headers["Content-Type"].startswith("text/event-stream"), headers["Content-Type"]
    notes = [m["params"] for m in messages if m.get("method") == "notifications/progress"]
    assert notes and all(note["progressToken"] == "p" for note in notes), messages
    steps = [note["progress"] for note in notes]
    assert steps == sorted(set(steps)), steps
    assert any("line" in note["message"] for note in notes), notes
    assert messages[-1]["result"]["structuredContent"]["exit_code"] == 0
    print("ok: progress")


def check_repeats(server):
    headers = {"Idempotency-Key": f"k-{time.time_ns()}"}
    arguments = {"command": "echo x >> once.txt; wc -l < once.txt"}
    first = server.tool("execute_command", arguments, headers=headers)
    second = server.tool("execute_command", arguments, headers=headers)
    assert first["structuredContent"]["command_id"] == second["structuredContent"]["command_id"]
    assert second["structuredContent"]["stdout"].strip() == "1", second
    other = server.tool("execute_command", {"command": "echo other"}, headers=headers)
    assert other["isError"] and "Idempotency-Key" in other["content"][0]["text"], other
    print("ok: a repeated request runs once")


def check_cancellation(server):
    def begin(name, headers, meta):
        """Sends a call that runs for minutes and waits until it runs; answers its connection."""
        params = {"name": "execute_command", "arguments": {"command": f"echo $$ > {name}.pid; exec sleep 300"}, **meta}
        connection = http.client.HTTPConnection(HOST.hostname, HOST.port, timeout=120)
        known = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json",
                 "Accept": "application/json, text/event-stream"}
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        connection.request("POST", server.path, json.dumps(message), {**known, **headers})
        waiting = {"command": f"until [ -s {name}.pid ]; do sleep 0.1; done"}
        assert not server.tool("execute_command", waiting)["isError"], name
        return connection

    def is_over(name):
        waiting = {"command": f"for i in $(seq 200); do kill -0 $(cat {name}.pid) || exit 0; sleep 0.1; done; exit 1"}
        return not server.tool("execute_command", waiting)["isError"]

    # In the stateless era whoever goes away takes the call back.
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": NEW, "io.modelcontextprotocol/clientCapabilities": {},
                      "io.modelcontextprotocol/clientInfo": {"name": "driver", "version": "1"}}}
    headers = {"MCP-Protocol-Version": NEW, "Mcp-Method": "tools/call", "Mcp-Name": "execute_command"}
    begin("gone", headers, meta).close()
    assert is_over("gone"), "a call goes on whose client went away"

    # In the handshake era going away means nothing; the notification finds the call by its key.
    key = {"Idempotency-Key": f"k-{time.time_ns()}", "MCP-Protocol-Version": OLD}
    connection = begin("told", key, {})
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert post(server.path, note, headers={**key, "Idempotency-Key": "another"})[0] == 202
    assert post(server.path, note, headers=key)[0] == 202
    assert is_over("told"), "a call goes on that was taken back"
    ended = json.loads(connection.getresponse().read())["result"]
    assert ended["isError"] and ended["structuredContent"]["status"] == "killed", ended
    connection.close()
    print("ok: calls are taken back")


def check_bad_input(server):
    for name, arguments, part in [
        ("execute_command", {"command": 7, "nonsense": True}, "nonsense"),
        ("read_file", {"path": "/workspace/\u0000"}, "control characters"),
        ("write_file", {"path": "/proc/x", "content": ""}, "/proc"),
        ("git_operations", {"operation": "fly"}, "clone"),
        ("install_package", {"package": "--index-url=x", "manager": "pip"}, "must not start with"),
        ("get_command", {"command_id": "../../etc/passwd"}, "command_id"),
        ("service_logs", {"name": "nope"}, "no service"),
    ]:
        result = server.tool(name, arguments)
        assert result["isError"] and part in result["content"][0]["text"], (name, result)
    # Every tool, without arguments and with such that are none: a result, or what the tool does with nothing.
    for tool in server.result("tools/list")["tools"]:
        required = tool["inputSchema"].get("required", [])
        result = server.tool(tool["name"], {})
        assert result["isError"] == bool(required), (tool["name"], result)
        result = server.tool(tool["name"], {"no_such_argument": "\u0000\u001b[2J"})
        assert result["isError"] and "no_such_argument" in result["content"][0]["text"], (tool["name"], result)
    big = server.tool("write_file", {"path": "big", "content": "x" * (4 * 1024 * 1024 + 1)})
    assert big["isError"] and "4 MiB" in big["content"][0]["text"], big
    status, _, _ = server.request("tools/call", {"name": "write_file", "arguments": {"content": "x" * 8_000_000}})
    assert status == 413, status
    print("ok: bad input is a result")


with project("mcp protocol") as made:
    server = Server(made)
    check_doors(made, server)
    check_handshake(server)
    check_scopes(made)
    check_bad_input(server)
    check_resources(made, server)
    check_pages(server)
    check_prompts(server)
    check_repeats(server)
    check_cancellation(server)
    check_progress(server)
    check_tasks(server)
    check_jobs(server)
