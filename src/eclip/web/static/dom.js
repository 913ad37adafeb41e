// Small helpers for elements; texts are always set as text, never as HTML.

export const $ = id => document.getElementById(id)

// An element: h('button', {class: 'chip', onclick: run, 'aria-pressed': true}, 'a dog')
export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value)
    else if (name === 'value') made.value = value
    else if (value !== false && value != null) made.setAttribute(name, value === true && !name.startsWith('aria-') ? '' : value)
  }
  made.append(...children.flat().filter(one => one != null))
  return made
}

let closing = 0
// A line at the bottom of the page for a few seconds.
export function say(message) {
  const line = $('toast')
  line.textContent = message
  line.hidden = false
  clearTimeout(closing)
  closing = setTimeout(() => { line.hidden = true }, 6000)
}

// Replace the content of a place by an error's sentences.
export function tell(place, error) {
  if (error.name === 'AbortError') return
  place.replaceChildren(h('p', {class: 'error', role: 'alert'}, error.message, error.hint ? ` ${error.hint}` : ''))
}

export function busy(place, sentence) {
  place.replaceChildren(h('p', {class: 'busy', role: 'status'}, h('span', {class: 'spinner', 'aria-hidden': true}), sentence))
}

export function download(blob, name) {
  const link = h('a', {href: URL.createObjectURL(blob), download: name})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}

export const percent = share => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`

// Up to four digits, without an exponent where it can be helped.
export const plain = value => Number.isFinite(value) ? Number(value.toPrecision(4)).toString() : '–'
