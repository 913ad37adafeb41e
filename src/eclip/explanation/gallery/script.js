const one = id => document.getElementById(id)
const read = id => JSON.parse(one(id).textContent)
const style = read('style'), doubts = read('doubts'), TOP = style.levels - 1
const make = (parent, tag, name, text) => {
  const made = parent.appendChild(document.createElement(tag))
  if (name) made.className = name
  if (text !== undefined) made.textContent = text
  return made
}

// Every map of every image: what the list says that is readable without this script.
const items = [...document.querySelectorAll('#source article')].flatMap((article, image) =>
  [...article.querySelectorAll('li')].map(li => {
    const { text, label, score, presence, doubt, area, warnings, rows, cols, edge, map } = li.dataset
    return {
      image, name: article.querySelector('h2').textContent, source: article.querySelector('h2').title,
      picture: article.querySelector('img'), text: Number(text), label, score: Number(score),
      presence: presence === '' ? null : Number(presence), doubt: Number(doubt), area: Number(area), warnings,
      rows: Number(rows), cols: Number(cols), edge: Number(edge), map
    }
  }))
const ratio = item => item.picture.width / item.picture.height
const percent = share => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`
const told = item => [
  `${item.name}, map of “${item.label}”`, `score ${item.score.toFixed(3)}`,
  ...(item.presence === null ? [] : [`presence ${item.presence.toFixed(2)}`]),
  ...(item.doubt ? [doubts[item.doubt]] : [])
].join(', ')

// Drawing: as eclip.render.paint, with the same tables of colors.
const loaded = async source => {
  const picture = new Image()
  picture.src = source
  await picture.decode()
  return picture
}
const pixels = (picture, width, height) => {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext('2d', { willReadFrequently: true })
  context.imageSmoothingQuality = 'high'
  context.drawImage(picture, 0, 0, width, height)
  return context.getImageData(0, 0, width, height)
}
const tables = Promise.all(style.styles.map(async ({ table }) => {
  const picture = await loaded(`data:image/png;base64,${table}`)
  return pixels(picture, picture.width, picture.height).data
}))
const decoded = new Map()
const decode = item => {
  const found = decoded.get(item.image) || loaded(item.picture.src)
  decoded.delete(item.image)
  decoded.set(item.image, found)
  if (decoded.size > 40) decoded.delete(decoded.keys().next().value)
  return found
}
const spread = (item, width, height) => { // bilinear, corners not aligned
  const cells = Uint8Array.from(atob(item.map), letter => letter.charCodeAt(0)), filled = new Float32Array(width * height)
  const places = (count, of) => Array.from({ length: count }, (_, i) => {
    const at = Math.min(of - 1, Math.max(0, (i + 0.5) * of / count - 0.5)), low = Math.floor(at)
    return [low, Math.min(low + 1, of - 1), at - low]
  })
  const across = places(width, item.cols)
  places(height, item.rows).forEach(([top, bottom, down], y) => across.forEach(([left, right, share], x) => {
    const mix = row => cells[row * item.cols + left] * (1 - share) + cells[row * item.cols + right] * share
    filled[y * width + x] = mix(top) * (1 - down) + mix(bottom) * down
  }))
  return filled
}
const paint = async (canvas, item, width, height, mapped) => {
  const [picture, all] = await Promise.all([decode(item), tables])
  const drawn = pixels(picture, width, height), data = drawn.data
  if (mapped) {
    const heat = spread(item, width, height), table = all[item.doubt], { alpha } = style.styles[item.doubt]
    const stroke = Math.max(1.25, Math.max(width, height) / 420)
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const gray = Math.round((299 * data[4 * at] + 587 * data[4 * at + 1] + 114 * data[4 * at + 2]) / 1000)
        const color = 4 * (Math.round(heat[at]) * 256 + gray)
        const slope = Math.hypot(
          (heat[x + 1 < width ? at + 1 : at] - heat[x ? at - 1 : at]) / (x && x + 1 < width ? 2 : 1),
          (heat[y + 1 < height ? at + width : at] - heat[y ? at - width : at]) / (y && y + 1 < height ? 2 : 1))
        const far = slope ? Math.abs(heat[at] - item.edge) / slope : Infinity
        const line = item.edge < 0 ? 0 : alpha * Math.min(1, Math.max(0, stroke / 2 + 0.5 - far))
        for (let c = 0; c < 3; c++) data[4 * at + c] = table[color + c] + line * (style.ink[c] - table[color + c])
      }
    }
  }
  return () => { // all at once, so that a canvas never shows half
    canvas.width = width
    canvas.height = height
    canvas.getContext('2d').putImageData(drawn, 0, 0)
  }
}

// The grid. A canvas is drawn when it comes near, and emptied when it is far.
const grid = one('grid'), controls = { text: one('text'), sort: one('sort'), presence: one('presence') }
let shown = [], current = 0
const near = new IntersectionObserver(entries => entries.forEach(async ({ target, isIntersecting }) => {
  const item = items[target.dataset.item], canvas = target.querySelector('canvas')
  target.dataset.near = isIntersecting
  if (!isIntersecting) {
    canvas.width = canvas.height = 0
    return
  }
  const scale = Math.min(1, target.clientWidth * devicePixelRatio / Math.max(item.picture.width, item.picture.height))
  const sides = [item.picture.width, item.picture.height].map(side => Math.max(1, Math.round(side * scale)))
  const show = await paint(canvas, item, ...sides, true)
  if (target.dataset.near === 'true') show()
}), { rootMargin: '600px' })
const card = (item, place) => {
  const button = document.createElement('button')
  button.type = 'button'
  button.className = `card doubt${item.doubt}`
  button.dataset.item = place
  button.setAttribute('aria-label', told(item))
  const frame = make(button, 'span', 'frame'), canvas = make(frame, 'canvas')
  canvas.style.aspectRatio = `${item.picture.width} / ${item.picture.height}`
  if (ratio(item) < 4 / 3) canvas.classList.add('tall')
  const line = make(button, 'span', 'line')
  make(line, 'b', '', item.label)
  make(line, 'span', 'score', item.score.toFixed(3))
  const under = make(button, 'span', 'line under')
  make(under, 'span', 'name', item.name)
  if (item.presence !== null) {
    const bar = make(under, 'span', 'bar')
    make(bar, 'i').style.width = `${100 * item.presence}%`
    bar.title = `presence ${item.presence.toFixed(2)}`
  }
  if (item.doubt) make(button, 'span', 'doubt', doubts[item.doubt])
  return button
}
const cards = items.map(card)
const show = () => {
  const text = controls.text.value, sort = controls.sort.value, least = Number(controls.presence?.value || 0)
  const kept = items.map((item, place) => ({ item, place })).filter(({ item }) =>
    (text === '' || item.text === Number(text)) && (least === 0 || (item.presence !== null && item.presence >= least)))
  if (sort) kept.sort((a, b) => (b.item[sort] ?? -2) - (a.item[sort] ?? -2))
  shown = kept.map(({ place }) => place)
  near.disconnect()
  cards.forEach(button => { button.tabIndex = -1; button.dataset.near = false; button.querySelector('canvas').width = 0 })
  grid.replaceChildren(...shown.map(place => cards[place]))
  shown.forEach(place => near.observe(cards[place]))
  current = 0
  if (shown.length) cards[shown[0]].tabIndex = 0
  const images = new Set(shown.map(place => items[place].image)).size, all = items.length
  one('count').textContent = shown.length === all ? `${all.toLocaleString('en')} maps`
    : `${shown.length.toLocaleString('en')} of ${all.toLocaleString('en')} maps, ${images.toLocaleString('en')} images`
  one('none').hidden = shown.length > 0
  if (controls.presence) {
    one('least').value = least.toFixed(2)
    controls.presence.style.setProperty('--at', least)
  }
}
const move = place => {
  if (!shown.length) return
  cards[shown[current]].tabIndex = -1
  current = Math.min(shown.length - 1, Math.max(0, place))
  const target = cards[shown[current]]
  target.tabIndex = 0
  target.focus({ preventScroll: true })
  target.scrollIntoView({ block: 'nearest' })
}
const columns = () => getComputedStyle(grid).gridTemplateColumns.split(' ').length
Object.values(controls).forEach(control => control?.addEventListener('input', show))
document.querySelector('form').addEventListener('submit', event => event.preventDefault())

// The large view.
const large = one('large'), big = one('big'), inside = name => large.querySelector(name)
let open = null
const enlarge = async place => {
  const item = items[place]
  open = place
  inside('.place').textContent = `${current + 1} of ${shown.length}`
  inside('h2').textContent = item.label
  inside('.file').textContent = item.source
  inside('dl').replaceChildren()
  const facts = [['score', item.score.toFixed(3)], ['area', percent(item.area)]]
  if (item.presence !== null) facts.splice(1, 0, ['presence', item.presence.toFixed(2)])
  facts.forEach(([name, value]) => {
    const pair = make(inside('dl'), 'div')
    make(pair, 'dt', '', name)
    make(pair, 'dd', '', value)
  })
  inside('.doubt').textContent = doubts[item.doubt]
  inside('.warnings').textContent = item.warnings
  const others = inside('.others')
  others.replaceChildren()
  const texts = items.flatMap((other, number) => other.image === item.image ? [number] : [])
  if (texts.length > 1) texts.forEach(number => {
    const other = items[number], button = make(others, 'button', `doubt${other.doubt}`)
    button.type = 'button'
    button.setAttribute('aria-pressed', String(number === place))
    make(button, 'span', '', other.label)
    make(button, 'span', 'score', other.score.toFixed(3))
    button.addEventListener('click', () => enlarge(number))
  })
  inside('.back').disabled = current === 0
  inside('.next').disabled = current === shown.length - 1
  big.setAttribute('aria-label', told(item))
  big.style.setProperty('--ratio', ratio(item))
  big.style.aspectRatio = `${item.picture.width} / ${item.picture.height}`
  if (!large.open) {
    large.showModal()
    large.focus()
  }
  const [width, height] = [item.picture.width, item.picture.height]
  const scale = Math.min(1600, Math.max(width, height) * 2) / Math.max(width, height)
  const put = await paint(big, item, Math.round(width * scale), Math.round(height * scale), one('map').checked)
  if (open === place) put()
}
const step = by => {
  const to = current + by
  if (to < 0 || to >= shown.length) return
  cards[shown[current]].tabIndex = -1
  current = to
  cards[shown[current]].tabIndex = 0
  enlarge(shown[current])
}
const other = by => {
  const texts = items.flatMap((item, number) => item.image === items[open].image ? [number] : [])
  enlarge(texts[(texts.indexOf(open) + by + texts.length) % texts.length])
}
grid.addEventListener('click', event => {
  const button = event.target.closest('.card')
  if (!button) return
  move(shown.indexOf(Number(button.dataset.item)))
  enlarge(shown[current])
})
inside('.back').addEventListener('click', () => step(-1))
inside('.next').addEventListener('click', () => step(1))
inside('.close').addEventListener('click', () => large.close())
large.addEventListener('click', event => { if (event.target === large) large.close() })
large.addEventListener('close', () => { open = null; move(current) })
one('map').addEventListener('change', () => enlarge(open))
addEventListener('keydown', event => {
  const { key, target } = event
  if (event.altKey || event.ctrlKey || event.metaKey || target.matches?.('select, input[type=range]')) return
  const steps = large.open ? { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => other(-1),
    ArrowDown: () => other(1), m: () => one('map').click(), M: () => one('map').click() }
    : { ArrowLeft: () => move(current - 1), ArrowRight: () => move(current + 1), ArrowUp: () => move(current - columns()),
      ArrowDown: () => move(current + columns()), Home: () => move(0), End: () => move(shown.length - 1) }
  if (!steps[key] || (!large.open && !grid.contains(target) && target !== document.body)) return
  event.preventDefault()
  if (!large.open && target === document.body) move(current)
  else steps[key]()
})

one('source').hidden = true
grid.hidden = false
document.querySelector('form').hidden = false
show()
