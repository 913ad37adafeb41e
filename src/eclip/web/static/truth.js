// How well the map agrees with a mask that somebody drew.

import {form} from './api.js'
import {unpack} from './arrays.js'
import {$, busy, h, tell} from './dom.js'
import {chosenText, fresh, latest, method, on, question, stamp, state} from './state.js'

let mask = null, found = null

export function start() {
  $('mask-pick').onclick = () => $('mask-file').click()
  $('mask-file').onchange = () => { if ($('mask-file').files[0]) take($('mask-file').files[0]); $('mask-file').value = '' }
  on('truth', take)
  on('image', () => { mask = found = null; $('truth').replaceChildren(); $('mask-name').textContent = '' })
  on('answer chosen', () => { if (mask && state.tab === 'truth') score() })
  on('tab', () => { if (mask && state.tab === 'truth' && state.answer) score() })
  on('look', draw)
}

function take(file) {
  mask = file
  $('mask-name').textContent = file.name
  score()
}

async function score() {
  const place = $('truth')
  if (!chosenText()) { place.replaceChildren(h('p', {class: 'hint'}, 'Choose an image and a text first.')); return }
  busy(place, 'Comparing …')
  found = null
  try {
    const answer = await fresh(id => form('truth', [['mask', mask],
      ['asked', JSON.stringify({...question(), method: method(), image: id, text: state.chosen, format: 'json'})]], latest('truth')), () => `${state.chosen} ${stamp()}`)
    found = {...answer, curve: unpack(answer.curve).values}
    draw()
  } catch (error) { tell(place, error) }
}

function draw() {
  if (!found || state.tab !== 'truth' || !chosenText()) return
  const last = found.curve.length - 1, threshold = state.threshold ?? found.own.threshold
  const near = Math.round(threshold * last)  // the curve has no others
  const shown = state.threshold === null ? found.own : {iou: found.curve[near], threshold: near / last}
  const rows = [
    ['IoU at the threshold shown', shown.iou, `threshold ${shown.threshold.toFixed(3)}`],
    ['IoU at the usual threshold', found.own.iou, `threshold ${found.own.threshold.toFixed(3)}`],
    ['Best IoU', found.best.iou, `threshold ${found.best.threshold.toFixed(3)}`],
    ['mSC', found.contrast, 'mean heat on the object minus elsewhere; 0 is chance'],
    ['Energy', found.energy, `share of the heat on the object, which covers ${(100 * found.area).toFixed(0)} % of the image`],
    ['Pointing', found.pointing_game, found.pointing_game === 1 ? 'a hit: the maximum lies on the object' : found.pointing_game ? 'a tie' : 'a miss: the maximum lies elsewhere'],
  ]
  $('truth').replaceChildren(h('table', {}, h('tbody', {}, ...rows.map(([name, value, note]) => h('tr', {},
    h('th', {scope: 'row'}, name), h('td', {class: 'number'}, value.toFixed(3)), h('td', {class: 'hint'}, note))))), curve(threshold))
}

function curve(threshold) {
  const canvas = h('canvas', {class: 'curve', role: 'img', 'aria-label': 'IoU at each threshold', width: 640, height: 200})
  const pen = canvas.getContext('2d'), style = getComputedStyle(document.body)
  const x = share => 30 + 600 * share, y = share => 180 - 165 * share
  pen.font = '20px system-ui'
  pen.fillStyle = pen.strokeStyle = style.getPropertyValue('--faint')
  pen.strokeRect(30, 15, 600, 165)
  pen.fillText('IoU', 34, 36)
  pen.lineWidth = 3
  pen.strokeStyle = style.getPropertyValue('--accent')
  pen.beginPath()
  found.curve.forEach((value, i) => pen.lineTo(x(i / (found.curve.length - 1)), y(value)))
  pen.stroke()
  pen.lineWidth = 2
  pen.strokeStyle = style.getPropertyValue('--ink')
  pen.beginPath()
  pen.moveTo(x(threshold), 15)
  pen.lineTo(x(threshold), 180)
  pen.stroke()
  return canvas
}
