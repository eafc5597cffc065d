"""Files, folders, links that are signed, and watching."""

import asyncio
import gzip
import io
import urllib.error
import urllib.request

import pytest
from conftest import VERSION, done, eventually, since
from e2b import (
    FileNotFoundException,
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
)


async def test_files_are_written_and_read_in_every_form(sandbox):
    info = await done(sandbox.files.write("a/b/text.txt", "grüße"))
    assert (info.path, info.name) == ("/home/user/a/b/text.txt", "text.txt")
    assert await done(sandbox.files.read("a/b/text.txt")) == "grüße"
    blob = bytes(range(256)) * 1000
    await done(sandbox.files.write("/tmp/blob", blob))
    assert bytes(await done(sandbox.files.read("/tmp/blob", format="bytes"))) == blob
    await done(sandbox.files.write("/tmp/io", io.BytesIO(b"from a stream")))
    stream = await done(sandbox.files.read("/tmp/io", format="stream"))
    pieces = [piece for piece in stream] if hasattr(stream, "__iter__") else [piece async for piece in stream]
    assert b"".join(pieces) == b"from a stream"
    await done(sandbox.files.write("empty", ""))
    assert await done(sandbox.files.read("empty")) == ""
    await done(sandbox.files.write("~/home.txt", "x", user="root"))
    assert await done(sandbox.files.read("/root/home.txt", user="root")) == "x"


async def test_a_file_is_replaced_and_belongs_to_who_wrote_it(sandbox):
    await done(sandbox.files.write("f", "a longer first text"))
    await done(sandbox.files.write("f", "short"))
    assert await done(sandbox.files.read("f")) == "short"
    entry = await done(sandbox.files.get_info("f"))
    assert (entry.owner, entry.group, entry.permissions, entry.size) == ("user", "user", "-rw-r--r--", 5)
    assert (entry.type, entry.mode, entry.path) == (FileType.FILE, 0o644, "/home/user/f")


async def test_many_files_are_written_at_once(sandbox):
    files = [{"path": f"many/{n}.txt", "data": f"text {n}"} for n in range(5)]
    written = await done(sandbox.files.write_files(files))
    assert [info.path for info in written] == [f"/home/user/many/{n}.txt" for n in range(5)]
    assert await done(sandbox.files.read("many/3.txt")) == "text 3"
    assert await done(sandbox.files.write_files([])) == []


async def test_compressed_and_raw_transfers(sandbox):
    text = "line\n" * 50_000
    await done(sandbox.files.write("raw", text, use_octet_stream=True))
    assert await done(sandbox.files.read("raw")) == text
    await done(sandbox.files.write("packed", text, gzip=True))
    assert await done(sandbox.files.read("packed", gzip=True)) == text
    assert (await done(sandbox.files.get_info("packed"))).size == len(text)


async def test_what_is_not_there_is_told(sandbox):
    with pytest.raises(NotFoundException):
        await done(sandbox.files.read("/no/such"))
    with pytest.raises(NotFoundException):
        await done(sandbox.files.list("/no/such"))
    with pytest.raises(NotFoundException):
        await done(sandbox.files.get_info("/no/such"))
    with pytest.raises(NotFoundException):
        await done(sandbox.files.rename("/no/such", "/tmp/x"))
    assert not await done(sandbox.files.exists("/no/such"))
    await done(sandbox.files.remove("/no/such"))
    with pytest.raises(InvalidArgumentException):
        await done(sandbox.files.list("/etc/passwd"))
    with pytest.raises(SandboxException):
        await done(sandbox.files.read("/tmp"))


async def test_folders_are_made_listed_moved_and_removed(sandbox):
    assert await done(sandbox.files.make_dir("d/e"))
    assert not await done(sandbox.files.make_dir("d/e"))
    await done(sandbox.files.write("d/e/f.txt", "f"))
    await done(sandbox.files.write("d/g.txt", "g"))
    await done(sandbox.commands.run("ln -s d/g.txt link; ln -s /nowhere broken"))
    flat = {entry.name: entry for entry in await done(sandbox.files.list("d"))}
    assert set(flat) == {"e", "g.txt"}
    assert flat["e"].type == FileType.DIR and flat["e"].permissions == "drwxr-xr-x"
    deep = await done(sandbox.files.list("d", depth=2))
    assert {entry.path for entry in deep} == {"/home/user/d/e", "/home/user/d/g.txt", "/home/user/d/e/f.txt"}
    link = await done(sandbox.files.get_info("link"))
    assert link.symlink_target == "/home/user/d/g.txt"
    moved = await done(sandbox.files.rename("d/g.txt", "h/i/g2.txt"))
    assert moved.path == "/home/user/h/i/g2.txt"
    assert await done(sandbox.files.read("h/i/g2.txt")) == "g"
    await done(sandbox.files.remove("d"))
    assert not await done(sandbox.files.exists("d/e/f.txt"))
    with pytest.raises(InvalidArgumentException):
        await done(sandbox.files.list("h", depth=0))
    with pytest.raises(SandboxException):
        await done(sandbox.files.make_dir("h/i/g2.txt"))


