const live = () => document.getElementById('live')
const state = document.getElementById('state')
const refresh = async () => {
  if (document.hidden || live().contains(document.activeElement)) return
  try {
    const response = await fetch('./?part=live', { credentials: 'same-origin' })
    if (!response.ok) throw new Error(`status ${response.status}`)
    const next = new DOMParser().parseFromString(await response.text(), 'text/html').getElementById('live')
    live().replaceWith(document.importNode(next, true))
    state.textContent = `Updated at ${new Date().toLocaleTimeString()}.`
  } catch (error) {
    state.textContent = `Not updated: ${error.message}.`
  }
}
setInterval(refresh, 2000)
