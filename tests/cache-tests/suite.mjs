// Opens the suite, in the layout of its npm release or in that of its repository.
import { createRequire } from 'node:module'
import { existsSync, readFileSync } from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

export async function open (dir) {
  const newer = existsSync(path.join(dir, 'test-engine'))
  const load = file => import(pathToFileURL(path.join(dir, file)).href)
  const engine = newer ? 'test-engine/' : ''

  const groups = [...(await load('tests/index.mjs')).default]
  // The index of the release omits this group, and the suite adds it separately.
  if (!newer && existsSync(path.join(dir, 'tests/surrogate-control.mjs'))) {
    groups.push((await load('tests/surrogate-control.mjs')).default)
  }
  for (const group of groups) group.tests = group.tests.filter(test => !test.browser_only)

  const handlers = {}
  for (const name of ['config', 'test', 'state']) {
    handlers[name] = (await load(`${engine}server/handle-${name}.mjs`)).default
  }

  const config = await load(`${engine}client/config.mjs`)
  const client = await load(`${engine}client/test.mjs`)
  const perform = client.makeTest ?? client.makeCacheTest
  // Replaces the suite's own loop, which runs no test twice. A test object contains the times of its first run, so each run clones it.
  const run = async (groups, base, chunk) => {
    config.setFetch?.(newer ? fetch : fetchOf(dir)) // newer versions use the global fetch
    config.setBaseUrl(base)
    config.setUseBrowserCache(false)
    const tests = structuredClone(groups).flatMap(group => group.tests)
    for (const { id } of tests) delete client.testResults[id]
    while (tests.length) await Promise.all(tests.splice(0, chunk).map(test => perform(test)))
    return { ...client.testResults }
  }

  const { version } = JSON.parse(readFileSync(path.join(dir, 'package.json'), 'utf8'))
  return { name: newer ? 'repository' : `npm ${version}`, version: newer ? 'repository' : 'release', groups, handlers, run }
}

// The release takes its fetch as a parameter. Node's fetch adds `Cache-Control: no-cache` to a request with its own fields, and node-fetch does
// not. The release has no timeout, so this adds one.
function fetchOf (dir) {
  const fetch = createRequire(path.join(dir, 'here'))('node-fetch')
  return (url, options) => fetch(url, { ...options, signal: AbortSignal.timeout(10_000) })
}

// Starts the suite's origin on loopback.
export async function serveOrigin (handlers) {
  const server = http.createServer((request, response) => {
    const [name, ...rest] = new URL(request.url, 'http://origin.invalid').pathname.slice(1).split('/')
    if (Object.hasOwn(handlers, name)) handlers[name](rest, request, response)
    else response.writeHead(404).end()
  })
  await new Promise((resolve, reject) => server.on('error', reject).listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${server.address().port}`
}
