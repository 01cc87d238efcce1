// What the results are worth: pure functions of the suite's groups and what a run said.

export const KINDS = ['required', 'optimal', 'check']

// { id: { kind, group, state, why } }. A test passes if it did and all that it depends on passed too. The states are those of
// the suite's own page: `pass`, `fail`, `setup` (the test could not be set up), `retry` (the client repeated a request),
// `dependency`, `timeout`, `untested`.
export function judge (groups, results) {
  const tests = new Map(groups.flatMap(group => group.tests.map(test => [test.id, { ...test, group: group.id }])))
  const states = new Map()

  function state (id) {
    if (!states.has(id)) {
      states.set(id, 'dependency') // tests that depend on each other in a circle pass nothing
      states.set(id, found(id))
    }
    return states.get(id)
  }

  function found (id) {
    const result = results[id]
    if (result === undefined) return 'untested'
    if ((tests.get(id)?.depends_on ?? []).some(other => state(other) !== 'pass')) return 'dependency'
    if (result === true) return 'pass'
    if (result[0] === 'AbortError' || result[0] === 'TimeoutError') return 'timeout'
    if (result[0] === 'Setup') return result[1] === 'retry' ? 'retry' : 'setup'
    return 'fail'
  }

  const judged = {}
  for (const id of [...tests.keys()].sort()) {
    const { kind = 'required', group } = tests.get(id)
    const result = results[id]
    judged[id] = { kind, group, state: state(id), ...(Array.isArray(result) && { why: result.join(': ') }) }
  }
  return judged
}

// { required: { passed, of }, … }
export function count (judged) {
  const counts = Object.fromEntries(KINDS.map(kind => [kind, { passed: 0, of: 0 }]))
  for (const { kind, state } of Object.values(judged)) {
    counts[kind].of += 1
    if (state === 'pass') counts[kind].passed += 1
  }
  return counts
}

// The ids that a page of reasons begins its items with, "- `id`, `id`: …", in the sections whose title names the version.
export function explained (page, version) {
  const sections = page.split(/^## /m).slice(1).filter(section => section.split('\n', 1)[0].toLowerCase().includes(version))
  const items = sections.flatMap(section => section.split(/^- /m).slice(1)).map(item => /^(?:`[^`]+`,?\s+)*`[^`]+`(?=:)/.exec(item)?.[0] ?? '')
  return new Set(items.flatMap(item => [...item.matchAll(/`([^`]+)`/g)].map(found => found[1])))
}

export const passed = judged => Object.keys(judged).filter(id => judged[id].state === 'pass')
