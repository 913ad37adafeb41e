// The API's addresses with their fields, from the server's own openapi.json; without any library or network.

import {takeToken} from './api.js'
import {$, h, tell} from './dom.js'

takeToken(null)

async function start() {
  let token = null
  try { token = sessionStorage.getItem('eclip-token') } catch { /* no token then */ }
  const answer = await fetch('/openapi.json', {headers: token ? {Authorization: `Bearer ${token}`} : {}})
  const found = await answer.json()
  if (!answer.ok) return tell($('addresses'), found.error)
  const schemas = found.components?.schemas ?? {}
  const parts = Object.entries(found.paths).flatMap(([path, ways]) =>
    Object.entries(ways).map(([way, one]) => address(way.toUpperCase(), path, one, schemas)))
  $('addresses').replaceChildren(h('p', {class: 'hint'}, 'Errors have one shape: {"error": {"type", "message", "hint"}}. Arrays are {"dtype", "shape", "data"}: little-endian bytes in base64.'), ...parts)
}

function address(way, path, one, schemas) {
  const content = Object.values(one.requestBody?.content ?? {})[0]?.schema
  const fields = content ? rows(resolve(content, schemas), schemas) : []
  for (const given of one.parameters ?? []) fields.push([given.name, kind(given.schema, schemas), given.required, given.description])
  return h('details', {}, h('summary', {}, h('code', {}, `${way} ${path}`)), h('p', {}, (one.description ?? '').replaceAll('`', '')),
    fields.length ? h('table', {}, h('tbody', {}, ...fields.map(([name, type, required, said]) => h('tr', {},
      h('th', {scope: 'row'}, h('code', {}, name), required ? ' (required)' : ''), h('td', {}, h('code', {}, type)), h('td', {class: 'hint'}, said ?? ''))))) : null)
}

const resolve = (schema, schemas) => schema?.$ref ? schemas[schema.$ref.split('/').pop()] : schema

function rows(schema, schemas) {
  const required = new Set(schema.required ?? [])
  return Object.entries(schema.properties ?? {}).map(([name, one]) => [name, kind(one, schemas), required.has(name), one.description])
}

function kind(given, schemas) {
  const one = resolve(given, schemas) ?? {}
  if (one.anyOf) return one.anyOf.map(part => kind(part, schemas)).join(' | ')
  if (one.enum) return one.enum.map(value => JSON.stringify(value)).join(' | ')
  if (one.const !== undefined) return JSON.stringify(one.const)
  if (one.type === 'array') return `[${kind(one.items ?? {}, schemas)}, …]`
  return one.format === 'binary' || one.contentMediaType ? 'file' : one.type ?? 'any'
}

start().catch(error => tell($('addresses'), {message: 'The description cannot be read.', hint: error.message}))
