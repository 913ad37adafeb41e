const pairs = JSON.parse(document.getElementById('pairs').textContent)
const figure = document.querySelector('figure'), canvas = figure.querySelector('canvas')
const words = [...document.querySelectorAll('.text')].map(line => [...line.querySelectorAll('.word')])
const own = words.map(line => line.map(word => [word.style.background, word.style.color, word.title]))
const [blue, dark, amber] = JSON.parse(document.getElementById('colors').textContent)
const peak = text => text.flat(2).reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1
const peaks = pairs.map(text => text && peak(text))  // one scale a text
let held = null

function show(text, word) {
  const map = text === null ? null : pairs[text]?.[word]
  figure.classList.toggle('on', Boolean(map))
  const pen = canvas.getContext('2d')
  if (!map) { canvas.width = canvas.width; return }
  const rows = map.length, cols = map[0].length, small = new ImageData(cols, rows)
  map.flat().forEach((value, at) => {
    const color = value > 0 ? amber : blue
    small.data.set([...color, 230 * Math.abs(value) / peaks[text]], 4 * at)
  })
  const grid = document.createElement('canvas')
  grid.width = cols; grid.height = rows
  grid.getContext('2d').putImageData(small, 0, 0)
  canvas.width = figure.clientWidth; canvas.height = figure.clientHeight
  pen.imageSmoothingQuality = 'high'
  pen.drawImage(grid, 0, 0, canvas.width, canvas.height)
}

function paint(row, col) {
  words.forEach((line, text) => {
    if (!pairs[text]) return
    const values = row === null ? null : pairs[text].map(map => map[row][col])
    const total = values && (values.reduce((sum, value) => sum + Math.abs(value), 0) || 1)
    line.forEach((word, at) => {
      [word.style.background, word.style.color, word.title] = own[text][at]
      if (!values) return
      const share = Math.abs(values[at]) / peaks[text], color = values[at] > 0 ? amber : blue
      word.style.background = `rgb(${dark.map((part, i) => part + share * (color[i] - part))})`
      word.style.color = share > .55 ? '#101012' : '#ececee'
      word.title = `${(100 * values[at] / total).toFixed(1)} %`
    })
  })
}

words.forEach((line, text) => line.forEach((word, at) => {
  const rest = () => held ? show(...held) : show(null)
  word.onmouseenter = word.onfocus = () => show(text, at)
  word.onmouseleave = word.onblur = rest
  word.onclick = () => {
    document.querySelector('.held')?.classList.remove('held')
    held = held && held[0] === text && held[1] === at ? null : [text, at]
    if (held) word.classList.add('held')
    rest()
  }
  word.onkeydown = event => { if (event.key === 'Enter') word.click() }
}))
figure.onmousemove = event => {
  const [rows, cols] = [pairs.find(Boolean)[0].length, pairs.find(Boolean)[0][0].length]
  const box = figure.getBoundingClientRect()
  const row = Math.floor((event.clientY - box.top) / box.height * rows)
  const col = Math.floor((event.clientX - box.left) / box.width * cols)
  if (row >= 0 && row < rows && col >= 0 && col < cols) paint(row, col)
}
figure.onmouseleave = () => paint(null)
