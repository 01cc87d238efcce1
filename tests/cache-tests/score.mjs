// Pure functions that evaluate the results of a run.

export const KINDS = ['required', 'optimal', 'check']

// Returns { id: { kind, group, state, reason } }. A test passes if its result and all its dependencies pass. The states are those of the
// suite's page: `pass`, `fail`, `setup` (the test could not be set up), `retry` (the client repeated a request),
// `dependency`, `timeout`, `untested`.
export function evaluate (groups, results) {
  const tests = new Map(groups.flatMap(group => group.tests.map(test => [test.id, { ...test, group: group.id }])))
  const states = new Map()

  function state (id) {
    if (!states.has(id)) {
      states.set(id, 'dependency') // tests in a dependency circle do not pass
      states.set(id, stateOf(id))
    }
    return states.get(id)
  }

  function stateOf (id) {
    const result = results[id]
    if (result === undefined) return 'untested'
    if ((tests.get(id)?.depends_on ?? []).some(other => state(other) !== 'pass')) return 'dependency'
    if (result === true) return 'pass'
    if (result[0] === 'AbortError' || result[0] === 'TimeoutError') return 'timeout'
    if (result[0] === 'Setup') return result[1] === 'retry' ? 'retry' : 'setup'
    return 'fail'
  }

  const evaluated = {}
  for (const id of [...tests.keys()].sort()) {
    const { kind = 'required', group } = tests.get(id)
    const result = results[id]
    evaluated[id] = { kind, group, state: state(id), ...(Array.isArray(result) && { reason: result.join(': ') }) }
  }
  return evaluated
}

// Returns { required: { passed, of }, … }.
export function count (evaluated) {
  const counts = Object.fromEntries(KINDS.map(kind => [kind, { passed: 0, of: 0 }]))
  for (const { kind, state } of Object.values(evaluated)) {
    counts[kind].of += 1
    if (state === 'pass') counts[kind].passed += 1
  }
  return counts
}

// Returns the ids at the start of list items, "- `id`, `id`: …", in the sections whose title names the version.
export function explained (page, version) {
  const sections = page.split(/^## /m).slice(1).filter(section => section.split('\n', 1)[0].toLowerCase().includes(version))
  const items = sections.flatMap(section => section.split(/^- /m).slice(1)).map(item => /^(?:`[^`]+`,?\s+)*`[^`]+`(?=:)/.exec(item)?.[0] ?? '')
  return new Set(items.flatMap(item => [...item.matchAll(/`([^`]+)`/g)].map(found => found[1])))
}

export const passed = evaluated => Object.keys(evaluated).filter(id => evaluated[id].state === 'pass')
