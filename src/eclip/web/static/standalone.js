// The page that `export` writes: one image and its texts, without a server.

import {unpack} from './arrays.js'
import {Stage} from './stage.js'

const {answer, colors, size, shown} = JSON.parse(document.getElementById('data').textContent)
const [own] = answer.images, maps = unpack(own.maps)
const picture = document.getElementById('image'), chips = document.getElementById('chips')
const canvas = document.getElementById('canvas'), readout = document.getElementById('readout')
const stage = new Stage(canvas, {...colors, sequential: unpack(colors.sequential).values,
  diverging: unpack(colors.diverging).values})
const [rows, cols] = maps.shape.slice(1)
let chosen = shown.text

function choose(text, threshold = null) {
  chosen = text
  const one = own.texts[text], raw = maps.at(text)
  stage.setMap({values: one.flat ? raw.map(() => 0) : raw, raw, rows, cols, signed: answer.signed, doubt: one.doubt})
  stage.set({threshold: threshold ?? one.level})
  controls.threshold.value = threshold ?? one.level
  for (const [number, chip] of [...chips.children].entries())
    chip.firstChild.setAttribute('aria-pressed', number === text)
  document.getElementById('warnings').replaceChildren(...one.warnings.map(({sentence, advice}) => {
    const line = document.createElement('li')
    line.textContent = `${sentence[0].toUpperCase()}${sentence.slice(1)}. ${advice}`
    return line
  }))
}

const controls = {}
for (const [name, label] of [['alpha', 'Opacity'], ['threshold', 'Threshold']]) {
  const line = document.createElement('label'), slider = document.createElement('input')
  Object.assign(slider, {type: 'range', min: 0, max: 1, step: 0.005})
  slider.value = name === 'alpha' ? shown.alpha : 0.5
  slider.oninput = () => stage.set({[name]: Number(slider.value)})
  line.append(label, slider)
  document.getElementById('controls').append(line)
  controls[name] = slider
}

own.texts.forEach(({label, score, doubt}, text) => {
  const item = document.createElement('li'), chip = document.createElement('button')
  chip.className = 'chip'
  chip.textContent = `${label}  ${score.toFixed(3)}${doubt ? ` · ${doubt}` : ''}`
  chip.onclick = () => choose(text)
  item.append(chip)
  chips.append(item)
})

document.getElementById('command').textContent = own.repeat.command ?? ''
canvas.onpointermove = event => {
  const patch = stage.patchAt(event, rows, cols)
  if (!patch) return
  const {heat} = stage.valueAt(patch), value = stage.map.raw[patch.row * cols + patch.col]
  readout.textContent = `row ${patch.row}, column ${patch.col} · value ${value.toPrecision(4)} · heat ${heat.toFixed(2)}`
}
picture.decode().then(() => {
  stage.setImage(picture, ...size)
  stage.set({alpha: shown.alpha})
  choose(chosen, shown.threshold)
})
