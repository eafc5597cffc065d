// The official JavaScript SDK as a client.
// The server is named by E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import * as e2b from 'e2b'
const { Sandbox } = e2b

const template = process.env.E2B_TEST_TEMPLATE ?? 'base'
const made = []

async function create(options = {}, from = template) {
  const sandbox = await Sandbox.create(from, { timeoutMs: 120_000, ...options })
  made.push(sandbox)
  return sandbox
}

async function eventually(check, what) {
  const end = Date.now() + 20_000
  for (;;) {
    const result = await check()
    if (result) return result
    assert.ok(Date.now() < end, `it did not happen that ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function pages(paginator) {
  const found = []
  while (paginator.hasNext) found.push(...(await paginator.nextItems()))
  return found
}

let sandbox
before(async () => {
  sandbox = await create()
})
after(async () => {
  for (const one of made) await one.kill()
})

test('a new sandbox runs and says what it is', async () => {
  const label = randomUUID()
  const one = await create({ metadata: { label }, envs: { COLOUR: 'blue' } })
  assert.ok(await one.isRunning())
  const info = await one.getInfo()
  assert.equal(info.sandboxId, one.sandboxId)
  assert.deepEqual(info.metadata, { label })
  assert.equal(info.state, 'running')
  assert.ok(info.endAt > new Date(Date.now() + 60_000))
  const seen = await one.commands.run('echo $COLOUR $E2B_SANDBOX')
  assert.equal(seen.stdout, 'blue true\n')
})

test('an ended sandbox is gone', async () => {
  const one = await create()
  assert.equal(await one.kill(), true)
  assert.equal(await one.isRunning(), false)
  assert.equal(await Sandbox.kill(one.sandboxId), false)
  await assert.rejects(one.getInfo(), e2b.NotFoundError)
  await assert.rejects(one.commands.run('true'), e2b.SandboxNotFoundError)
})

test('a wrong key and an unknown template are refused', async () => {
  await assert.rejects(Sandbox.create(template, { apiKey: 'e2b_' + '0'.repeat(40) }), e2b.AuthenticationError)
  await assert.rejects(Sandbox.create('no-such-template-here'))
})

test('lists filter by labels and state, in pages', async () => {
  const label = randomUUID()
  const metadata = { label, n: 'one & only/ü=%' }
  const first = await create({ metadata })
  const second = await create({ metadata: { label } })
  const of = (query, more = {}) => pages(Sandbox.list({ query: { metadata: query, ...more } }))
  assert.deepEqual((await of({ label })).map((row) => row.sandboxId), [second.sandboxId, first.sandboxId])
  assert.deepEqual((await of(metadata)).map((row) => row.sandboxId), [first.sandboxId])
  const paginator = Sandbox.list({ query: { metadata: { label } }, limit: 1 })
  assert.equal((await paginator.nextItems()).length, 1)
  assert.ok(paginator.hasNext)
  await first.pause()
  assert.deepEqual((await of({ label }, { state: ['paused'] })).map((row) => row.sandboxId), [first.sandboxId])
})

test('a paused sandbox keeps its processes', async () => {
  const one = await create()
  const handle = await one.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  assert.equal(await one.pause(), true)
  assert.equal(await one.isRunning(), false)
  const again = await Sandbox.connect(one.sandboxId)
  assert.deepEqual((await again.commands.list()).map((row) => row.pid), [handle.pid])
})

test('snapshots and forks start with the files', async () => {
  const one = await create()
  await one.files.write('/home/user/state.txt', 'before')
  const snapshot = await one.createSnapshot()
  const copy = await create({}, snapshot.snapshotId)
  assert.equal(await copy.files.read('/home/user/state.txt'), 'before')
  assert.ok((await pages(Sandbox.listSnapshots({ sandboxId: one.sandboxId }))).length === 1)
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
  const [fork] = await one.fork()
  made.push(fork)
  assert.equal(await fork.files.read('/home/user/state.txt'), 'before')
})

test('output, exit code, directory, user and variables', async () => {
  const result = await sandbox.commands.run('echo out; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('exit 7'), (error) => {
    assert.ok(error instanceof e2b.CommandExitError)
    return error.exitCode === 7
  })
  const seen = await sandbox.commands.run('pwd; id -un; echo $A', { cwd: '/tmp', user: 'root', envs: { A: 'b' } })
  assert.equal(seen.stdout, '/tmp\nroot\nb\n')
  await assert.rejects(sandbox.commands.run('true', { cwd: '/no/such' }), e2b.InvalidArgumentError)
  await assert.rejects(sandbox.commands.run('sleep 77', { timeoutMs: 500 }), e2b.TimeoutError)
})

test('output is told while it comes', async () => {
  const pieces = []
  await sandbox.commands.run('echo a; sleep 0.2; echo b', { onStdout: (text) => pieces.push(text) })
  assert.deepEqual(pieces, ['a\n', 'b\n'])
})

test('background commands: input, list, connect, end', async () => {
  const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(handle.pid, 'one\n')
  assert.ok((await sandbox.commands.list()).some((row) => row.pid === handle.pid))
  await handle.disconnect()
  const again = await sandbox.commands.connect(handle.pid)
  await sandbox.commands.sendStdin(handle.pid, 'two\n')
  await sandbox.commands.closeStdin(handle.pid)
  assert.ok((await again.wait()).stdout.endsWith('two\n'))
  const sleeper = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  assert.equal(await sandbox.commands.kill(sleeper.pid), true)
  await assert.rejects(sleeper.wait(), e2b.CommandExitError)
  assert.equal(await sandbox.commands.kill(sleeper.pid), false)
})

test('a command ends with its sandbox', async () => {
  const one = await create()
  const handle = await one.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  const waiting = assert.rejects(handle.wait(), e2b.TimeoutError)
  await one.kill()
  await waiting
})

test('a terminal is a terminal', async () => {
  let shown = ''
  const decoder = new TextDecoder()
  const terminal = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    envs: { PS1: '$ ' },
    onData: (data) => (shown += decoder.decode(data)),
  })
  const type = (text) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type("tty; stty size; echo e''nd1\n")
  await eventually(() => shown.includes('end1'), 'the terminal answers')
  assert.match(shown, /\/dev\/pts\/\d/)
  assert.match(shown, /24 80/)
  await sandbox.pty.resize(terminal.pid, { cols: 120, rows: 50 })
  await type("stty size; echo e''nd2\n")
  await eventually(() => shown.includes('end2'), 'the terminal answers')
  assert.match(shown, /50 120/)
  assert.equal(await sandbox.pty.kill(terminal.pid), true)
})

test('files in every form', async () => {
  const info = await sandbox.files.write('a/b/text.txt', 'grüße')
  assert.equal(info.path, '/home/user/a/b/text.txt')
  assert.equal(await sandbox.files.read('a/b/text.txt'), 'grüße')
  const blob = new Uint8Array(300_000).map((_, index) => index % 256)
  await sandbox.files.write('/tmp/blob', blob.buffer)
  assert.deepEqual(Buffer.from(await sandbox.files.read('/tmp/blob', { format: 'bytes' })), Buffer.from(blob))
  const stream = new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode('from a stream'))
      controller.close()
    },
  })
  await sandbox.files.write('/tmp/stream', stream)
  assert.equal(await (await sandbox.files.read('/tmp/stream', { format: 'blob' })).text(), 'from a stream')
  const many = await sandbox.files.write([1, 2, 3].map((n) => ({ path: `many/${n}`, data: `text ${n}` })))
  assert.equal(many.length, 3)
  assert.equal(await sandbox.files.read('many/2'), 'text 2')
  await sandbox.files.write('packed', 'x'.repeat(100_000), { gzip: true })
  assert.equal((await sandbox.files.read('packed', { gzip: true })).length, 100_000)
})

test('folders, entries and what is not there', async () => {
  assert.equal(await sandbox.files.makeDir('d/e'), true)
  assert.equal(await sandbox.files.makeDir('d/e'), false)
  await sandbox.files.write('d/e/f.txt', 'f', { metadata: { author: 'me' } })
  const deep = await sandbox.files.list('d', { depth: 2 })
  assert.deepEqual(deep.map((entry) => entry.path).sort(), ['/home/user/d/e', '/home/user/d/e/f.txt'])
  const entry = await sandbox.files.getInfo('d/e/f.txt')
  assert.deepEqual([entry.type, entry.size, entry.owner, entry.permissions], ['file', 1, 'user', '-rw-r--r--'])
  assert.deepEqual(entry.metadata, { author: 'me' })
  assert.equal((await sandbox.files.rename('d/e/f.txt', 'd/g.txt')).path, '/home/user/d/g.txt')
  await sandbox.files.remove('d')
  assert.equal(await sandbox.files.exists('d/g.txt'), false)
  for (const call of [
    () => sandbox.files.read('/no/such'),
    () => sandbox.files.list('/no/such'),
    () => sandbox.files.getInfo('/no/such'),
    () => sandbox.files.watchDir('/no/such', () => {}),
  ]) {
    await assert.rejects(call(), e2b.NotFoundError)
  }
})

test('changes of a folder are told in order', async () => {
  await sandbox.files.makeDir('w')
  const events = []
  const handle = await sandbox.files.watchDir('w', (event) => events.push([event.name, event.type]))
  await sandbox.files.write('w/new.txt', 'x')
  await eventually(() => events.length >= 3, 'the events come')
  assert.deepEqual(events, [
    ['new.txt', 'create'],
    ['new.txt', 'chmod'],
    ['new.txt', 'write'],
  ])
  await handle.stop()
})

test('signed links work without a token', async () => {
  await sandbox.files.write('linked.txt', 'by link')
  const url = await sandbox.downloadUrl('linked.txt', { useSignatureExpiration: 60 })
  assert.equal(await (await fetch(url)).text(), 'by link')
  const stale = await sandbox.downloadUrl('linked.txt', { useSignatureExpiration: -10 })
  const refused = await fetch(stale)
  assert.equal(refused.status, 401)
  assert.deepEqual(await refused.json(), { code: 401, message: 'signature is already expired' })
  const form = new FormData()
  form.append('file', new Blob(['uploaded']), 'up.txt')
  const upload = await sandbox.uploadUrl('up.txt', { useSignatureExpiration: 60 })
  assert.equal((await fetch(upload, { method: 'POST', body: form })).status, 200)
  assert.equal(await sandbox.files.read('up.txt'), 'uploaded')
})
