// A headless browser, driven over a pipe with the DevTools protocol.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

// Time limit of each operation.
const TIMEOUT = 20_000

export class Browser {
  #child
  #home = mkdtempSync(path.join(tmpdir(), 'visit-'))
  #waiting = new Map()
  #listeners = new Set()
  #sent = 0

  constructor (program) {
    const flags = ['--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', `--user-data-dir=${this.#home}`, 'about:blank']
    this.#child = spawn(program, flags, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] })
    let rest = ''
    this.#child.stdio[4].on('data', data => {
      const messages = (rest + data).split('\0')
      rest = messages.pop()
      messages.forEach(message => this.#received(JSON.parse(message)))
    })
  }

  #received (message) {
    if (message.id === undefined) return this.#listeners.forEach(listener => listener(message))
    const { resolve, reject } = this.#waiting.get(message.id)
    this.#waiting.delete(message.id)
    if (message.error) reject(new Error(message.error.message))
    else resolve(message.result)
  }

  call (method, params = {}, sessionId) {
    const id = ++this.#sent
    this.#child.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0')
    return inTime(method, new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject })))
  }

  // Resolves with the first event that matches.
  event (description, matches) {
    return inTime(description, new Promise(resolve => {
      const listener = message => {
        if (!matches(message)) return
        this.#listeners.delete(listener)
        resolve(message.params)
      }
      this.#listeners.add(listener)
    }))
  }

  listen (listener) {
    this.#listeners.add(listener)
  }

  async page () {
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true })
    await this.call('Page.enable', {}, sessionId)
    await this.call('Network.enable', {}, sessionId)
    return new Page(this, sessionId)
  }

  async close () {
    const ended = new Promise(resolve => this.#child.on('exit', resolve))
    this.#child.kill()
    await ended
    // A browser process may still be writing. Anything left over is in the temporary directory.
    try { rmSync(this.#home, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 }) } catch {}
  }
}

export class Page {
  #browser
  #session
  #responses = []
  #inMemory = new Set()

  constructor (browser, session) {
    this.#browser = browser
    this.#session = session
    browser.listen(({ method, params, sessionId }) => {
      if (sessionId !== session) return
      // A response from the page's memory has its original fields.
      if (method === 'Network.requestServedFromCache') this.#inMemory.add(params.requestId)
      if (method === 'Network.responseReceived') {
        const own = params.response.fromDiskCache || this.#inMemory.has(params.requestId)
        this.#responses.push({ url: params.response.url, headers: params.response.headers, own })
      }
    })
  }

  #call (method, params) {
    return this.#browser.call(method, params, this.#session)
  }

  // Performs a navigation and returns the responses that it received.
  async #responsesOf (act) {
    this.#responses = []
    const isOwn = message => message.sessionId === this.#session
    const navigated = this.#browser.event('a page', message =>
      isOwn(message) && message.method === 'Page.frameNavigated' && !message.params.frame.parentId)
    const loaded = this.#browser.event('the end of loading', message => isOwn(message) && message.method === 'Page.loadEventFired')
    loaded.catch(() => {})
    await act()
    const { type } = await navigated
    if (type !== 'BackForwardCacheRestore') await loaded
    return this.#responses.filter(response => response.url.startsWith('http'))
  }

  visit (url) {
    return this.#responsesOf(() => this.#call('Page.navigate', { url }))
  }

  reload (forced) {
    return this.#responsesOf(() => this.#call('Page.reload', { ignoreCache: forced }))
  }

  // Evaluates an expression in the page and returns its value.
  async evaluate (expression) {
    const { result, exceptionDetails } = await this.#call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })
    if (exceptionDetails) throw new Error(`${expression.slice(0, 80)}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`)
    return result.value
  }

  // Evaluates an expression that navigates, such as a click on a button of a form.
  act (expression) {
    return this.#responsesOf(() => this.evaluate(expression))
  }

  // Waits until an expression is true in the page.
  async until (expression) {
    const waiting = async () => {
      while (!(await this.evaluate(expression))) await new Promise(resolve => setTimeout(resolve, 100))
    }
    return inTime(expression, waiting())
  }

  // Collects the errors that the page reports from now on.
  async errors () {
    const errors = []
    this.#browser.listen(({ method, params, sessionId }) => {
      if (sessionId !== this.#session) return
      if (method === 'Runtime.exceptionThrown') errors.push(params.exceptionDetails.text)
      if (method === 'Log.entryAdded' && params.entry.level === 'error') errors.push(params.entry.text)
      if (method === 'Runtime.consoleAPICalled' && params.type === 'error') errors.push(JSON.stringify(params.args))
    })
    await this.#call('Runtime.enable')
    await this.#call('Log.enable')
    return errors
  }

  async scheme (value) {
    await this.#call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value }] })
  }

  async screenshot (width, height) {
    await this.#call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false })
    const { data } = await this.#call('Page.captureScreenshot', { format: 'png' })
    return Buffer.from(data, 'base64')
  }

  async back () {
    const { currentIndex, entries } = await this.#call('Page.getNavigationHistory')
    return this.#responsesOf(() => this.#call('Page.navigateToHistoryEntry', { entryId: entries[currentIndex - 1].id }))
  }
}

function inTime (description, promise) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${description} timed out`)), TIMEOUT)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
