// One run: the suite's origin, the proxy, the suite's client, the score, the comparison.
//   node main.mjs --suite DIR --out FILE [--update] [--only ID,ID] -- PROXY [FLAG…]
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'

import { KINDS, count, evaluate, explained, passed } from './score.mjs'
import { open, serveOrigin } from './suite.mjs'

const EXPECTED = path.join(import.meta.dirname, 'expected.json')
const EXPLAINED = path.join(import.meta.dirname, 'failures.md')
// Number of concurrent tests, as in the suite itself.
const CHUNK = 25

const { values: flags, positionals: [program, ...programFlags] } = parseArgs({
  allowPositionals: true,
  options: { suite: { type: 'string' }, out: { type: 'string' }, only: { type: 'string' }, update: { type: 'boolean' } }
})

const suite = await open(flags.suite)
const origin = await serveOrigin(suite.handlers)
const proxy = await start(program, ['--listen', '127.0.0.1:0', '--origin', origin, ...programFlags])
// The proxy ends with this process.
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
    let output = ''
    child.stdout.on('data', data => {
      output += data
      const ready = /listening on (\S+)/.exec(output)
      if (ready) resolve(`http://${ready[1]}`)
    })
    child.on('error', reject)
    child.on('exit', code => reject(new Error(`the proxy exited before it was ready (exit code ${code})`)))
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

// The suite's tests depend on timing, and a busy machine can be too slow. Tests that fail unexpectedly are repeated once, with fewer at a time.
async function evaluateTwice (expected) {
  const results = { ...await suite.run(suite.groups, proxy.base, CHUNK) }
  const first = evaluate(suite.groups, results)
  const now = new Set(passed(first))
  const missing = expected.filter(id => !now.has(id) && first[id]?.state !== 'dependency')
  if (!missing.length) return first
  console.log(`repeated: ${missing.map(id => `${id} (${first[id]?.reason ?? first[id]?.state ?? 'unknown'})`).join(', ')}`)
  const again = await suite.run(only(missing), proxy.base, 5)
  for (const id of missing) results[id] = again[id]
  return evaluate(suite.groups, results)
}

// Returns 1 if a failure has no explanation or an explanation has no failure.
function unexplained (results) {
  const reasons = explained(readFileSync(EXPLAINED, 'utf8'), suite.version)
  const failed = Object.keys(results).filter(id => results[id].kind !== 'check' && results[id].state !== 'pass')
  const missing = failed.filter(id => !reasons.has(id))
  const obsolete = [...reasons].filter(id => results[id] && results[id].kind !== 'check' && results[id].state === 'pass')
  for (const id of missing) console.error(`${id} fails (${results[id].reason ?? results[id].state}), but failures.md gives no reason`)
  for (const id of obsolete) console.error(`${id} passes, but failures.md gives a reason for its failure`)
  return missing.length || obsolete.length ? 1 : 0
}

async function measure () {
  const recorded = existsSync(EXPECTED) ? JSON.parse(readFileSync(EXPECTED, 'utf8')) : {}
  const expected = recorded[suite.name]?.passed
  const results = await evaluateTwice(expected ?? [])
  writeFileSync(flags.out, JSON.stringify({ suite: suite.name, tests: results }, null, 1) + '\n')
  const counts = count(results)
  for (const kind of KINDS) console.log(`${kind.padEnd(9)}${counts[kind].passed}/${counts[kind].of}`)
  console.log(`results: ${path.relative('', flags.out)}`)

  const status = unexplained(results)
  if (flags.update) {
    const entry = { ...Object.fromEntries(KINDS.map(kind => [kind, `${counts[kind].passed}/${counts[kind].of}`])), passed: passed(results) }
    writeFileSync(EXPECTED, JSON.stringify({ ...recorded, [suite.name]: entry }, null, 1) + '\n')
    console.log('expected.json now has this result')
    return status
  }
  if (!expected) {
    console.log(`expected.json has no result for the suite "${suite.name}"; run again with --update to add it`)
    return status
  }
  const now = new Set(passed(results))
  const lost = expected.filter(id => !now.has(id))
  const won = [...now].filter(id => !expected.includes(id))
  if (won.length) console.log(`newly passing (record with --update): ${won.join(', ')}`)
  if (!lost.length) return status
  console.error(`no longer passing (if intended, record with --update):`)
  for (const id of lost) console.error(`  ${id}: ${results[id] ? [results[id].state, results[id].reason].filter(Boolean).join(', ') : 'is not in the suite'}`)
  console.error('for details: tests/cache-tests/run --only ID')
  return 1
}
