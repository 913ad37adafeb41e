// Methods side by side: a row for each, a column for each text, with cost and gaps.

import {post} from './api.js'
import {unpack} from './arrays.js'
import {$, busy, h, say, tell} from './dom.js'
import {rangeOf} from './paint.js'
import {fresh, keys, latest, on, parts, state} from './state.js'
import {Stage} from './stage.js'

const SIDE = 220
let found = null

export function start() {
  $('compare-run').onclick = run
  $('compare-scale').onchange = draw
  on('image texts model versus', () => { found = null; waiting() })
  on('tab', () => { if (state.tab === 'compare' && !found) waiting() })
  on('methods', picks)
}

function picks() {
  $('compare-methods').replaceChildren(...[...parts.methods.values()].map(one => h('label', {title: one.summary},
    h('input', {type: 'checkbox', value: one.name, checked: !one.many_passes}),
    one.name, one.many_passes ? h('span', {class: 'hint', title: 'It takes hundreds of forward passes.'}, ' slow') : null)))
}

function waiting() {
  $('compare').replaceChildren(h('p', {class: 'hint'},
    state.texts.length ? 'Choose methods and press Compare.' : 'Add a text first.'))
}

async function run() {
  if (!state.image || !state.texts.length) return waiting()
  const picked = [...$('compare-methods').querySelectorAll('input:checked')].map(box => box.value)
  const methods = picked.filter(name => !state.versus || parts.methods.get(name).versus)
  const others = picked.filter(name => !methods.includes(name))
    .map(method => ({method, why: 'it cannot explain the difference of two texts'}))
  if (!methods.length) {
    const kind = others.length ? 'method that can explain the difference of two texts' : 'method'
    $('compare').replaceChildren(h('p', {class: 'hint'}, `Choose at least one ${kind}.`))
    return
  }
  const asked = {texts: state.texts, methods, model: state.model, versus: state.versus}
  busy($('compare'), `${methods.length} methods on one image …`)
  try {
    $('compare-choice').open = false
    found = await fresh(id => post('compare', {...asked, image: id}, latest('compare')),
      () => JSON.stringify([keys(), state.versus]))
    found.rows.push(...others)
    if (found.warnings.length) say(found.warnings.join(' '))
    draw()
  } catch (error) { tell($('compare'), error) }
}

function draw() {
  if (!found) return
  const head = h('tr', {}, h('th', {scope: 'col'}, 'method'), h('th', {scope: 'col', class: 'number'}, 'cost'),
    ...found.texts.map((text, number) => h('th', {scope: 'col'}, text, h('br'), h('span', {class: 'score'}, found.scores[number]?.toFixed(3) ?? ''))))
  const rows = found.rows.map(row => row.why === null ? shown(row) : h('tr', {},
    h('th', {scope: 'row'}, row.method), h('td', {class: 'number'}, '–'),
    h('td', {colspan: found.texts.length, class: 'hint'}, `not applicable: ${row.why}`)))
  $('compare').replaceChildren(h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Comparison'},
    h('table', {class: 'grid'}, h('thead', {}, head), h('tbody', {}, ...rows))),
  h('p', {class: 'hint'}, 'Cost: time of the method in forward passes of the model, its own included; the best of several runs. Click a map to look at it.'))
}

function shown(row) {
  const maps = unpack(row.maps), [texts, rows, cols] = maps.shape, every = maps.values
  const shared = $('compare-scale').value === 'row'
  const peak = every.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  const cells = found.texts.map((text, number) => {
    const canvas = h('canvas', {'aria-hidden': true})
    small(canvas, {values: maps.at(number), rows, cols, signed: row.signed, doubt: row.doubts[number],
      peak: shared ? peak : null, range: shared ? rangeOf(every) : undefined}, row.levels[number])
    return h('td', {}, h('button', {class: 'cell', 'aria-label': `Show ${row.method} for ${text}`, onclick: () => {
      parts.methods.select(row.method)
      parts.texts.choose(number)
    }}, canvas))
  })
  return h('tr', {}, h('th', {scope: 'row'}, row.method), h('td', {class: 'number'}, `${row.cost.toFixed(2)}×`), ...cells)
}

function small(canvas, map, threshold) {
  const {width, height} = state.image.view, scale = SIDE / Math.max(width, height)
  const stage = new Stage(canvas, parts.colors)
  stage.setImage(parts.bitmap, Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)))
  stage.set({threshold, outline: !map.range})
  stage.setMap(map)
}
