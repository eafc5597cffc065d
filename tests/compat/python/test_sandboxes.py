"""Life of a sandbox: create, look, list, pause, resume, snapshot, fork, end."""

import datetime

import e2b
import pytest
from conftest import TEMPLATE, Client, done, eventually, since
from e2b import (
    AuthenticationException,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
    SandboxQuery,
    SandboxState,
)


async def test_a_new_sandbox_runs_and_says_what_it_is(client, label):
    sandbox = await client.create(metadata={"label": label}, envs={"COLOUR": "blue"})
    assert await done(sandbox.is_running())
    info = await done(sandbox.get_info())
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.metadata == {"label": label}
    assert info.state == SandboxState.RUNNING
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    assert info.name == TEMPLATE or info.template_id == TEMPLATE
    left = info.end_at - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(seconds=60) < left <= datetime.timedelta(seconds=121)
    seen = await done(sandbox.commands.run("echo $COLOUR $E2B_SANDBOX $E2B_SANDBOX_ID"))
    assert seen.stdout == f"blue true {sandbox.sandbox_id}\n"


async def test_an_ended_sandbox_is_gone(client):
    sandbox = await client.create()
    assert await done(sandbox.kill())
    assert not await done(sandbox.is_running())
    assert not await done(client.Sandbox.kill(sandbox.sandbox_id))
    with pytest.raises(NotFoundException):
        await done(sandbox.get_info())
    with pytest.raises(NotFoundException):
        await done(sandbox.set_timeout(10))
    with pytest.raises(NotFoundException):
        await done(client.Sandbox.connect(sandbox.sandbox_id))
    with pytest.raises(e2b.TimeoutException):
        await done(sandbox.commands.run("true"))


async def test_an_unknown_template_and_a_wrong_key_are_told_apart(client):
    with pytest.raises(SandboxException) as error:
        await done(client.Sandbox.create("no-such-template-here"))
    assert "404" in str(error.value) or isinstance(error.value, NotFoundException)
    with pytest.raises(AuthenticationException):
        await done(client.Sandbox.create(TEMPLATE, api_key="e2b_" + "0" * 40))


async def test_a_timeout_ends_the_sandbox(client):
    sandbox = await client.create(timeout=1)

    async def is_gone():
        return not await done(sandbox.is_running())

    await eventually(is_gone, "the sandbox ends")
    assert not await done(client.Sandbox.kill(sandbox.sandbox_id))


async def test_the_timeout_moves_and_connecting_only_extends_it(client):
    sandbox = await client.create(timeout=300)
    await done(sandbox.set_timeout(100))
    shortened = (await done(sandbox.get_info())).end_at
    again = await done(client.Sandbox.connect(sandbox.sandbox_id, timeout=10))
    assert (await done(again.get_info())).end_at == shortened
    await done(client.Sandbox.connect(sandbox.sandbox_id, timeout=200))
    extended = (await done(sandbox.get_info())).end_at
    assert extended - shortened > datetime.timedelta(seconds=90)


async def test_connecting_gives_a_working_client(client):
    sandbox = await client.create()
    await done(sandbox.files.write("kept.txt", "here"))
    again = await done(client.Sandbox.connect(sandbox.sandbox_id))
    assert again.sandbox_id == sandbox.sandbox_id
    assert await done(again.files.read("kept.txt")) == "here"


async def test_lists_filter_by_labels_and_state(client, label):
    first = await client.create(metadata={"label": label, "n": "one & only/ü=%"})
    second = await client.create(metadata={"label": label, "n": "2"})
    query = SandboxQuery(metadata={"label": label})
    found = await client.pages(client.Sandbox.list(query=query))
    assert [row.sandbox_id for row in found] == [second.sandbox_id, first.sandbox_id]
    exact = SandboxQuery(metadata={"label": label, "n": "one & only/ü=%"})
    found = await client.pages(client.Sandbox.list(query=exact))
    assert [row.sandbox_id for row in found] == [first.sandbox_id]
    assert found[0].metadata == {"label": label, "n": "one & only/ü=%"}
    await done(first.pause())
    for state, expected in [(SandboxState.PAUSED, first), (SandboxState.RUNNING, second)]:
        query = SandboxQuery(metadata={"label": label}, state=[state])
        found = await client.pages(client.Sandbox.list(query=query))
        assert [row.sandbox_id for row in found] == [expected.sandbox_id]
        assert found[0].state == state
    both = SandboxQuery(metadata={"label": label}, state=[SandboxState.PAUSED, SandboxState.RUNNING])
    assert len(await client.pages(client.Sandbox.list(query=both))) == 2


async def test_lists_come_in_pages_and_either_order(client, label):
    made = [await client.create(metadata={"label": label}) for _ in range(3)]
    ids = [sandbox.sandbox_id for sandbox in made]
    query = SandboxQuery(metadata={"label": label})
    paginator = client.Sandbox.list(query=query, limit=2)
    first = await done(paginator.next_items())
    assert [row.sandbox_id for row in first] == [ids[2], ids[1]]
    assert paginator.has_next and paginator.next_token
    rest = client.Sandbox.list(query=query, limit=2, next_token=paginator.next_token)
    assert [row.sandbox_id for row in await done(rest.next_items())] == [ids[0]]
    assert not rest.has_next
    upwards = client.Sandbox.list(query=query, order="asc")
    assert [row.sandbox_id for row in await client.pages(upwards)] == ids


