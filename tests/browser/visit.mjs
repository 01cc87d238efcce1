// One page with a style sheet, a script and a picture behind the proxy. Asserts the source of each response on a first visit, a second visit,
// a reload, a forced reload, a step back and a visit with another browser.
//   node visit.mjs BROWSER PROXY
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import http from 'node:http'

import { Browser } from './devtools.mjs'

const [browserProgram, proxyProgram] = process.argv.slice(2)

const PAGE = '<!doctype html><link rel=icon href="data:,"><link rel=stylesheet href=/style.css><script src=/script.js></script><img src=/picture.svg>'
const CONTENT = {
  '/page': ['text/html', 'max-age=60', PAGE],
  '/style.css': ['text/css', 'max-age=60', 'body { color: navy }'],
  '/script.js': ['text/javascript', 'no-cache', 'void 0'],
  '/picture.svg': ['image/svg+xml', 'max-age=60, immutable', '<svg xmlns="http://www.w3.org/2000/svg"/>'],
  '/other': ['text/html', 'max-age=60', '<!doctype html><link rel=icon href="data:,">']
}

// Requests that reached the origin: the path and the status of the response.
let requests = []
const origin = http.createServer((request, response) => {
  const [type, control, content] = CONTENT[request.url] ?? ['text/plain', 'no-store', '']
  const tag = `"${request.url}"`
  const same = request.headers['if-none-match'] === tag
  requests.push(`${request.url.slice(1)} ${same ? 304 : 200}`)
  response.writeHead(same ? 304 : 200, { 'content-type': type, 'cache-control': control, etag: tag })
  response.end(same ? undefined : content)
})
await new Promise(resolve => origin.listen(0, '127.0.0.1', resolve))

const proxy = spawn(proxyProgram, ['--listen', '127.0.0.1:0', '--origin', `http://127.0.0.1:${origin.address().port}`], { stdio: ['ignore', 'pipe', 'inherit'] })
// The proxy ends with this process.
process.on('exit', () => proxy.kill())
const base = await new Promise((resolve, reject) => {
  proxy.on('exit', code => reject(new Error(`the proxy exited with code ${code}`)))
  proxy.stdout.once('data', line => resolve(`http://${/listening on (\S+)/.exec(line)[1]}`))
})

// Returns the source of a response that the page received.
function source (response) {
  if (response.own) return 'browser'
  const status = Object.entries(response.headers).find(([name]) => name.toLowerCase() === 'cache-status')?.[1] ?? ''
  if (/; hit/.test(status)) return 'proxy'
  return /fwd-status=304/.test(status) ? 'proxy, revalidated' : 'origin'
}

async function observe (description, responses) {
  requests = []
  const shown = (await responses()).map(response => [new URL(response.url).pathname.slice(1), source(response)])
  const sources = Object.fromEntries(shown)
  console.log(`${description}\n  the page: ${Object.entries(sources).map(([path, from]) => `${path} from ${from}`).join('; ') || 'no requests'}`)
  console.log(`  the origin: ${requests.join(', ') || 'no requests'}`)
  return { sources, requests: requests.toSorted() }
}

const browsers = []
async function open () {
  browsers.push(new Browser(browserProgram))
  return browsers.at(-1).page()
}

let failed
try {
  const page = await open()
  const first = await observe('a first visit', () => page.visit(`${base}/page`))
  assert.deepEqual(first.sources, { page: 'origin', 'style.css': 'origin', 'script.js': 'origin', 'picture.svg': 'origin' })

  // The browser serves fresh responses itself. `no-cache` is revalidated by the browser at the proxy and by the proxy at the origin.
  const second = await observe('a second visit', () => page.visit(`${base}/page`))
  assert.deepEqual([second.sources.page, second.sources['style.css'], second.sources['picture.svg']], ['browser', 'browser', 'browser'])
  assert.deepEqual(second.requests, ['script.js 304'])

  // The browser revalidates the page (`max-age=0`) and reuses its subresources.
  const reload = await observe('a reload', () => page.reload(false))
  assert.equal(reload.sources.page, 'proxy, revalidated')
  assert.deepEqual([reload.sources['style.css'], reload.sources['picture.svg']], ['browser', 'browser'])
  assert.deepEqual(reload.requests, ['page 304', 'script.js 304'])

  // Each request has `no-cache`: neither cache may answer without revalidation, and the origin answers 304.
  const forced = await observe('a forced reload', () => page.reload(true))
  assert.deepEqual(new Set(Object.values(forced.sources)), new Set(['proxy, revalidated']))
  assert.deepEqual(forced.requests, ['page 304', 'picture.svg 304', 'script.js 304', 'style.css 304'])

  await observe('another page', () => page.visit(`${base}/other`))
  const back = await observe('a step back', () => page.back())
  assert.deepEqual(back.requests, [])
  assert.ok(Object.values(back.sources).every(from => from === 'browser'))

  // Another browser has an empty cache: the proxy serves fresh responses and revalidates only the `no-cache` one.
  const anotherPage = await open()
  const other = await observe('a first visit with another browser', () => anotherPage.visit(`${base}/page`))
  assert.deepEqual(other.sources, { page: 'proxy', 'style.css': 'proxy', 'script.js': 'proxy, revalidated', 'picture.svg': 'proxy' })
  assert.deepEqual(other.requests, ['script.js 304'])
} catch (error) {
  failed = error
  console.error(error)
}
await Promise.all(browsers.map(browser => browser.close()))
console.log(failed ? 'browser: FAILED' : 'browser: every response had the expected source')
process.exit(failed ? 1 : 0)
