// The image: dropped, pasted, picked, or of the gallery.

import {blob, form, get} from './api.js'
import {$, h, say, tell} from './dom.js'
import {emit, latest, parts, state} from './state.js'

const thumbnails = new Map()

export function start() {
  parts.image = {upload, show, showExample}
  const picker = $('file')
  for (const button of document.querySelectorAll('.pick')) button.onclick = () => picker.click()
  picker.onchange = () => { if (picker.files[0]) drop(picker.files[0]); picker.value = '' }
  addEventListener('paste', event => {
    const file = [...event.clipboardData?.files ?? []].find(one => one.type.startsWith('image/'))
    const isText = event.target.closest?.('[type=text], textarea') && event.clipboardData?.types.includes('text/plain')
    if (file && !isText) { event.preventDefault(); drop(file) }
  })
  let inside = 0
  addEventListener('dragenter', () => { inside++; document.body.classList.add('dragging') })
  addEventListener('dragleave', () => { if (--inside <= 0) document.body.classList.remove('dragging') })
  addEventListener('dragover', event => event.preventDefault())
  addEventListener('drop', event => {
    event.preventDefault()
    inside = 0
    document.body.classList.remove('dragging')
    const file = event.dataTransfer?.files[0]
    if (!file) return
    if (event.target.closest?.('#truth-drop')) emit('truth', file)
    else drop(file)
  })
  if (!state.about.uploads) for (const one of document.querySelectorAll('.uploads')) one.hidden = true
  for (const place of [$('gallery'), $('strip')]) place.replaceChildren(...state.about.gallery.map(pictureOf))
}

function pictureOf(one) {
  const image = h('img', {alt: one.alt, width: 120, height: 90})
  fill(one, image)
  document.addEventListener('server-back', () => fill(one, image))
  const title = one.license ? `${one.alt}. Photo: ${one.credit}, ${one.license}, resized` : one.alt
  return h('li', {}, h('button', {class: 'thumb', title, onclick: () => showExample(one.id)}, image))
}

async function fill(one, image) {
  try {
    if (!thumbnails.has(one.id)) thumbnails.set(one.id, blob(`images/${one.id}?thumbnail=true`).then(URL.createObjectURL))
    image.src = await thumbnails.get(one.id)
  } catch { thumbnails.delete(one.id) }
}

async function drop(file) {
  if (!state.about.uploads) return say('This server shows a folder and takes no uploads.')
  const most = state.about.limits.file_bytes
  if (file.size > most) return failed({message: `${file.name} is larger than ${most >> 20} MiB.`, hint: 'Downscale it.'})
  $('drop-text').textContent = `Sending ${file.name} …`
  try {
    const id = await upload(file, latest('image'))
    await show(id, file)
  } catch (error) { failed(error) }
  $('drop-text').textContent = 'Drop an image here, or paste one'
}

function failed(error) {
  if (error.name === 'AbortError') return
  if (state.image) say(`${error.message} ${error.hint ?? ''}`)
  else tell($('image-error'), error)
}

export async function upload(file, signal) {
  const named = file.name ? file : new File([file], 'image.png', {type: file.type})
  return (await form('images', [['files', named]], signal)).images[0].id
}

export async function showExample(id, linked = false) {
  const one = state.about.gallery.find(picture => picture.id === id)
  if (!one) return
  try {
    await show(id, null, id, linked)
    if (!state.texts.length && one.texts.length) parts.texts.set([...one.texts])
  } catch (error) { failed(error) }
}

// Show an image that the server holds.
export async function show(id, file = null, example = null, linked = false) {
  const signal = latest('image'), first = !state.image
  const [about, data] = await Promise.all([get(`images/${id}/about`, signal), blob(`images/${id}`, signal)])
  const picture = await createImageBitmap(data, {colorSpaceConversion: 'none'})
  $('image-error').replaceChildren()
  state.image = {...about, file, example}
  state.answer = null
  if (example && !linked && state.texts.length && parts.texts.ofOther(example)) parts.texts.set([], false)
  parts.bitmap = picture
  parts.stage.setImage(picture, about.view.width, about.view.height)
  document.querySelector('.stage').style.setProperty('--aspect', about.width / about.height)
  const one = state.about.gallery.find(other => other.id === example)
  $('canvas').setAttribute('aria-label', `${one?.alt ?? about.name}; arrow keys move over the patches`)
  $('image-name').textContent = `${about.name} · ${about.width} × ${about.height}`
  const credit = $('credit')
  credit.hidden = !one?.credit
  if (one?.credit) credit.replaceChildren('photo: ', h('a', {href: one.credit, rel: 'noreferrer', target: '_blank'}, 'Flickr'), `, ${one.license}, resized`)
  document.body.classList.add('has-image')
  for (const place of [$('gallery'), $('strip')])
    [...place.querySelectorAll('button')].forEach((button, i) =>
      button.setAttribute('aria-pressed', state.about.gallery[i].id === example))
  emit('image')
  if (first) $('text').focus({preventScroll: true})
}
