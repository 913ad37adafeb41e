// Requests to the server. A server that is away is waited for, and a forgotten image is sent again.

import {$} from './dom.js'

const TAB = Math.random().toString(36).slice(2), KEY = 'eclip-token'
let token = null, away = null

// The token of the address, which is then hidden from it.
export function takeToken(given) {
  try {
    if (given) sessionStorage.setItem(KEY, given)
    token = sessionStorage.getItem(KEY)
  } catch { token = given }
}

export class ApiError extends Error {
  constructor(status, {type, message, hint}) {
    super(message)
    Object.assign(this, {name: 'ApiError', status, type, hint})
  }
}

async function send(path, options) {
  const headers = {'X-Eclip-Client': TAB, ...options.headers}
  if (token) headers.Authorization = `Bearer ${token}`
  let answer
  try {
    answer = await fetch(path, {...options, headers})
  } catch (error) {
    if (error.name === 'AbortError') throw error
    watch()
    throw new ApiError(0, {type: 'Away', message: 'The server does not answer.', hint: 'Is eclip serve still running?'})
  }
  if (answer.status === 503 && (options.tries ?? 0) < 4) {
    const wait = Number(answer.headers.get('Retry-After') ?? 1)
    await new Promise(done => setTimeout(done, 1000 * wait))
    options.signal?.throwIfAborted()
    return send(path, {...options, tries: (options.tries ?? 0) + 1})
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}))
    throw new ApiError(answer.status, told.error ?? {type: 'HTTP', message: `The server answered ${answer.status}.`})
  }
  return answer
}

export const get = async (path, signal) => (await send(`/api/v1/${path}`, {signal})).json()
export const blob = async (path, signal) => (await send(`/api/v1/${path}`, {signal})).blob()

export async function post(path, body, signal) {
  return (await send(`/api/v1/${path}`, jsonOf(body, signal))).json()
}

export async function file(path, body) {
  const answer = await send(`/api/v1/${path}`, jsonOf(body))
  const name = /filename\*=UTF-8''(\S+)/.exec(answer.headers.get('Content-Disposition'))[1]
  return [await answer.blob(), decodeURIComponent(name)]
}

export async function form(path, parts, signal) {
  const body = new FormData()
  for (const [name, value] of parts) body.append(name, value)
  return (await send(`/api/v1/${path}`, {method: 'POST', body, signal})).json()
}

const jsonOf = (body, signal) =>
  ({method: 'POST', body: JSON.stringify(body), headers: {'Content-Type': 'application/json'}, signal})

// Say that the server is away until it is back.
function watch() {
  if (away) return
  $('away').hidden = false
  away = setInterval(async () => {
    const answer = await fetch('/healthz').catch(() => null)
    if (!answer?.ok) return
    clearInterval(away)
    away = null
    $('away').hidden = true
    document.dispatchEvent(new Event('server-back'))
  }, 2000)
}
