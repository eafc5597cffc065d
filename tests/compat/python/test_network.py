"""Ports, tokens and rules of the network."""

import asyncio
import os
import urllib.error
import urllib.request

import pytest
from conftest import done, eventually
from e2b import CommandExitException, InvalidArgumentException, NotFoundException, SandboxException


def ask(sandbox, port, headers=None):
    """A request for a port as a program makes it that can set headers: the status and the body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    sent = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port), **(headers or {})}
    request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"], headers=sent)
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def asked(*arguments):
    return await asyncio.get_running_loop().run_in_executor(None, ask, *arguments)


async def serve(sandbox, port):
    await done(sandbox.files.write("/tmp/www/index.html", "served"))
    script = f"cd /tmp/www && exec python3 -m http.server {port}"
    await done(sandbox.commands.run(script, background=True, timeout=0))


async def test_a_port_is_reached_and_a_closed_one_told(sandbox):
    status, body = await asked(sandbox, 3210)
    assert status == 502 and b"The sandbox is running but port is not open" in body
    await serve(sandbox, 8000)

    async def answers():
        return await asked(sandbox, 8000) == (200, b"served")

    await eventually(answers, "the server answers")
    host = sandbox.get_host(8000)
    assert host.startswith(f"8000-{sandbox.sandbox_id}.")
    await done(sandbox.kill())
    status, body = await asked(sandbox, 8000)
    assert status == 502 and b"The sandbox was not found" in body


async def test_private_ports_want_the_traffic_token(client):
    sandbox = await client.create(network={"allow_public_traffic": False})
    assert sandbox.traffic_access_token
    status, body = await asked(sandbox, 8000)
    assert status == 403 and b"is missing" in body
    status, body = await asked(sandbox, 8000, {"e2b-traffic-access-token": "wrong"})
    assert status == 403 and b"is invalid" in body
    await serve(sandbox, 8000)

    async def answers():
        found = await asked(sandbox, 8000, {"e2b-traffic-access-token": sandbox.traffic_access_token})
        return found == (200, b"served")

    await eventually(answers, "the server answers")


async def test_files_and_calls_want_the_access_token(sandbox):
    status, body = await asked(sandbox, 49983, {})
    assert status in (401, 404)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    url = os.environ["E2B_SANDBOX_URL"] + "/files?path=/etc/hostname"
    with pytest.raises(urllib.error.HTTPError) as error:
        opener.open(urllib.request.Request(url, headers=headers), timeout=20)
    assert error.value.code == 401


async def test_no_internet_means_none(client):
    sandbox = await client.create(allow_internet_access=False)
    with pytest.raises(CommandExitException):
        await done(sandbox.commands.run("curl --max-time 5 -sSf http://example.com"))


async def test_rules_that_make_no_sense_are_refused(client, sandbox):
    for network in [
        {"deny_out": ["example.com"]},
        {"deny_out": ["not-a-range"]},
        {"allow_out": ["example.com"]},
        {"allow_out": ["*.example.com"], "deny_out": ["10.0.0.0/8"]},
    ]:
        with pytest.raises((SandboxException, InvalidArgumentException)):
            await client.create(network=network)
        with pytest.raises((SandboxException, InvalidArgumentException)):
            await done(sandbox.update_network(network))


async def test_rules_are_replaced_while_it_runs(client):
    sandbox = await client.create()
    for network in [{"allow_out": ["8.8.8.8"], "deny_out": ["0.0.0.0/0"]}, {"deny_out": ["0.0.0.0/0"]}, {}]:
        await done(sandbox.update_network(network))
    await done(sandbox.kill())
    with pytest.raises(NotFoundException):
        await done(sandbox.update_network({}))


async def test_loopback_of_the_machine_is_never_reached(sandbox):
    port = os.environ["E2B_SANDBOX_URL"].rsplit(":", 1)[1].strip("/")
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254"]:
        with pytest.raises(CommandExitException):
            command = f"curl --noproxy '' --max-time 5 -sSf http://{host}:{port}/health"
            await done(sandbox.commands.run(command))