async def test_labels_of_a_file_are_kept(sandbox):
    await done(sandbox.files.write("labelled", "x", metadata={"Author": "me", "purpose": "test"}))
    entry = await done(sandbox.files.get_info("labelled"))
    assert entry.metadata == {"author": "me", "purpose": "test"}
    listed = {row.name: row for row in await done(sandbox.files.list("."))}
    assert listed["labelled"].metadata == {"author": "me", "purpose": "test"}
    await done(sandbox.files.write("labelled", "y"))
    assert not (await done(sandbox.files.get_info("labelled"))).metadata


def fetch(url, data=None, headers=None):
    """A plain HTTP client's request; the status and the body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def form(name, text):
    boundary = "boundary0123456789"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: text/plain\r\n\r\n{text}\r\n--{boundary}--\r\n"
    )
    return body.encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


async def test_signed_links_work_without_a_token(sandbox):
    loop = asyncio.get_running_loop()
    await done(sandbox.files.write("linked.txt", "by link"))
    url = await done(sandbox.download_url("linked.txt"))
    assert await loop.run_in_executor(None, fetch, url) == (200, b"by link")
    fresh = await done(sandbox.download_url("linked.txt", use_signature_expiration=60))
    assert (await loop.run_in_executor(None, fetch, fresh))[0] == 200
    stale = await done(sandbox.download_url("linked.txt", user="user", use_signature_expiration=-10))
    status, body = await loop.run_in_executor(None, fetch, stale)
    assert (status, body.strip()) == (401, b'{"code":401,"message":"signature is already expired"}')
    status, body = await loop.run_in_executor(None, fetch, url.replace("linked.txt", "other.txt"))
    assert (status, body.strip()) == (401, b'{"code":401,"message":"invalid signature"}')
    upload = await done(sandbox.upload_url("up.txt", use_signature_expiration=60))
    body, headers = form("up.txt", "uploaded")
    assert (await loop.run_in_executor(None, fetch, upload, body, headers))[0] == 200
    assert await done(sandbox.files.read("up.txt")) == "uploaded"


async def test_an_upload_link_without_a_path_takes_the_forms_name(sandbox):
    url = await done(sandbox.upload_url(""))
    body, headers = form("deep/named.txt", "x")
    loop = asyncio.get_running_loop()
    status, answer = await loop.run_in_executor(None, fetch, url, body, headers)
    assert status == 200, answer
    assert await done(sandbox.files.read("deep/named.txt")) == "x"


async def watch(sandbox, kind, path, events, **options):
    """Starts watching; returns what reads the events and what ends it."""
    if kind == "async":
        handle = await sandbox.files.watch_dir(path, on_event=events.append, **options)
        return (lambda: None), handle.stop
    handle = sandbox.files.watch_dir(path, **options)
    return (lambda: events.extend(handle.get_new_events())), handle.stop


async def test_changes_of_a_folder_are_told_in_order(sandbox, kind):
    await done(sandbox.files.make_dir("w"))
    events = []
    look, stop = await watch(sandbox, kind, "w", events)
    await done(sandbox.files.write("w/new.txt", "x"))

    def told():
        look()
        return len(events) >= 3

    await eventually(told, "the events come")
    T = FilesystemEventType
    assert [(event.name, event.type) for event in events] == [
        ("new.txt", T.CREATE),
        ("new.txt", T.CHMOD),
        ("new.txt", T.WRITE),
    ]
    events.clear()
    await done(sandbox.files.rename("w/new.txt", "w/newer.txt"))
    await done(sandbox.files.remove("w/newer.txt"))

    def removed():
        look()
        return any(event.type == T.REMOVE for event in events)

    await eventually(removed, "the removal is told")
    assert [(event.name, event.type) for event in events] == [
        ("new.txt", T.RENAME),
        ("newer.txt", T.CREATE),
        ("newer.txt", T.REMOVE),
    ]
    await done(stop())


async def test_a_tree_is_watched_with_what_is_made_in_it_later(sandbox, kind):
    await done(sandbox.files.make_dir("tree/old"))
    events = []
    look, stop = await watch(sandbox, kind, "tree", events, recursive=True)
    await done(sandbox.files.write("tree/old/a.txt", "a"))
    await done(sandbox.files.make_dir("tree/new"))
    await done(sandbox.files.write("tree/new/b.txt", "b"))

    def told():
        look()
        names = {event.name for event in events if event.type == FilesystemEventType.WRITE}
        return {"old/a.txt", "new/b.txt"} <= names

    await eventually(told, "both writes are told")
    await done(stop())


@since(2, 63)
async def test_events_carry_entries_when_asked(sandbox, kind):
    await done(sandbox.files.make_dir("we"))
    events = []
    look, stop = await watch(sandbox, kind, "we", events, include_entry=True)
    await done(sandbox.files.write("we/f", "12345"))

    def told():
        look()
        return any(event.type == FilesystemEventType.WRITE for event in events)

    await eventually(told, "the write is told")
    entry = next(event.entry for event in events if event.type == FilesystemEventType.WRITE)
    assert (entry.path, entry.size) == ("/home/user/we/f", 5)
    await done(stop())


async def test_only_folders_that_are_there_are_watched(sandbox, kind):
    with pytest.raises(NotFoundException):
        await watch(sandbox, kind, "not-there", [])
    await done(sandbox.files.write("file", "x"))
    with pytest.raises(SandboxException):
        await watch(sandbox, kind, "file", [])


@since(2, 63)
async def test_the_new_name_of_a_missing_file(sandbox):
    with pytest.raises(FileNotFoundException):
        await done(sandbox.files.read("/no/such"))
