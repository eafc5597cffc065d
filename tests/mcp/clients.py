"""The official Python client, whichever version is installed (1.x speaks the handshake era, 2.x both), drives the real
tools of a real project. Usage: PVM_URL=... PVM_API_KEY=... python clients.py [path of pvm-mcp-stdio]"""

import asyncio
import contextlib
import importlib.metadata
import os
import sys

from rest import KEY, URL, project

VERSION = importlib.metadata.version("mcp")


@contextlib.asynccontextmanager
async def over_http_1(url):
    import httpx
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=90) as http:
        async with streamable_http_client(url, http_client=http) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await session.initialize()
                yield session


@contextlib.asynccontextmanager
async def over_http_2(url, mode):
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=90) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            yield client


@contextlib.asynccontextmanager
async def over_stdio(bridge, project_id):
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    env = {**os.environ, "PVM_URL": URL, "PVM_API_KEY": KEY, "PVM_PROJECT_ID": project_id}
    async with stdio_client(StdioServerParameters(command=bridge, args=[], env=env)) as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            yield session


def field(thing, snake, camel):
    return getattr(thing, snake) if hasattr(thing, snake) else getattr(thing, camel)


class Driver:
    def __init__(self, session, label):
        self.session, self.label = session, label

    async def call(self, name, arguments=None, fails=False):
        result = await self.session.call_tool(name, arguments or {})
        is_error = field(result, "is_error", "isError")
        text = result.content[0].text
        assert bool(is_error) == fails, f"{self.label} {name}: {text}"
        return field(result, "structured_content", "structuredContent"), text

    async def tools(self):
        tools = {tool.name: tool for tool in (await self.session.list_tools()).tools}
        for name in ("execute_command", "read_file", "write_file", "edit_file", "list_directory", "search_files",
                     "install_package", "start_service", "stop_service", "list_services", "service_logs",
                     "git_operations", "get_system_info", "create_development_environment"):
            assert name in tools, name
        read = tools["read_file"].annotations
        assert field(read, "read_only_hint", "readOnlyHint") is True

    async def commands(self):
        out, _ = await self.call("execute_command", {"command": "echo hello; echo oops >&2; exit 3"}, fails=True)
        assert (out["exit_code"], out["stdout"], out["stderr"]) == (3, "hello\n", "oops\n"), out
        out, text = await self.call("execute_command", {"command": "id -un; pwd"})
        assert out["stdout"] == "user\n/workspace\n", out
        _, text = await self.call("execute_command", {"comand": "x"}, fails=True)
        assert "command (string, required)" in text, text
        out, _ = await self.call("execute_command", {"command": "sleep 60", "background": True})
        out, _ = await self.call("kill_command", {"command_id": out["command_id"]})
        assert out["status"] == "killed", out

    async def files(self, root):
        await self.call("write_file", {"path": f"{root}/app.py", "content": "print('one')\n", "mode": "0755"})
        out, _ = await self.call("read_file", {"path": f"{root}/app.py"})
        assert out["content"] == "print('one')\n" and out["mode"] == "0755", out
        out, text = await self.call(
            "edit_file", {"path": f"{root}/app.py", "old_string": "one", "new_string": "two"})
        assert "+print('two')" in text, text
        out, _ = await self.call("list_directory", {"path": root})
        assert [entry["path"] for entry in out["entries"]] == ["app.py"], out
        out, _ = await self.call("search_files", {"pattern": r"t\w+o'", "path": root})
        out, _ = await self.call("search_files", {"pattern": r"two", "path": root})
        assert out["count"] == 1, out
        _, text = await self.call("read_file", {"path": f"{root}/nope"}, fails=True)
        out, _ = await self.call("execute_command", {"command": f"python3 {root}/app.py"})
        assert out["stdout"] == "two\n", out

    async def repository(self, root):
        git = lambda operation, **more: self.call("git_operations", {"operation": operation, "path": root, **more})
        await git("init")
        await git("add")
        out, _ = await git("commit", message="first")
        assert out["commits"][0]["subject"] == "first", out
        out, _ = await git("status")
        assert out["status"]["clean"] is True, out

    async def services(self, name, port):
        command = f"python3 -m http.server {port} --bind 127.0.0.1"
        out, _ = await self.call("start_service", {"service_name": name, "command": command, "port": port})
        assert out["status"] == "running" and out["url"], out
        out, _ = await self.call("list_services")
        assert name in [service["name"] for service in out["services"]], out
        await self.call("execute_command", {"command": f"curl -fsS http://127.0.0.1:{port}/ >/dev/null"})
        out, _ = await self.call("service_logs", {"name": name})
        await self.call("stop_service", {"name": name})
        out, text = await self.call(
            "start_service", {"name": name, "command": "echo broken; exit 7", "port": port}, fails=True)
        assert "broken" in text, text
        await self.call("stop_service", {"name": name})

    async def system(self):
        out, _ = await self.call("get_system_info")
        assert out["cpus"] >= 1 and out["memory_total_mib"] > 0 and out["user"] == "user", out

    async def resources(self, root):
        from pydantic import AnyUrl

        async def read(uri):
            try:
                return (await self.session.read_resource(uri)).contents[0]
            except (TypeError, ValueError, AttributeError):
                return (await self.session.read_resource(AnyUrl(uri))).contents[0]

        listed = [str(resource.uri) for resource in (await self.session.list_resources()).resources]
        assert "pvm://status" in listed, listed
        assert '"vm_status": "active"' in (await read("pvm://status")).text
        assert (await read(f"pvm://workspace/{root}/app.py")).text == "print('two')\n"
        templates = (await self.session.list_resource_templates())
        assert len(field(templates, "resource_templates", "resourceTemplates")) == 2

    async def prompts(self):
        names = [prompt.name for prompt in (await self.session.list_prompts()).prompts]
        assert "setup-python" in names, names
        prompt = await self.session.get_prompt("setup-python", {"path": "x"})
        assert "create_development_environment" in prompt.messages[0].content.text

    async def all(self, root, port):
        await self.tools()
        await self.commands()
        await self.files(root)
        await self.repository(root)
        await self.services(f"web-{port}", port)
        await self.system()
        await self.resources(root)
        await self.prompts()
        print(f"ok: mcp {VERSION}, {self.label}")


async def main():
    bridge = sys.argv[1] if len(sys.argv) > 1 else None
    with project(f"mcp {VERSION}") as project_id:
        url = f"{URL}/api/projects/{project_id}/mcp"
        if VERSION.startswith("1."):
            async with over_http_1(url) as session:
                await Driver(session, "HTTP, handshake").all("one", 5101)
        else:
            for place, mode in enumerate(("auto", "legacy", "2026-07-28")):
                async with over_http_2(url, mode) as session:
                    await Driver(session, f"HTTP, {mode}").all(f"two-{place}", 5201 + place)
        if bridge:
            async with over_stdio(bridge, project_id) as session:
                await Driver(session, "stdio bridge").all("bridge", 5301)


asyncio.run(main())
