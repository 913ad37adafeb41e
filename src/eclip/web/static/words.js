// Words and patches of a text, linked: sent once as arrays, so that pointing asks nobody.

import {post} from './api.js'
import {unpack} from './arrays.js'
import {$, busy, h, percent, plain, tell} from './dom.js'
import {patch} from './map.js'
import {fresh, isText, latest, on, parts, state} from './state.js'

const STRONGER = 3  // faint words are drawn up to this much stronger
let linked = null, like = null, held = null  // pairs of a text; similarities of patches; what is pinned

export function start() {
  on('tab chosen answer', load)
  on('image model', () => { linked = like = held = null })
  on('patch', () => { if (state.tab === 'words' && linked && !held) paint() })
  on('patch-click', place => { if (state.tab === 'words') pin(place && {row: place.row, col: place.col}) })
}

async function load() {
  const text = state.texts[state.chosen], place = $('words')
  if (state.tab !== 'words') return
  if (!state.image || !text) { place.replaceChildren(h('p', {class: 'hint'}, 'Add a text first; a whole sentence shows most.')); return }
  if (!isText(text)) { place.replaceChildren(h('p', {class: 'hint'}, 'An example has no words: choose a text.')); parts.stage.setMap(null); return }
  if (linked?.text === text && linked.image === state.image.id && linked.model === state.model) { draw(); return }
  held = null
  const signal = latest('words'), asked = {text, model: state.model}
  busy(place, 'Which words count, and which patches belong to which word? This takes a few seconds …')
  parts.stage.setMap(null)
  try {
    const image = state.image.id
    const [relevance, pairs] = await fresh(id => Promise.all([
      post('words', {...asked, image: id, method: 'leave_one_out'}, signal), post('interactions', {...asked, image: id}, signal).catch(apart)]), () => state.texts[state.chosen])
    if (pairs.why) {
      place.replaceChildren(...bars(relevance.words), h('p', {class: 'hint'}, `Patches cannot be linked to words here: ${pairs.why}`))
      return
    }
    linked = {text, image, ...asked, relevance, words: pairs.words, values: unpack(pairs.values)}
    linked.sums = pairs.words.map((_, word) => linked.values.at(word).reduce((sum, value) => sum + value, 0))
    linked.peak = linked.values.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    draw()
  } catch (error) {
    if (error.name !== 'AbortError' && state.tab === 'words') tell(place, error)
  }
}

// Pairs need attention over patches, which not every model has; the words alone do not.
function apart(error) {
  if (error.status !== 422) throw error
  return {why: error.message}
}

function bars(shares) {
  return [h('h3', {}, 'Without the word'),
    h('ul', {class: 'bars'}, ...shares.map(({word, share}) => h('li', {},
      h('span', {class: 'bar-word'}, word), barOf(share), h('span', {class: 'number'}, percent(share))))),
    h('p', {class: 'hint'}, 'How much the score falls without the word, as a share of all falls.')]
}

function draw() {
  $('words').replaceChildren(
    h('p', {class: 'sentence', id: 'sentence'}, ...linked.words.flatMap((word, number) => [h('button', {
      class: 'word', onmouseenter: () => show(number), onmouseleave: () => show(null), onfocus: () => show(number),
      onblur: () => show(null), onclick: () => pin({word: number}),
    }, word), ' '])),
    h('p', {class: 'hint', id: 'words-now'}),
    h('p', {class: 'hint'}, 'What a word and a patch add to the score together; amber adds, blue takes away, and the patches of faint words are drawn up to three times stronger.'),
    ...bars(linked.relevance.words))
  paint()
  show(null)
}

function barOf(share) {
  const bar = h('span', {class: share < 0 ? 'bar minus' : 'bar'})
  bar.style.setProperty('--share', Math.abs(share))
  return bar
}

// The patches of a word on the image; null = of what is pinned, or of all words together.
function show(word) {
  if (state.tab !== 'words' || !linked) return
  if (word === null && held?.row !== undefined) return alike(held)
  const shown = word ?? held?.word ?? null, [words, rows, cols] = linked.values.shape
  let values, peak = linked.peak
  if (shown === null) {
    values = new Float32Array(rows * cols)
    for (let i = 0; i < words; i++) linked.values.at(i).forEach((value, at) => { values[at] += value })
    peak = null
  } else {
    values = linked.values.at(shown)
    peak = Math.max(peak / STRONGER, values.reduce((most, value) => Math.max(most, Math.abs(value)), 0))
  }
  parts.stage.setMap({values, rows, cols, signed: true, peak})
  parts.stage.set({outline: false})
  mark(shown)
  $('words-now').textContent = shown === null
    ? 'Point at a word to see its patches; point at the image to see the words of a patch; click to pin.'
    : `“${linked.words[shown]}” and all patches together add ${plain(linked.sums[shown])} to the score.`
}

function mark(word) {
  ;[...$('sentence').querySelectorAll('button')].forEach((button, number) => {
    button.classList.toggle('held', number === word)
    button.setAttribute('aria-pressed', held?.word === number)
  })
}

// Color the words: by relevance, or by what they answer to the patch under the pointer.
function paint() {
  const buttons = [...$('sentence')?.querySelectorAll('button') ?? []]
  if (!buttons.length) return
  const [, rows, cols] = linked.values.shape
  const inside = patch.on && patch.row < rows && patch.col < cols
  const values = inside ? linked.words.map((_, word) => linked.values.at(word)[patch.row * cols + patch.col])
    : linked.sums
  const peak = inside ? linked.peak : Math.max(...values.map(Math.abs))
  buttons.forEach((button, number) => {
    button.style.setProperty('--share', Math.min(1, Math.abs(values[number]) / (peak || 1)))
    button.classList.toggle('minus', values[number] < 0)
    button.title = plain(values[number])
  })
}

function pin(what) {
  if (!linked || !$('sentence')) return  // no pairs, or not yet
  const same = held && what && (held.word === what.word && held.row === what.row && held.col === what.col)
  held = same ? null : what
  if (held?.row !== undefined) alike(held)
  else show(null)
  paint()
}

// How similar all patches are to one.
async function alike({row, col}) {
  const key = `${state.image.id} ${state.model}`
  try {
    if (like?.key !== key) {
      const {similarity} = await fresh(id => post('similarity', {image: id, model: state.model}, latest('similarity')), () => held)
      like = {key, values: unpack(similarity)}
    }
  } catch (error) {
    if (error.name !== 'AbortError') $('words-now').textContent = `${error.message} ${error.hint ?? ''}`
    return
  }
  if (held?.row !== row || held.col !== col || state.tab !== 'words') return
  const [rows, cols] = like.values.shape
  parts.stage.setMap({values: like.values.at(row, col), rows, cols, signed: false})
  mark(null)
  $('words-now').textContent = `How similar each patch is to the one in row ${row}, column ${col}. Click it again to go back.`
}
