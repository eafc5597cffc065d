"""The official Python SDK as a client. Each test runs twice: with the synchronous client and with the asynchronous one.

The server is named by E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY; nothing here knows whose server it is.
"""

import asyncio
import importlib.metadata
import inspect
import os
import time
import uuid

import e2b
import pytest

VERSION = tuple(int(part) for part in importlib.metadata.version("e2b").split(".")[:2])
TEMPLATE = os.environ.get("E2B_TEST_TEMPLATE", "base")


async def done(value):
    """The value of a call, whichever client made it."""
    return await value if inspect.isawaitable(value) else value


async def eventually(check, what, seconds=20):
    """Waits for something that happens by itself."""
    end = time.monotonic() + seconds
    while True:
        result = check()
        result = await done(result)
        if result:
            return result
        assert time.monotonic() < end, f"it did not happen that {what}"
        await asyncio.sleep(0.05)


class Client:
    """One of the two clients, and the sandboxes it made."""

    def __init__(self, kind):
        self.kind = kind
        self.is_sync = kind == "sync"
        self.Sandbox = e2b.Sandbox if self.is_sync else e2b.AsyncSandbox
        self.made = []

    async def create(self, template=TEMPLATE, **options):
        options.setdefault("timeout", 120)
        sandbox = await done(self.Sandbox.create(template, **options))
        self.made.append(sandbox)
        return sandbox

    async def pages(self, paginator):
        found = []
        while paginator.has_next:
            found.extend(await done(paginator.next_items()))
        return found


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
async def client(kind):
    client = Client(kind)
    yield client
    for sandbox in client.made:
        await done(sandbox.kill())


@pytest.fixture
async def sandbox(client):
    return await client.create()


@pytest.fixture
def label():
    """A value that no other test uses."""
    return uuid.uuid4().hex


needs = pytest.mark.skipif


def since(*version):
    """For what later clients have only."""
    return pytest.mark.skipif(VERSION < version, reason=f"clients have this since {version}")
