"""Commands and terminals."""

import asyncio
import threading

import e2b
import pytest
from conftest import done, eventually, since
from e2b import CommandExitException, InvalidArgumentException, NotFoundException, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize


async def test_output_and_exit_code_come_back(sandbox):
    result = await done(sandbox.commands.run("echo out; echo err >&2"))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    with pytest.raises(CommandExitException) as error:
        await done(sandbox.commands.run("echo before; exit 7"))
    assert error.value.exit_code == 7
    assert error.value.stdout == "before\n"
    with pytest.raises(CommandExitException) as error:
        await done(sandbox.commands.run("no-such-program-here"))
    assert error.value.exit_code == 127


async def test_directory_user_and_variables_are_chosen(sandbox):
    seen = await done(sandbox.commands.run("pwd; id -un; echo $A", cwd="/tmp", user="root", envs={"A": "b c"}))
    assert seen.stdout == "/tmp\nroot\nb c\n"
    usual = await done(sandbox.commands.run("pwd; id -un; echo ~"))
    assert usual.stdout == "/home/user\nuser\n/home/user\n"
    with pytest.raises(InvalidArgumentException):
        await done(sandbox.commands.run("true", cwd="/no/such/folder"))
    with pytest.raises(e2b.AuthenticationException):
        await done(sandbox.commands.run("true", user="nobody-of-this-name"))


async def test_unicode_and_large_output_arrive_whole(sandbox):
    result = await done(sandbox.commands.run("printf 'grüße \\xf0\\x9f\\x8e\\x89'; printf '\\n'"))
    assert result.stdout == "grüße 🎉\n"
    size = 2 * 1024 * 1024
    result = await done(sandbox.commands.run(f"head -c {size} /dev/zero | tr '\\0' x"))
    assert len(result.stdout) == size and set(result.stdout) == {"x"}


async def test_output_is_told_while_it_comes(sandbox):
    out, err = [], []
    await done(
        sandbox.commands.run("echo a; sleep 0.2; echo b >&2; sleep 0.2; echo c", on_stdout=out.append, on_stderr=err.append)
    )
    assert "".join(out) == "a\nc\n" and len(out) == 2
    assert "".join(err) == "b\n"


async def test_a_command_that_takes_too_long_is_ended(sandbox):
    with pytest.raises(TimeoutException):
        await done(sandbox.commands.run("sleep 77", timeout=1))

    async def is_ended():
        return await done(sandbox.commands.list()) == []

    await eventually(is_ended, "the command is ended")


async def test_background_commands_are_listed_waited_for_and_ended(sandbox):
    handle = await done(sandbox.commands.run("sleep 0.3; echo done", background=True))
    listed = await done(sandbox.commands.list())
    assert [row.pid for row in listed] == [handle.pid]
    assert listed[0].cmd == "/bin/bash" and listed[0].args[:2] == ["-l", "-c"]
    assert (await done(handle.wait())).stdout == "done\n"
    assert await done(sandbox.commands.list()) == []
    sleeper = await done(sandbox.commands.run("sleep 1000", background=True, timeout=0))
    assert await done(sandbox.commands.kill(sleeper.pid))
    with pytest.raises(CommandExitException):
        await done(sleeper.wait())
    assert not await done(sandbox.commands.kill(sleeper.pid))
    other = await done(sandbox.commands.run("sleep 1000", background=True, timeout=0))
    assert await done(other.kill())


async def test_input_is_sent_and_closed(sandbox):
    handle = await done(sandbox.commands.run("cat", background=True, stdin=True))
    await done(sandbox.commands.send_stdin(handle.pid, "one\n"))
    await done(sandbox.commands.send_stdin(handle.pid, "two\n"))
    await done(sandbox.commands.close_stdin(handle.pid))
    assert (await done(handle.wait())).stdout == "one\ntwo\n"
    with pytest.raises(NotFoundException):
        await done(sandbox.commands.send_stdin(handle.pid, "x"))


