// Runs http-cache-tests (npm) against a cache: the suite's origin and its client are both in this process, on loopback.
//   node suite.mjs SUITE-FOLDER HOLM ID...    only these tests, with all that the suite says of each
//   node suite.mjs SUITE-FOLDER HOLM          all, one line for each that doesn't pass, and the counts
// A test whose dependencies don't all pass isn't counted, as on the suite's own pages.
import { spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import http from 'node:http'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, holm, ...ids] = process.argv.slice(2)
const load = async file => import(pathToFileURL(path.resolve(folder, file)).href)
const { default: fetch } = await import(
  pathToFileURL(createRequire(path.resolve(folder, 'cli.mjs')).resolve('node-fetch')).href
)

const suites = [...(await load('tests/index.mjs')).default, (await load('tests/surrogate-control.mjs')).default]
const tests = new Map(suites.flatMap(suite => suite.tests.map(test => [test.id, test])))

async function startOrigin () {
  const handlers = {}
  for (const name of ['config', 'state', 'test']) handlers[name] = (await load(`server/handle-${name}.mjs`)).default
  const server = http.createServer((request, response) => {
    const segments = new URL(request.url, 'http://origin').pathname.split('/').slice(1)
    const handle = handlers[segments.shift()]
    if (handle) handle(segments, request, response)
    else response.writeHead(404).end()
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return server
}

async function freePort () {
  const server = http.createServer()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  await new Promise(resolve => server.close(resolve))
  return port
}

// What an operator would write for a web site: the defaults, and nothing for this suite.
async function startNode (origin, work) {
  const [port, admin] = [await freePort(), await freePort()]
  const file = path.join(work, 'holm.toml')
  await writeFile(file, `
[[listen]]
address = "127.0.0.1:${port}"
[admin]
address = "127.0.0.1:${admin}"
[log]
access = "off"
[pool.suite]
endpoints = ["http://127.0.0.1:${origin}"]
[[route]]
name = "site"
pool = "suite"
`)
  const node = spawn(holm, ['serve', '--config', file], { stdio: ['ignore', 'inherit', 'inherit'] })
  for (let attempt = 0; attempt < 200; attempt++) {
    if (node.exitCode !== null) throw new Error(`the node ended with ${node.exitCode}`)
    const ready = await fetch(`http://127.0.0.1:${admin}/readyz`).then(response => response.ok, () => false)
    if (ready) return { node, base: `http://127.0.0.1:${port}` }
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  node.kill('SIGKILL')
  throw new Error('the node is not ready after 10 s')
}

function verdict (id, results) {
  const test = tests.get(id)
  if (!test || !(id in results)) return 'untested'
  if ((test.depends_on ?? []).some(needed => verdict(needed, results) !== 'pass')) return 'dependency'
  const result = results[id]
  if (result === true) return 'pass'
  return result[0] === 'Setup' ? 'setup' : result[0] === 'Assertion' ? 'fail' : 'harness'
}

async function run (base) {
  const { runTests, getResults } = await load('client/runner.mjs')
  const chosen = ids.length === 0
    ? suites
    : suites.map(suite => ({ ...suite, tests: suite.tests.filter(test => ids.includes(test.id)) }))
  if (ids.length > 0) for (const test of chosen.flatMap(suite => suite.tests)) test.dump = true
  await runTests(chosen, fetch, false, base)
  return getResults()
}

function report (results) {
  const counts = {}
  for (const [id, test] of [...tests].sort(([one], [other]) => one < other ? -1 : 1)) {
    if (test.browser_only) continue
    const kind = test.kind ?? 'required'
    const result = verdict(id, results)
    counts[kind] ??= { pass: 0, all: 0 }
    counts[kind].all++
    if (result === 'pass') counts[kind].pass++
    else if (result !== 'untested') console.log(`${kind} ${result} ${id} ${JSON.stringify(results[id]?.[1] ?? '')}`)
  }
  if (ids.length > 0) return
  for (const kind of ['required', 'optimal', 'check']) {
    const { pass, all } = counts[kind] ?? { pass: 0, all: 0 }
    console.log(`conformance: ${kind} ${pass} of ${all}`)
  }
}

const work = await mkdtemp(path.join(tmpdir(), 'holm-conformance-'))
const origin = await startOrigin()
let started
try {
  started = await startNode(origin.address().port, work)
  report(await run(started.base))
} finally {
  started?.node.kill('SIGTERM')
  origin.close()
  origin.closeAllConnections?.()
  await rm(work, { recursive: true, force: true })
}
process.exit(0)
