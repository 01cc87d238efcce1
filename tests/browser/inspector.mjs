// The Inspector of examples/backend in a browser: it refuses without a token and from a foreign origin, loads, updates, explains and purges. axe-core
// checks its accessibility in light and dark.
//   node inspector.mjs BROWSER BACKEND AXE [SCREENSHOT]
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'

import { Browser } from './devtools.mjs'

const [browserProgram, backendProgram, axeFile, screenshot] = process.argv.slice(2)
const TOKEN = 'a-long-random-token'
const axe = readFileSync(axeFile, 'utf8')

const backend = spawn(backendProgram, ['--serve', '--listen', '127.0.0.1:0', '--admin-token', TOKEN], { stdio: ['ignore', 'pipe', 'inherit'] })
process.on('exit', () => backend.kill())
const mount = await new Promise((resolve, reject) => {
  backend.on('exit', code => reject(new Error(`the backend exited with code ${code}`)))
  let text = ''
  backend.stdout.on('data', data => {
    text += data
    const found = /Inspector of the cache: (\S+)/.exec(text)
    if (found) resolve(found[1])
  })
})
const app = new URL('/', mount).href
const bearer = { authorization: `Bearer ${TOKEN}` }

// Reads from the application, and returns true if the response was a hit.
const read = async path => /; hit/.test((await fetch(new URL(path, app))).headers.get('cache-status') ?? '')
const stats = async () => (await (await fetch(new URL('api/stats', mount), { headers: bearer })).json()).stats

// Fails if axe-core finds anything on the page.
async function checkAccessibility (page, description) {
  await page.evaluate(axe)
  const violations = await page.evaluate('axe.run().then(found => found.violations.map(({ id, impact, nodes }) => ({ id, impact, html: nodes[0].html })))')
  console.log(`${description}: axe-core found ${violations.length ? JSON.stringify(violations) : 'nothing'}`)
  assert.deepEqual(violations, [], description)
}

const browser = new Browser(browserProgram)
let failed
try {
  const page = await browser.page()
  await page.visit(mount)
  assert.equal(await page.evaluate('document.querySelector("#token").type'), 'password')
  assert.equal(await page.evaluate('document.querySelector("#live")'), null)
  await checkAccessibility(page, 'the form for the token')
  await page.act(`document.querySelector('#token').value = 'wrong'; document.querySelector('form button').click()`)
  assert.match(await page.evaluate('document.body.innerText'), /not the token/)
  await page.act(`document.querySelector('#token').value = '${TOKEN}'; document.querySelector('form button').click()`)
  assert.equal(await page.evaluate('location.href'), mount)
  assert.equal(await page.evaluate('document.cookie'), '', 'no script reads the session')
  const errors = await page.errors()
  const loaded = await page.visit(mount)
  assert.deepEqual(loaded.map(response => new URL(response.url).origin), [new URL(mount).origin], 'one document, and nothing else')

  assert.deepEqual([await read('/tables/airlines'), await read('/tables/airlines'), await read('/tables/airlines')], [false, true, true])
  await page.until('document.querySelector("#answered").textContent === "2" && document.querySelector("#missed").textContent === "1"')
  assert.match(await page.evaluate('document.querySelector("#state").textContent'), /^Updated at/)
  for (const scheme of ['light', 'dark']) {
    await page.scheme(scheme)
    await checkAccessibility(page, `the page in ${scheme}`)
  }

  const explain = async line => {
    await page.act(`document.querySelector('#request').value = ${JSON.stringify(line)}; document.querySelector('button[value=explain]').click()`)
    return page.evaluate('document.querySelector("#explanation").innerText')
  }
  assert.match(await explain('/tables/airlines'), /Outcome\s+hit/)
  assert.match(await explain(`curl -H 'Cookie: id=1' ${app}tables/airlines`), /Outcome\s+bypass \(credentials\)[^]*identity/)
  await checkAccessibility(page, 'an explanation')

  await page.act(`document.querySelector('#namespace').value = 'db_query:airlines'; document.querySelector('#uri').form.querySelector('button').click()`)
  assert.match(await page.evaluate('document.querySelector("[role=alert]").textContent'), /Purged, and visible/)
  assert.equal(await read('/tables/airlines'), false)

  await page.visit(mount)
  const section = id => page.evaluate(`document.querySelector('#${id}').parentElement.innerText`)
  const rows = async (id, wanted) => assert.match(await section(id), wanted, id)
  await rows('routes', /\/tables\/\{table\}/)
  await rows('hottest-requests', /\/tables\/airlines/)
  await rows('hottest-namespaces', /db_query:airlines/)
  await rows('routes-over-time', /\/tables\/\{table\}/)
  const charts = await page.evaluate('document.querySelectorAll("details[data-route=\'/tables/{table}\'] svg").length')
  assert.equal(charts, 4, 'hit ratio, hits, misses and uncached requests of a route')

  // A page of another origin sends the cookie of the site, if the browser lets it.
  const other = http.createServer((request, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>a</title><link rel=icon href="data:,">'))
  await new Promise(resolve => other.listen(0, '127.0.0.1', resolve))
  const foreign = await browser.page()
  await foreign.visit(`http://127.0.0.1:${other.address().port}/`)
  const before = (await stats()).invalidations
  assert.equal(before, 1)
  await foreign.evaluate(`fetch(${JSON.stringify(`${mount}api/purge?everything=true`)}, { method: 'POST', mode: 'no-cors', credentials: 'include' }).then(() => 0, () => 0)`)
  await foreign.act(`document.body.innerHTML = '<form method=post action="${mount}api/purge?everything=true"><button>'; document.querySelector('button').click()`)
  assert.match(await foreign.evaluate('document.body.innerText'), /another origin/)
  assert.equal((await stats()).invalidations, before)
  other.close()

  const statusOf = async (path, options) => (await fetch(new URL(path, mount), options)).status
  assert.equal(await statusOf('api/stats'), 401)
  assert.equal(await statusOf('api/purge?everything=true', { method: 'POST' }), 401)
  assert.deepEqual(errors, [], 'no error in the console')

  if (screenshot) {
    for (let request = 0; request < 400; request++) await read(`/tables/${['airlines', 'airports', 'flights'][request % 3]}?limit=${1 + request % 7}`)
    await page.scheme('light')
    await page.visit(mount)
    writeFileSync(screenshot, await page.screenshot(1200, 1380))
  }
} catch (error) {
  failed = error
  console.error(error)
}
await browser.close()
console.log(failed ? 'inspector: FAILED' : 'inspector: the page loads, updates, explains, purges and refuses')
process.exit(failed ? 1 : 0)
