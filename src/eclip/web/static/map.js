// The map on the image: sliders, looks, the value under the pointer, and the health of the map in plain words.

import {$, h, percent, plain} from './dom.js'
import {chosenText, emit, isText, method, on, parts, state} from './state.js'

const NUMBERS = {
  presence: ['In the image', 'share of 289 other words that match this image less'],
  sensitivity: ['Follows the text', '0 if the map of nonsense looks the same'],
  polarity: ['Upright', 'below 0 if it is high where the patches match the text less'],
  artefacts: ['Isolated patches', 'share of the heat on single patches that are hot for any text'],
  emptiness: ['Empty image', 'how much the image looks like noise or one color to the model'],
}
export const patch = {row: 0, col: 0, on: false}

export function start() {
  const {stage} = parts, {look} = stage
  $('alpha').oninput = () => { state.alpha = Number($('alpha').value); stage.set({alpha: state.alpha}); emit('look') }
  $('threshold').oninput = () => { state.threshold = Number($('threshold').value); level(); emit('look') }
  $('own-level').onclick = () => { state.threshold = null; level(); emit('look') }
  $('otsu-level').onclick = () => { state.threshold = chosenText()?.otsu ?? null; level(); emit('look') }
  $('colors').onchange = () => stage.set({colors: $('colors').value})
  for (const name of ['outline', 'boxes', 'contours'])
    $(name).onchange = () => { stage.set({[name]: $(name).checked}); measure() }
  $('mask').onchange = () => stage.set({view: $('mask').checked ? 'mask' : 'heat'})
  $('alpha').value = state.alpha
  look.alpha = state.alpha
  $('versus').onchange = () => { state.versus = $('versus').value || null; emit('versus') }
  on('answer chosen tab', show)
  on('texts answer method model', choices)
  pointer()
  choices()
}

// Put the map of the chosen text on the stage, unless another tab draws there.
export function show() {
  const one = chosenText()
  $('map-controls').disabled = !one
  health(one)
  if (!['map', 'export', 'truth', 'compare'].includes(state.tab)) return
  if (!one) { parts.stage.setMap(null); measure(); return }
  const {maps, signed} = state.answer, [, rows, cols] = maps.shape, raw = maps.at(state.chosen)
  parts.stage.setMap({values: one.flat ? raw.map(() => 0) : raw, raw, rows, cols, signed, doubt: one.doubt})
  level()
  point()
}

function level() {
  const one = chosenText()
  if (!one) return
  const threshold = state.threshold ?? one.level
  $('threshold').value = threshold
  $('threshold-value').textContent = threshold.toFixed(2)
  $('own-level').textContent = `usual ${one.level.toFixed(2)}`
  $('otsu-level').textContent = `Otsu ${one.otsu.toFixed(2)}`
  $('own-level').setAttribute('aria-pressed', state.threshold === null)
  $('otsu-level').setAttribute('aria-pressed', state.threshold === one.otsu)
  parts.stage.set({threshold})
  measure()
}

let measuring = 0
function measure() {
  cancelAnimationFrame(measuring)
  measuring = requestAnimationFrame(() => {
    const {stage} = parts
    if (!stage.map || !chosenText()) { $('measured').textContent = ''; return }
    const count = $('boxes').checked ? stage.boxes().length : null
    $('measured').textContent = `The outline encloses ${percent(stage.area())} of the image`
      + (count === null ? '.' : `, in ${count} ${count === 1 ? 'region' : 'regions'}.`)
  })
}

// Which text the others are contrasted with: why A and not B.
function choices() {
  const select = $('versus'), able = parts.methods?.get(method())?.versus ?? true
  select.replaceChildren(h('option', {value: ''}, 'nothing'),
    ...state.texts.map(text => h('option', {value: text, selected: `${text}` === state.versus}, `${text}`)))
  select.disabled = !able || !state.texts.length
  select.title = able ? '' : `${method()} cannot explain the difference of two texts`
  if (!able && state.versus) { state.versus = null; emit('versus') }
}

function health(one) {
  const place = $('health')
  if (!one) { place.replaceChildren(); return }
  const lines = one.warnings.map(({sentence, advice}) => h('li', {class: 'warning'},
    h('strong', {}, `${sentence[0].toUpperCase()}${sentence.slice(1)}.`), ` ${advice}`))
  const quiet = h('li', {class: 'fine'}, isText(state.texts[state.chosen]) ? 'No check raised a doubt about this map.'
    : 'No check raised a doubt about this map; whether an example is in the image, none can tell.')
  const rows = Object.entries(one.health).map(([name, value]) => h('tr', {},
    h('th', {scope: 'row'}, NUMBERS[name][0]),
    h('td', {class: 'number'}, value === null ? 'unknown' : value.toFixed(2)),
    h('td', {}, NUMBERS[name][1])))
  const notes = state.answer.images[0].notes.map(note => h('p', {class: 'hint'}, `${note[0].toUpperCase()}${note.slice(1)}.`))
  const open = place.querySelector('details')?.open
  place.replaceChildren(h('h3', {}, 'Can this map be trusted?'), h('ul', {class: 'plain'}, ...(lines.length ? lines : [quiet])),
    h('details', {open}, h('summary', {}, 'The numbers'), h('table', {}, h('tbody', {}, ...rows)), ...notes))
}

// The patch under the pointer, or that the arrow keys chose.
function pointer() {
  const canvas = $('canvas')
  canvas.onpointermove = event => {
    const [rows, cols] = grid() ?? []
    const found = rows && parts.stage.patchAt(event, rows, cols)
    if (found) moved({...found, on: true})
  }
  canvas.onpointerleave = () => moved({on: false})
  canvas.onblur = () => moved({on: false})
  canvas.onclick = event => {
    const [rows, cols] = grid() ?? []
    const found = rows && parts.stage.patchAt(event, rows, cols)
    if (found) { moved({...found, on: true}); emit('patch-click', patch) }
  }
  canvas.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key]
    const [rows, cols] = grid() ?? []
    if (step && rows) {
      event.preventDefault()
      const clip = (value, most) => Math.max(0, Math.min(most - 1, value))
      const [down, right] = patch.on ? step : [0, 0]
      moved({row: clip(patch.row + down, rows), col: clip(patch.col + right, cols), on: true})
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault()
      if (patch.on) emit('patch-click', patch)
    } else if (event.key === 'Escape') emit('patch-click', null)
  }
}

export const grid = () => parts.stage.map ? [parts.stage.map.rows, parts.stage.map.cols] : state.answer?.images[0].grid ?? null

function moved(place) {
  Object.assign(patch, place)
  point()
  emit('patch', patch)
}

function point() {
  const {stage} = parts, frame = $('patch'), size = grid()
  frame.hidden = !patch.on || !size
  if (frame.hidden) { $('readout').textContent = ''; return }
  const [rows, cols] = size
  frame.style.cssText = `left:${100 * patch.col / cols}%;top:${100 * patch.row / rows}%;width:${100 / cols}%;height:${100 / rows}%`
  const at = patch.row * cols + patch.col, where = `row ${patch.row}, column ${patch.col}`
  if (!stage.map || patch.row >= stage.map.rows || patch.col >= stage.map.cols) { $('readout').textContent = where; return }
  const {value, heat} = stage.valueAt(patch), own = stage.map.raw ? stage.map.raw[at] : value
  $('readout').textContent = `${where} · value ${plain(own)} · heat ${heat.toFixed(2)}`
}