async def test_a_paused_sandbox_keeps_its_processes(client):
    sandbox = await client.create()
    script = "i=0; while true; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done"
    handle = await done(sandbox.commands.run(script, background=True, timeout=0))

    async def has_begun():
        return await done(sandbox.files.exists("/tmp/count"))

    await eventually(has_begun, "the process counts")
    assert await done(sandbox.pause())
    assert not await done(sandbox.is_running())
    assert not await done(sandbox.pause())
    info = await done(sandbox.get_info())
    assert info.state == SandboxState.PAUSED
    again = await done(client.Sandbox.connect(sandbox.sandbox_id))
    assert again.sandbox_id == sandbox.sandbox_id
    assert handle.pid in [row.pid for row in await done(again.commands.list())]
    before = int(await done(again.files.read("/tmp/count")))

    async def goes_on():
        return int(await done(again.files.read("/tmp/count"))) > before

    await eventually(goes_on, "the process goes on")


async def test_a_pause_without_memory_starts_anew_with_the_files(client):
    sandbox = await client.create()
    await done(sandbox.files.write("kept.txt", "kept"))
    await done(sandbox.commands.run("sleep 1000", background=True, timeout=0))
    boot = await done(sandbox.files.read("/proc/sys/kernel/random/boot_id"))
    assert await done(sandbox.pause(keep_memory=False))
    again = await done(sandbox.connect())
    assert await done(again.files.read("kept.txt")) == "kept"
    assert await done(again.commands.list()) == []
    assert await done(again.files.read("/proc/sys/kernel/random/boot_id")) != boot


async def test_auto_pause_pauses_at_the_timeout(client):
    sandbox = await client.create(timeout=1, lifecycle={"on_timeout": "pause"})

    async def is_paused():
        return (await done(sandbox.get_info())).state == SandboxState.PAUSED

    await eventually(is_paused, "the sandbox is paused")
    again = await done(client.Sandbox.connect(sandbox.sandbox_id, timeout=60))
    assert await done(again.is_running())


async def test_traffic_wakes_a_sandbox_that_wants_it(client):
    sandbox = await client.create(lifecycle={"on_timeout": "pause", "auto_resume": True})
    await done(sandbox.pause())
    assert (await done(sandbox.commands.run("echo awake"))).stdout == "awake\n"
    assert (await done(sandbox.get_info())).state == SandboxState.RUNNING


async def test_a_snapshot_makes_sandboxes_with_its_files(client):
    sandbox = await client.create()
    await done(sandbox.files.write("/home/user/state.txt", "before"))
    snapshot = await done(sandbox.create_snapshot())
    assert snapshot.snapshot_id
    await done(sandbox.files.write("/home/user/state.txt", "after"))
    copy = await client.create(snapshot.snapshot_id)
    assert await done(copy.files.read("/home/user/state.txt")) == "before"
    assert await done(sandbox.files.read("/home/user/state.txt")) == "after"
    of_one = await client.pages(client.Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id))
    assert [row.snapshot_id for row in of_one] == [snapshot.snapshot_id]
    assert await done(client.Sandbox.delete_snapshot(snapshot.snapshot_id))
    assert not await done(client.Sandbox.delete_snapshot(snapshot.snapshot_id))


async def test_a_named_snapshot_is_found_by_name_and_renewed(client, label):
    sandbox = await client.create()
    name = f"snap-{label}"
    await done(sandbox.files.write("v", "1"))
    first = await done(sandbox.create_snapshot(name=name))
    assert any(name in known for known in first.names)
    await done(sandbox.files.write("v", "2"))
    second = await done(sandbox.create_snapshot(name=name))
    assert second.snapshot_id == first.snapshot_id
    copy = await client.create(second.names[0])
    assert await done(copy.files.read("v")) == "2"
    named = await client.pages(client.Sandbox.list_snapshots(name=name))
    assert [row.snapshot_id for row in named] == [first.snapshot_id]
    assert await client.pages(client.Sandbox.list_snapshots(name=f"{name}-other")) == []
    assert await done(client.Sandbox.delete_snapshot(first.snapshot_id))


async def test_forks_go_their_own_ways(client):
    sandbox = await client.create()
    await done(sandbox.files.write("/home/user/state.txt", "shared"))
    forks = await done(sandbox.fork(count=2, timeout=60))
    client.made.extend(fork for fork in forks if isinstance(fork, client.Sandbox))
    assert len({fork.sandbox_id for fork in forks} | {sandbox.sandbox_id}) == 3
    for fork in forks:
        assert await done(fork.files.read("/home/user/state.txt")) == "shared"
        await done(fork.files.write("/home/user/state.txt", "mine"))
    assert await done(sandbox.files.read("/home/user/state.txt")) == "shared"
    with pytest.raises(InvalidArgumentException):
        await done(sandbox.fork(count=0))


async def test_metrics_tell_use_and_limits(client):
    sandbox = await client.create()

    async def has_metrics():
        return await done(sandbox.get_metrics())

    metric = (await eventually(has_metrics, "there are metrics"))[-1]
    assert metric.cpu_count >= 1
    assert 0 < metric.mem_used <= metric.mem_total
    assert 0 <= metric.disk_used <= metric.disk_total


@since(2, 53)
async def test_a_repeated_request_makes_one_sandbox(client, label):
    first = await client.create(idempotency_key=label)
    second = await client.create(idempotency_key=label)
    assert first.sandbox_id == second.sandbox_id
    with pytest.raises(SandboxException):
        await client.create(idempotency_key=label, metadata={"other": "request"})


async def test_another_clients_handle_sees_the_same_sandbox(kind, sandbox):
    other = Client("async" if kind == "sync" else "sync")
    again = await done(other.Sandbox.connect(sandbox.sandbox_id))
    assert (await done(again.commands.run("echo $E2B_SANDBOX_ID"))).stdout.strip() == sandbox.sandbox_id
