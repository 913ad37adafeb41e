// What single layers and heads do: where the first token looks, and what each adds to the score.

import {post} from './api.js'
import {unpack} from './arrays.js'
import {$, busy, h, tell} from './dom.js'
import {fresh, isText, latest, on, parts, state} from './state.js'

let cache = new Map()

export function start() {
  on('tab chosen answer', load)
  on('image model', () => { cache = new Map() })
  for (const id of ['layer-what', 'layer', 'layer-head']) $(id).oninput = load
}

async function load() {
  if (state.tab !== 'layers') return
  const what = $('layer-what').value, text = state.texts[state.chosen], place = $('layers-said')
  if (!state.image) { place.textContent = 'Choose an image first.'; return }
  if (what === 'layers' && !isText(text)) {
    place.textContent = text ? 'What adds to the score is shown for texts: choose one.' : 'Add a text first.'
    parts.stage.setMap(null)
    return
  }
  const keyNow = () => $('layer-what').value === 'layers' ? `layers ${state.texts[state.chosen]}` : 'attention'
  const key = keyNow()
  if (!cache.has(key)) {
    busy(place, 'Looking at all layers …')
    try {
      const signal = latest('layers'), asked = {model: state.model, ...(what === 'layers' ? {text} : {})}
      const answer = await fresh(id => post(what, {...asked, image: id}, signal), keyNow)
      cache.set(key, unpack(answer[what]))
      if (state.tab !== 'layers') return
    } catch (error) {
      if (error.name === 'AbortError' || state.tab !== 'layers') return
      parts.stage.setMap(null)
      tell(place, error)
      $('layer-sliders').disabled = true
      return
    }
  }
  draw(cache.get(key), what, text)
}

function draw(found, what, text) {
  const [layers, heads, rows, cols] = found.shape
  $('layer-sliders').disabled = false
  $('layer').max = layers
  $('layer').disabled = layers === 1
  $('layer-head').max = heads
  $('layer-head').disabled = heads === 1
  const layer = Math.min(layers, Number($('layer').value)), head = Math.min(heads, Number($('layer-head').value))
  const chosen = (count, number) => number === 0 ? [...Array(count).keys()] : [number - 1]
  const values = new Float32Array(rows * cols)
  const some = chosen(layers, layers === 1 ? 1 : layer).flatMap(l => chosen(heads, head).map(k => [l, k]))
  for (const place of some) found.at(...place).forEach((value, at) => { values[at] += value })
  if (what === 'attention') for (let i = 0; i < values.length; i++) values[i] /= some.length
  parts.stage.setMap({values, rows, cols, signed: what === 'layers'})
  parts.stage.set({outline: false})
  const all = what === 'layers' ? 'all together' : 'the mean of all'
  $('layer-value').textContent = layers === 1 ? 'the only one' : layer ? `${layer - 1} of 0 to ${layers - 1}` : all
  $('head-value').textContent = heads === 1 ? 'the only one' : head ? `${head - 1} of 0 to ${heads - 1}` : all
  const sum = values.reduce((total, value) => total + value, 0)
  const one = layers === 1 ? 'This tower has one layer of attention. ' : ''
  $('layers-said').replaceChildren(h('p', {class: 'hint'}, one + (what === 'layers'
    ? `These patches add ${sum.toFixed(4)} to the score of “${text}”: amber adds, blue takes away.`
    : 'How much the token that becomes the image’s feature looks at each patch, whatever the text.')))
}
