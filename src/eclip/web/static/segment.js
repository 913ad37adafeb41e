// A class for each pixel, drawn on the image, with a legend and downloads.

import {file, post} from './api.js'
import {$, busy, download, h, percent, say, tell} from './dom.js'
import {fresh, isText, latest, on, parts, state, withImage} from './state.js'

let found = null

export function start() {
  $('segment-form').onsubmit = event => { event.preventDefault(); run() }
  on('texts', () => { if (!$('classes').dataset.touched) $('classes').value = state.texts.filter(isText).join('\n') })
  $('classes').oninput = () => { $('classes').dataset.touched = 'yes' }
  on('image model', forget)
  on('tab', () => { if (state.tab === 'segment') { parts.stage.setMap(null); if (found) draw() } })
  for (const format of ['png', 'coco', 'npz'])
    $(`segment-${format}`).onclick = async () => {
      try { download(...await withImage(id => file('segment/export', {...found.asked, image: id, format}))) }
      catch (error) { say(`${error.message} ${error.hint ?? ''}`) }
    }
}

function forget() {
  found = null
  $('segment').replaceChildren()
  $('segment-downloads').hidden = true
}

const lines = id => $(id).value.split('\n').map(line => line.trim()).filter(Boolean)
const asked = () => ({classes: lines('classes'), background: lines('background'), model: state.model})

async function run() {
  if (!state.image || !lines('classes').length) {
    $('segment').replaceChildren(h('p', {class: 'hint'}, state.image ? 'Write at least one class.' : 'Choose an image first.'))
    return
  }
  const own = asked()
  forget()
  if (state.tab === 'segment') parts.stage.setMap(null)
  busy($('segment'), 'Which class is each pixel? …')
  try {
    const answer = await fresh(async id => {
      const told = await post('segment', {...own, image: id}, latest('segment'))
      const bytes = Uint8Array.from(atob(told.picture), letter => letter.charCodeAt(0))
      return {...told, bitmap: await createImageBitmap(new Blob([bytes], {type: 'image/png'}))}
    })
    found = {...answer, asked: own}  // the files are of these classes, whatever is written above by then
    if (answer.warnings.length) say(answer.warnings.join(' '))
    draw()
  } catch (error) { tell($('segment'), error) }
}

function draw() {
  if (state.tab === 'segment') parts.stage.setPicture(found.bitmap)
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