@since(2, 63)
async def test_input_is_streamed(sandbox, kind):
    handle = await done(sandbox.commands.run("wc -c", background=True, stdin=True))
    pieces = [b"x" * 100_000 for _ in range(10)]
    if kind == "sync":
        sandbox.commands.stream_input(handle.pid, pieces)
    else:
        stream = sandbox.commands.stream_input(handle.pid)
        for piece in pieces:
            await stream.send(piece)
        await stream.close()
    await done(sandbox.commands.close_stdin(handle.pid))
    assert (await done(handle.wait())).stdout.strip() == "1000000"


async def test_a_running_command_is_connected_to_again(sandbox):
    handle = await done(sandbox.commands.run("read line; echo got $line", background=True, stdin=True))
    await done(handle.disconnect())
    again = await done(sandbox.commands.connect(handle.pid))
    assert again.pid == handle.pid
    await done(sandbox.commands.send_stdin(handle.pid, "it\n"))
    assert (await done(again.wait())).stdout == "got it\n"
    with pytest.raises(NotFoundException):
        await done(sandbox.commands.connect(4_000_000))


async def test_a_command_ends_with_its_sandbox(sandbox, kind):
    handle = await done(sandbox.commands.run("sleep 1000", background=True, timeout=0))
    if kind == "sync":
        ender = threading.Timer(0.3, sandbox.kill)
        ender.start()
        with pytest.raises(TimeoutException):
            handle.wait()
        ender.join()
    else:
        waiting = asyncio.ensure_future(handle.wait())
        await asyncio.sleep(0.3)
        await sandbox.kill()
        with pytest.raises(TimeoutException):
            await waiting


class Screen:
    """What a terminal has shown."""

    def __init__(self):
        self.shown = b""

    def __call__(self, data):
        self.shown += data

    async def read_on(self, sandbox_kind, handle, until):
        """Reads until the text was shown; the asynchronous client reads by itself."""
        if sandbox_kind == "sync":
            for _out, _err, pty in handle:
                self.shown += pty or b""
                if until in self.shown:
                    return
            return

        await eventually(lambda: until in self.shown, f"{until!r} is shown")


async def open_terminal(sandbox, kind, screen, **options):
    if kind == "sync":
        return sandbox.pty.create(PtySize(rows=24, cols=80), **options)
    return await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=screen, **options)


async def test_a_terminal_is_a_terminal(sandbox, kind):
    screen = Screen()
    terminal = await open_terminal(sandbox, kind, screen, envs={"PS1": "$ "}, cwd="/tmp")
    await done(sandbox.pty.send_stdin(terminal.pid, b"tty; stty size; pwd; echo e''nd1\n"))
    await screen.read_on(kind, terminal, b"end1")
    assert b"/dev/pts/" in screen.shown and b"24 80" in screen.shown and b"/tmp" in screen.shown
    await done(sandbox.pty.resize(terminal.pid, PtySize(rows=50, cols=120)))
    await done(sandbox.pty.send_stdin(terminal.pid, b"stty size; echo e''nd2\n"))
    await screen.read_on(kind, terminal, b"end2")
    assert b"50 120" in screen.shown
    await done(sandbox.pty.send_stdin(terminal.pid, b"exit 3\n"))
    with pytest.raises(CommandExitException) as error:
        await done(terminal.wait())
    assert error.value.exit_code == 3


async def test_a_terminal_takes_control_characters_and_is_ended(sandbox, kind):
    screen = Screen()
    terminal = await open_terminal(sandbox, kind, screen)
    await done(sandbox.pty.send_stdin(terminal.pid, b"sleep 1000; echo $?-e''nd\n"))
    await screen.read_on(kind, terminal, b"sleep 1000")
    await asyncio.sleep(0.5)
    await done(sandbox.pty.send_stdin(terminal.pid, b"\x03"))
    await done(sandbox.pty.send_stdin(terminal.pid, b"echo s''till here\n"))
    await screen.read_on(kind, terminal, b"still here")
    assert await done(sandbox.pty.kill(terminal.pid))
    assert not await done(sandbox.pty.kill(terminal.pid))
