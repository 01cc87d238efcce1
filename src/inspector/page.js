const live = () => document.getElementById('live')
const state = document.getElementById('state')
const refresh = async () => {
  // A summary stays focused. Any other focus in the part delays its update.
  const focused = () => live().contains(document.activeElement) && document.activeElement
  if (document.hidden || (focused() && focused().tagName !== 'SUMMARY')) return
  try {
    const response = await fetch('./?part=live', { credentials: 'same-origin' })
    if (!response.ok) throw new Error(`status ${response.status}`)
    const next = new DOMParser().parseFromString(await response.text(), 'text/html').getElementById('live')
    const open = new Set([...live().querySelectorAll('details[open]')].map(details => details.dataset.route))
    const route = focused() && focused().tagName === 'SUMMARY' ? focused().parentElement.dataset.route : undefined
    const isFirst = !live().querySelector('details')
    live().replaceWith(document.importNode(next, true))
    for (const details of live().querySelectorAll('details')) {
      if (!isFirst) details.open = open.has(details.dataset.route)
      if (details.dataset.route === route) details.querySelector('summary').focus({ preventScroll: true })
    }
    state.textContent = `Updated at ${new Date().toLocaleTimeString()}.`
  } catch (error) {
    state.textContent = `Not updated: ${error.message}.`
  }
}
setInterval(refresh, 2000)
