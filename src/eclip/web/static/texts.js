// Texts as chips, each with its score and whether it is in the image at all; and the model's own concepts.

import {post} from './api.js'
import {unpack} from './arrays.js'
import {$, h, say, tell} from './dom.js'
import {emit, fresh, isText, latest, model, on, parts, question, stamp, state} from './state.js'

const BADGES = {'probably not in the image': 'probably not there', 'may not be in the image': 'may not be there'}
let concepts = []

export function start() {
  parts.texts = {set, add, choose, ask, ofOther}
  $('text-form').onsubmit = event => {
    event.preventDefault()
    if (add($('text').value)) $('text').value = ''
  }
  $('text').maxLength = state.about.limits.letters
  on('image', () => { ask(); suggest() })
  on('model', () => { ask(); suggest() })
  on('method versus', ask)
  document.addEventListener('server-back', () => { if (state.image && state.texts.length && !state.answer) ask() })
  draw()
}

// Whether all texts are those that another example suggested, so that this one may replace them.
const ofOther = example => {
  const others = state.about.gallery.filter(one => one.id !== example)
  return others.some(one => one.texts.join('\n') === state.texts.join('\n'))
}

// No map, but the Classes tab keeps its picture.
function erase() {
  if (state.tab !== 'segment') parts.stage.setMap(null)
}

export function set(texts, asks = true) {
  state.texts = texts
  state.chosen = 0
  state.threshold = null
  if (!texts.some(text => `${text}` === state.versus)) state.versus = null
  state.answer = null
  erase()
  draw()
  emit('texts')
  if (asks) ask()
}

// A text or an example.
export function add(given) {
  const text = isText(given) ? given.trim() : given
  if (!text) return false
  const known = state.texts.indexOf(text)
  if (known >= 0) { choose(known); return true }
  if (state.texts.length >= state.about.limits.texts) { say(`At most ${state.about.limits.texts} texts.`); return false }
  state.texts = [...state.texts, text]
  state.chosen = state.texts.length - 1
  state.threshold = null
  draw()
  emit('texts')
  ask()
  return true
}

function remove(number) {
  const [text] = state.texts.splice(number, 1)
  if (state.versus === `${text}`) state.versus = null
  state.chosen = Math.max(0, Math.min(state.chosen - (number < state.chosen ? 1 : 0), state.texts.length - 1))
  state.answer = null
  state.threshold = null
  if (!state.texts.length) erase()
  draw()
  emit('texts')
  ask()
  ;($('chips').querySelector('button') ?? $('text')).focus()
}

export function choose(number) {
  state.chosen = number
  state.threshold = null
  draw()
  emit('chosen')
}

export async function ask() {
  const signal = latest('explain'), asked = question()
  if (!state.image || !state.texts.length) {
    state.answer = null
    $('panel').setAttribute('aria-busy', false)
    draw()
    emit('answer')
    return
  }
  $('panel').setAttribute('aria-busy', true)
  try {
    const answer = await fresh(id => post('explain', {...asked, images: [id]}, signal), stamp)
    const [own] = answer.images
    state.answer = {...answer, maps: unpack(own.maps)}
    $('text-error').replaceChildren()
    if (answer.warnings.length) say(answer.warnings.join(' '))
  } catch (error) {
    if (error.name === 'AbortError') return
    state.answer = null
    erase()
    tell($('text-error'), error)
  }
  $('panel').setAttribute('aria-busy', false)
  draw()
  emit('answer')
}

function draw() {
  const answers = state.answer?.images[0].texts
  const focus = focused($('chips'))
  $('chips').replaceChildren(...state.texts.map((text, number) => {
    const own = answers?.[number]
    const badge = own?.doubt ? h('span', {class: 'badge'}, BADGES[own.doubt] ?? own.doubt) : null
    const sign = state.versus && own?.score >= 0 ? '+' : ''
    const score = own ? `${sign}${own.score.toFixed(3)}` : state.image ? '…' : ''
    const pick = h('button', {class: 'chip', title: isText(text) ? null : text, 'aria-pressed': number === state.chosen, onclick: () => choose(number)},
      isText(text) ? null : text.thumb,
      h('span', {class: 'chip-text'}, isText(text) ? own?.label ?? text : text.label), h('span', {class: 'score'}, score), badge)
    const away = h('button', {class: 'remove', 'aria-label': `Remove ${text}`, onclick: () => remove(number)}, '×')
    return h('li', {class: own?.doubt ? 'doubted' : ''}, pick, away)
  }))
  focus()
  $('no-texts').hidden = !state.image || state.texts.length > 0
  offer()
}

async function suggest() {
  const signal = latest('concepts')
  concepts = []
  offer()
  if (!state.image || !model().concepts) return
  try {
    concepts = (await fresh(id => post('concepts', {image: id, model: state.model}, signal))).concepts
  } catch (error) {
    if (error.name === 'AbortError') return
  }
  offer()
}

function offer() {
  const more = concepts.filter(({name}) => !state.texts.some(text => text === name || `${text}`.endsWith(` ${name}`)))
  const focus = focused($('concept-chips'))
  $('concepts').hidden = !more.length
  $('concept-chips').replaceChildren(...more.slice(0, 6).map(({name, weight}) =>
    h('li', {}, h('button', {class: 'chip ghost', title: `weight ${weight.toFixed(2)}`, onclick: () => add(name)}, `+ ${name}`))))
  focus()
}

// Called before buttons are drawn anew; what it returns puts the focus back on the one in the same place.
function focused(place) {
  const at = [...place.querySelectorAll('button')].indexOf(document.activeElement)
  return () => { if (at >= 0) [...place.querySelectorAll('button')].at(Math.min(at, place.querySelectorAll('button').length - 1))?.focus({preventScroll: true}) }
}
