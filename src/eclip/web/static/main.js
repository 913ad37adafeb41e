// Starts the page: asks the server what there is, wires the parts together, and restores what the address says.

import {get, takeToken} from './api.js'
import {unpack} from './arrays.js'
import * as compare from './compare.js'
import {$, h, say, tell} from './dom.js'
import * as example from './example.js'
import * as exported from './exports.js'
import * as image from './image.js'
import * as layers from './layers.js'
import * as map from './map.js'
import * as segment from './segment.js'
import {Stage} from './stage.js'
import {emit, model, on, parts, state} from './state.js'
import * as texts from './texts.js'
import * as truth from './truth.js'
import * as words from './words.js'

addEventListener('hashchange', () => location.reload())  // another link; the page's own changes do not come here
const asked = new URLSearchParams(location.hash.slice(1))

async function start() {
  takeToken(asked.get('token'))
  if (asked.has('token')) { asked.delete('token'); history.replaceState(null, '', `#${asked}`) }
  let methods
  try {
    [state.about, methods] = await Promise.all([get('about'), get('methods')])
  } catch (error) {
    tell($('image-error'), error)
    if (error.type === 'Away') document.addEventListener('server-back', () => location.reload(), {once: true})
    return
  }
  const {colors} = state.about
  parts.colors = {...colors, sequential: unpack(colors.sequential).values, diverging: unpack(colors.diverging).values}
  parts.stage = new Stage($('canvas'), parts.colors)
  restore(methods)
  parts.methods = new Map(methods.map(one => [one.name, one]))
  parts.methods.select = select
  choosers(methods)
  for (const part of [map, texts, image, example, words, compare, layers, segment, truth, exported]) part.start()
  tabs()
  emit('methods')
  emit('texts')
  $('version').textContent = `eclip ${state.about.version}`
  document.body.classList.add('ready')
  const linked = asked.get('image')
  if (linked) {
    await parts.image.showExample(linked, true)
    if (!state.image) say('The link is about an image that is not here; drop it yourself.')
  } else if (asked.has('text')) say('The link has texts and settings; drop the image that they are about.')
}

function restore(methods) {
  const {models, limits} = state.about
  const unknown = [['model', models], ['method', methods]].filter(([name, some]) => asked.has(name) && !some.some(one => one.name === asked.get(name)))
  if (unknown.length) say(`The link asks for the ${unknown.map(([name]) => `${name} “${asked.get(name)}”`).join(' and the ')}, which this server does not have.`)
  state.model = models.some(one => one.name === asked.get('model')) ? asked.get('model') : models[0].name
  state.method = methods.some(one => one.name === asked.get('method')) ? asked.get('method') : null
  state.texts = [...new Set(asked.getAll('text').map(text => text.slice(0, limits.letters)).filter(text => text.trim()))].slice(0, limits.texts)
  state.chosen = Math.min(Math.max(0, state.texts.length - 1), Math.max(0, Number(asked.get('shown')) || 0))
  state.versus = state.texts.includes(asked.get('versus')) ? asked.get('versus') : null
  const share = name => asked.has(name) && Number(asked.get(name)) >= 0 && Number(asked.get(name)) <= 1
  if (share('threshold')) state.threshold = Number(asked.get('threshold'))
  if (share('alpha')) state.alpha = Number(asked.get('alpha'))
  if ($(`tab-${asked.get('tab')}`)) state.tab = asked.get('tab')
}

function choosers(methods) {
  const models = $('model'), own = $('method')
  models.replaceChildren(...state.about.models.map(({name}) => h('option', {value: name, selected: name === state.model}, name)))
  const kinds = {}
  for (const one of methods) (kinds[one.kind] ??= []).push(one)
  const fill = () => own.replaceChildren(h('option', {value: ''}, `usual: ${model().default_method}`),
    ...Object.entries(kinds).map(([kind, some]) => h('optgroup', {label: kind},
      ...some.map(one => h('option', {value: one.name, selected: one.name === state.method},
        one.many_passes ? `${one.name} (slow)` : one.name)))))
  fill()
  models.onchange = () => { state.model = models.value; fill(); summary(); emit('model') }
  own.onchange = () => select(own.value)
  summary()
}

function select(name) {
  state.method = name || null
  state.threshold = null
  $('method').value = name
  summary()
  emit('method')
}

function summary() {
  const name = state.method ?? model().default_method
  $('method-summary').textContent = parts.methods.get(name).summary
}

function tabs() {
  const buttons = [...document.querySelectorAll('[role=tab]')]
  const show = (name, focus = false) => {
    state.tab = name
    for (const button of buttons) {
      const own = button.id === `tab-${name}`
      button.setAttribute('aria-selected', own)
      button.tabIndex = own ? 0 : -1
      $(button.getAttribute('aria-controls')).hidden = !own
      if (own && focus) button.focus()
    }
    const plain = ['words', 'layers'].includes(name)  // where colors and lines have one meaning
    parts.stage.set({outline: !plain && $('outline').checked, boxes: !plain && $('boxes').checked,
      contours: !plain && $('contours').checked, view: !plain && $('mask').checked ? 'mask' : 'heat',
      colors: plain ? 'auto' : $('colors').value})
    emit('tab')
  }
  for (const [number, button] of buttons.entries()) {
    button.onclick = () => show(button.id.slice(4))
    button.onkeydown = event => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key] ?? {Home: -number, End: -1 - number}[event.key]
      if (step === undefined) return
      event.preventDefault()
      show(buttons[(number + step + buttons.length) % buttons.length].id.slice(4), true)
    }
  }
  show(state.tab)
}

function theme() {
  const dark = matchMedia('(prefers-color-scheme: dark)'), key = 'eclip-theme'
  let own = null
  try { own = localStorage.getItem(key) } catch { /* not allowed here */ }
  const set = () => {
    const now = own ?? (dark.matches ? 'dark' : 'light')
    document.documentElement.dataset.theme = now
    $('theme').setAttribute('aria-label', `Switch to ${now === 'dark' ? 'light' : 'dark'} colors`)
    emit('look')
  }
  $('theme').onclick = () => {
    own = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'
    try { localStorage.setItem(key, own) } catch { /* kept for this page only */ }
    set()
  }
  dark.onchange = set
  set()
}

on('image', () => document.title = `${state.image.name} · eclip`)
theme()
start()
