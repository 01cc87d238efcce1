// One page with a style sheet, a script and a picture, behind the proxy: who answers for each of them at a first visit, a second one, a reload,
// a forced reload, a step back, and a visit by somebody else.
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

// What has reached the origin: the path, and the status it was answered.
let asked = []
const origin = http.createServer((request, response) => {
  const [type, control, content] = CONTENT[request.url] ?? ['text/plain', 'no-store', '']
  const tag = `"${request.url}"`
  const same = request.headers['if-none-match'] === tag
  asked.push(`${request.url.slice(1)} ${same ? 304 : 200}`)
  response.writeHead(same ? 304 : 200, { 'content-type': type, 'cache-control': control, etag: tag })
  response.end(same ? undefined : content)
})
await new Promise(resolve => origin.listen(0, '127.0.0.1', resolve))

const proxy = spawn(proxyProgram, ['--listen', '127.0.0.1:0', '--origin', `http://127.0.0.1:${origin.address().port}`], { stdio: ['ignore', 'pipe', 'inherit'] })
// Whatever ends this ends the proxy.
process.on('exit', () => proxy.kill())
const base = await new Promise((resolve, reject) => {
  proxy.on('exit', code => reject(new Error(`the proxy ended with ${code}`)))
  proxy.stdout.once('data', line => resolve(`http://${/listening on (\S+)/.exec(line)[1]}`))
})

// Who answered for a response that the page got.
function by (response) {
  if (response.own) return 'browser'
  const status = Object.entries(response.headers).find(([name]) => name.toLowerCase() === 'cache-status')?.[1] ?? ''
  if (/; hit/.test(status)) return 'proxy'
  return /fwd-status=304/.test(status) ? 'proxy, asking' : 'origin'
}

async function look (what, responses) {
  asked = []
  const shown = (await responses()).map(response => [new URL(response.url).pathname.slice(1), by(response)])
  const saw = Object.fromEntries(shown)
  console.log(`${what}\n  the page: ${Object.entries(saw).map(([path, who]) => `${path} from ${who}`).join('; ') || 'nothing was asked for'}`)
  console.log(`  the origin was asked: ${asked.join(', ') || 'nothing'}`)
  return { saw, asked: asked.toSorted() }
}

const browsers = []
async function open () {
  browsers.push(new Browser(browserProgram))
  return browsers.at(-1).page()
}

let failed
try {
  const page = await open()
  const first = await look('a first visit', () => page.visit(`${base}/page`))
  assert.deepEqual(first.saw, { page: 'origin', 'style.css': 'origin', 'script.js': 'origin', 'picture.svg': 'origin' })

  // What is fresh stays in the browser; `no-cache` is asked about, by the browser of the proxy, and by the proxy of the origin.
  const second = await look('a second visit', () => page.visit(`${base}/page`))
  assert.deepEqual([second.saw.page, second.saw['style.css'], second.saw['picture.svg']], ['browser', 'browser', 'browser'])
  assert.deepEqual(second.asked, ['script.js 304'])

  // The browser asks for the page anew (`max-age=0`), and goes on using what the page is made of.
  const reload = await look('a reload', () => page.reload(false))
  assert.equal(reload.saw.page, 'proxy, asking')
  assert.deepEqual([reload.saw['style.css'], reload.saw['picture.svg']], ['browser', 'browser'])
  assert.deepEqual(reload.asked, ['page 304', 'script.js 304'])

  // `no-cache` with everything: neither cache may answer unasked, and the origin says that nothing has changed.
  const forced = await look('a forced reload', () => page.reload(true))
  assert.deepEqual(new Set(Object.values(forced.saw)), new Set(['proxy, asking']))
  assert.deepEqual(forced.asked, ['page 304', 'picture.svg 304', 'script.js 304', 'style.css 304'])

  await look('another page', () => page.visit(`${base}/other`))
  const back = await look('a step back', () => page.back())
  assert.deepEqual(back.asked, [])
  assert.ok(Object.values(back.saw).every(who => who === 'browser'))

  // Another browser, which has nothing: what is fresh comes from the proxy, and the origin is asked for `no-cache` alone.
  const somebody = await open()
  const other = await look('a first visit by somebody else', () => somebody.visit(`${base}/page`))
  assert.deepEqual(other.saw, { page: 'proxy', 'style.css': 'proxy', 'script.js': 'proxy, asking', 'picture.svg': 'proxy' })
  assert.deepEqual(other.asked, ['script.js 304'])
} catch (error) {
  failed = error
  console.error(error)
}
await Promise.all(browsers.map(browser => browser.close()))
console.log(failed ? 'browser: FAILED' : 'browser: every answer came from where it should')
process.exit(failed ? 1 : 0)
