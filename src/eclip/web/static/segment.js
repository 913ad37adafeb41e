// A class for each pixel, drawn on the image, with a legend and downloads.

import {file, post} from './api.js'
import {$, busy, download, h, percent, say, tell} from './dom.js'
import {latest, on, parts, state, withImage} from './state.js'

let found = null

export function start() {
  $('segment-form').onsubmit = event => { event.preventDefault(); run() }
  on('texts', () => { if (!$('classes').dataset.touched) $('classes').value = state.texts.join('\n') })
  $('classes').oninput = () => { $('classes').dataset.touched = 'yes' }
  on('image model', () => { found = null; $('segment').replaceChildren() })
  on('tab', () => { if (state.tab === 'segment') { parts.stage.setMap(null); if (found) draw() } })
  for (const format of ['png', 'coco', 'npz'])
    $(`segment-${format}`).onclick = async () => {
      try { download(...await withImage(id => file('segment/export', {...asked(), image: id, format}))) }
      catch (error) { say(`${error.message} ${error.hint ?? ''}`) }
    }
}

const lines = id => $(id).value.split('\n').map(line => line.trim()).filter(Boolean)
const asked = () => ({classes: lines('classes'), background: lines('background'), model: state.model})

async function run() {
  if (!state.image || !lines('classes').length) {
    $('segment').replaceChildren(h('p', {class: 'hint'}, state.image ? 'Write at least one class.' : 'Choose an image first.'))
    return
  }
  busy($('segment'), 'Which class is each pixel? …')
  try {
    const answer = await withImage(id => post('segment', {...asked(), image: id}, latest('segment')))
    const bytes = Uint8Array.from(atob(answer.picture), letter => letter.charCodeAt(0))
    found = {...answer, bitmap: await createImageBitmap(new Blob([bytes], {type: 'image/png'}))}
    draw()
  } catch (error) { tell($('segment'), error) }
}

function draw() {
  parts.stage.setPicture(found.bitmap)
  const rows = Object.entries(found.areas).map(([name, share]) => {
    const [red, green, blue] = found.colors[found.classes.indexOf(name)]
    const swatch = h('span', {class: 'swatch', 'aria-hidden': true})
    swatch.style.background = `rgb(${red} ${green} ${blue})`
    return h('tr', {}, h('th', {scope: 'row'}, swatch, name), h('td', {class: 'number'}, percent(share)),
      h('td', {class: 'hint'}, found.doubts[name] ?? ''))
  })
  $('segment').replaceChildren(h('table', {}, h('tbody', {}, ...rows)),
    h('p', {class: 'hint'}, `By ${found.method}. Each pixel gets one of the classes, whether it is any of them or not; words for the background catch the rest.`),
    h('pre', {class: 'code'}, found.repeat.command ?? ''))
  $('segment-downloads').hidden = false
}
