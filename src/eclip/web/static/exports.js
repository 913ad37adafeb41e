// Files of what is shown, the command and the lines of Python that repeat it, and a link to the settings.

import {file} from './api.js'
import {$, download, say} from './dom.js'
import {chosenText, link, method, on, question, state, withImage} from './state.js'

let later = 0

export function start() {
  for (const format of ['png', 'npz', 'json', 'html']) $(`export-${format}`).onclick = () => save(format)
  for (const button of document.querySelectorAll('[data-copies]'))
    button.onclick = () => copy(() => $(button.dataset.copies).textContent, button)
  $('copy-link').onclick = () => copy(() => location.href.split('#')[0] + link(), $('copy-link'))
  on('answer chosen look tab versus', draw)
  on('answer chosen look tab versus method model', () => {  // browsers allow few of these, and a slider asks for many
    clearTimeout(later)
    later = setTimeout(() => history.replaceState(null, '', link()), 250)
  })
}

async function save(format) {
  if (!chosenText()) { say('Choose an image and a text first.'); return }
  if ($('panel').ariaBusy === 'true') { say('The answer to what is asked now is still on its way.'); return }
  const {texts, ...asked} = question()
  try {
    download(...await withImage(id => file('export', {...asked, texts, method: method(), image: id, text: state.chosen,
      format, threshold: state.threshold, alpha: state.alpha})))
  } catch (error) { say(`${error.message} ${error.hint ?? ''}`) }
}

function draw() {
  const one = chosenText()
  for (const format of ['png', 'npz', 'json', 'html']) $(`export-${format}`).disabled = !one
  if (!one) { $('command').textContent = $('python').textContent = 'Choose an image and a text first.'; return }
  const {command, python} = state.answer.images[0].repeat
  $('command').textContent = command ?? 'This answer has no command.'
  $('python').textContent = `${python}\n${shown(one.text)}`
  $('repeat-note').hidden = !state.image.example
}

// As `eclip.web.repeat` writes it for the picture. A string of JSON is one of Python too, but for pairs of surrogates, which
// are left as letters.
function shown(text) {
  const more = state.threshold === null ? '' : `, threshold=${state.threshold}`
  const name = JSON.stringify(text)
  return `r.overlay(0, ${name}${more}, alpha=${state.alpha}).save("overlay.png")\nmask = r.mask(0, ${name}${more})`
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text())
    say('Copied.')
  } catch {
    const range = document.createRange(), own = document.getElementById(button.dataset.copies)
    if (own) { range.selectNodeContents(own); getSelection().removeAllRanges(); getSelection().addRange(range) }
    say(own ? 'Selected: press Ctrl-C to copy.' : 'The browser does not allow copying here; the address bar has the link.')
  }
}
