// One run: the suite's origin, the proxy, the suite's client, the score, the comparison.
//   node main.mjs --suite DIR --out FILE [--update] [--only ID,ID] -- PROXY [FLAG…]
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'

import { KINDS, count, explained, judge, passed } from './score.mjs'
import { open, serveOrigin } from './suite.mjs'

const KEPT = path.join(import.meta.dirname, 'expected.json')
const EXPLAINED = path.join(import.meta.dirname, 'failures.md')
// How many tests run at once: the suite's own number.
const CHUNK = 25

const { values: flags, positionals: [program, ...programFlags] } = parseArgs({
  allowPositionals: true,
  options: { suite: { type: 'string' }, out: { type: 'string' }, only: { type: 'string' }, update: { type: 'boolean' } }
})

const suite = await open(flags.suite)
const origin = await serveOrigin(suite.handlers)
const proxy = await start(program, ['--listen', '127.0.0.1:0', '--origin', origin, ...programFlags])
// Whatever ends this ends the proxy.
process.on('exit', () => proxy.kill())
process.exitCode = 1
try {
  process.exitCode = flags.only ? await show(flags.only.split(',')) : await measure()
} catch (error) {
  console.error(error)
}
process.exit() // the suite leaves connections open

async function start (program, args) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  child.base = await new Promise((resolve, reject) => {
    let said = ''
    child.stdout.on('data', data => {
      said += data
      const ready = /listening on (\S+)/.exec(said)
      if (ready) resolve(`http://${ready[1]}`)
    })
    child.on('error', reject)
    child.on('exit', code => reject(new Error(`the proxy ended before it was ready (exit code ${code})`)))
  })
  return child
}

async function show (ids) {
  const groups = only(ids)
  for (const test of groups.flatMap(group => group.tests)) test.dump = true
  console.log(await suite.run(groups, proxy.base, 1))
  return 0
}

function only (ids) {
  const groups = suite.groups.map(group => ({ ...group, tests: group.tests.filter(test => ids.includes(test.id)) }))
  return groups.filter(group => group.tests.length)
}

// The suite's tests have clocks in them, and a machine that is busy with something else can be too slow for one. What is missing after the first
// run is run once more, alone, and that is said.
async function judgeTwice (expected) {
  const results = { ...await suite.run(suite.groups, proxy.base, CHUNK) }
  const first = judge(suite.groups, results)
  const now = new Set(passed(first))
  const missing = expected.filter(id => !now.has(id) && first[id]?.state !== 'dependency')
  if (!missing.length) return first
  console.log(`once more: ${missing.map(id => `${id} (${first[id]?.why ?? first[id]?.state ?? 'unknown'})`).join(', ')}`)
  const again = await suite.run(only(missing), proxy.base, 5)
  for (const id of missing) results[id] = again[id]
  return judge(suite.groups, results)
}

// Whether a failure has no explanation, or an explanation no failure.
function unexplained (judged) {
  const reasons = explained(readFileSync(EXPLAINED, 'utf8'), suite.version)
  const failed = Object.keys(judged).filter(id => judged[id].kind !== 'check' && judged[id].state !== 'pass')
  const mute = failed.filter(id => !reasons.has(id))
  const idle = [...reasons].filter(id => judged[id] && judged[id].kind !== 'check' && judged[id].state === 'pass')
  for (const id of mute) console.error(`${id} fails (${judged[id].why ?? judged[id].state}), and failures.md does not say why`)
  for (const id of idle) console.error(`${id} passes, and failures.md says why it does not`)
  return mute.length || idle.length ? 1 : 0
}

async function measure () {
  const kept = existsSync(KEPT) ? JSON.parse(readFileSync(KEPT, 'utf8')) : {}
  const expected = kept[suite.name]?.passed
  const judged = await judgeTwice(expected ?? [])
  writeFileSync(flags.out, JSON.stringify({ suite: suite.name, tests: judged }, null, 1) + '\n')
  const counts = count(judged)
  for (const kind of KINDS) console.log(`${kind.padEnd(9)}${counts[kind].passed}/${counts[kind].of}`)
  console.log(`results: ${path.relative('', flags.out)}`)

  const mute = unexplained(judged)
  if (flags.update) {
    const entry = { ...Object.fromEntries(KINDS.map(kind => [kind, `${counts[kind].passed}/${counts[kind].of}`])), passed: passed(judged) }
    writeFileSync(KEPT, JSON.stringify({ ...kept, [suite.name]: entry }, null, 1) + '\n')
    console.log('this result is now the expected one')
    return mute
  }
  if (!expected) {
    console.log(`nothing is kept for the suite "${suite.name}"; run again with --update to keep this result`)
    return mute
  }
  const now = new Set(passed(judged))
  const lost = expected.filter(id => !now.has(id))
  const won = [...now].filter(id => !expected.includes(id))
  if (won.length) console.log(`passes now, and did not before (keep it with --update): ${won.join(', ')}`)
  if (!lost.length) return mute
  console.error(`passed before, and does not now (if that is meant, keep it with --update):`)
  for (const id of lost) console.error(`  ${id}: ${judged[id] ? [judged[id].state, judged[id].why].filter(Boolean).join(', ') : 'is not in the suite'}`)
  console.error('look at one with: tests/cache-tests/run --only ID')
  return 1
}
