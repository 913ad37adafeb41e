// What the page shows, in one object; parts listen to changes by name.

export const state = {
  about: null, image: null, texts: [], chosen: 0, model: null, method: null, versus: null,
  answer: null, tab: 'map', alpha: 0.85, threshold: null,
}
export const parts = {}  // stage, and what others need of each part

const listeners = {}
export function on(names, listener) {
  for (const name of names.split(' ')) (listeners[name] ??= []).push(listener)
}
export function emit(name, detail) {
  for (const listener of listeners[name] ?? []) listener(detail)
}

export const model = () => state.about.models.find(one => one.name === state.model)
export const method = () => state.method ?? model().default_method
// The answer for the chosen text: of the only image.
export const chosenText = () => state.answer?.images[0].texts[state.chosen] ?? null

// Whether it is a text, and not an example.
export const isText = query => typeof query === 'string'

// The fields of a request about the image and all texts.
export function question() {
  return {texts: state.texts, model: state.model, method: method(), versus: state.versus}
}

// What changes with the question, and not with the ids of images that were sent again.
export const keys = () => state.texts.map(text => text.key ?? text)
export const stamp = () => JSON.stringify({...question(), texts: keys()})

// A new signal for a kind of request; the earlier one of this kind is aborted.
const running = {}
export function latest(kind) {
  running[kind]?.abort()
  running[kind] = new AbortController()
  return running[kind].signal
}

// Run a request; if the server has forgotten the image, or that of an example, send them again first.
export async function withImage(ask) {
  const {image} = state, needed = new Set([image, ...state.texts.map(text => text.image)].filter(one => one?.file))
  try {
    return await ask(image.id)
  } catch (error) {
    if (error.type !== 'UnknownImage' || !needed.size) throw error
    for (const one of needed) one.id = await parts.image.upload(one.file)
    return ask(image.id)
  }
}

// As `withImage`, for what is drawn: what comes after image, model, or the result of `now` has changed counts as aborted.
export async function fresh(ask, now = () => '') {
  const {image, model} = state, before = now()
  const isFresh = () => state.image === image && state.model === model && now() === before
  try {
    const answer = await withImage(ask)
    if (isFresh()) return answer
  } catch (error) {
    if (isFresh()) throw error
  }
  throw new DOMException('something else is shown by now', 'AbortError')
}

// The settings as the end of an address: everything but examples and an image that was dropped.
export function link() {
  const found = new URLSearchParams()
  if (state.image?.example) found.set('image', state.image.example)
  const texts = state.texts.filter(isText), shown = texts.indexOf(state.texts[state.chosen])
  for (const text of texts) found.append('text', text)
  if (shown > 0) found.set('shown', shown)
  if (state.model !== state.about.models[0].name) found.set('model', state.model)
  if (state.method) found.set('method', state.method)
  if (texts.includes(state.versus)) found.set('versus', state.versus)
  if (state.threshold !== null) found.set('threshold', state.threshold)
  if (state.alpha !== 0.85) found.set('alpha', state.alpha)
  if (state.tab !== 'map') found.set('tab', state.tab)
  return `#${found}`
}
