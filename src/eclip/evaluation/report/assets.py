"""Style and script of a report. Without the script the page is whole, but for the classes, and shows all images."""

STYLE = """
:root { --paper: #fcfbfa; --card: #fff; --ink: #1b1a22; --soft: #63616d; --line: #e2dfe4; --hover: #f3f0f4;
  --accent: #a3246e; --c1: #b0226b; --c2: #0b6fb8; --c3: #b35c00; --c4: #0a7d55; --c5: #6c4bc4; --c6: #7a6a00;
  --other: #a5a2ad; --control: #55535e }
@media (prefers-color-scheme: dark) { :root { --paper: #141418; --card: #1b1b21; --ink: #f0f0f2; --soft: #a09fa9;
  --line: #303038; --hover: #24242c; --accent: #f58bb4; --c1: #f77fae; --c2: #6cb8f5; --c3: #f0a04b; --c4: #4ecb9a;
  --c5: #b39cf5; --c6: #d9c83e; --other: #6d6c77; --control: #b9b8c2 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  font-variant-numeric: tabular-nums }
main { max-width: 82rem; margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 4rem }
section + section { margin-top: 4rem; padding-top: 3rem; border-top: 1px solid var(--line) }
h1 { font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em; margin: .1rem 0 .6rem;
  overflow-wrap: anywhere }
h1 small { font-size: .45em; font-weight: 400; letter-spacing: 0; color: var(--soft) }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .5rem; letter-spacing: -.01em }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem }
p { margin: .4rem 0 } a { color: var(--accent) }
.eyebrow { color: var(--accent); font-size: .82rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase }
.lead { color: var(--soft); max-width: 46rem } .lead b { color: var(--ink) }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; margin: 1.2rem 0 0 }
.facts dt { color: var(--soft); font-size: .82rem } .facts div { display: flex; flex-direction: column-reverse }
.facts dd { margin: 0; font-size: 1.7rem; font-weight: 650; line-height: 1.2 }
.note { color: var(--soft); font-size: .86rem; max-width: 60rem } .note label { white-space: nowrap }
.words { list-style: none; margin: 0; padding: .4rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px }
.words li { display: flex; gap: .8rem; padding: .55rem 0 } .words li + li { border-top: 1px solid var(--line) }
.words span { flex: none; width: 1.2em; text-align: center; color: var(--accent) }
.words b { font-weight: 600 }
.scroll { overflow-x: auto; margin: .6rem 0; border: 1px solid var(--line); border-radius: 12px;
  background: var(--card) }
table { border-collapse: collapse; width: 100%; font-size: .88rem }
th, td { padding: .38rem .55rem; text-align: left; white-space: nowrap; font-weight: 400 }
thead th { border-bottom: 1px solid var(--line); color: var(--soft); font-size: .82rem; vertical-align: bottom }
tbody th { font-weight: 550 }
tbody tr + tr > * { border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent) }
.sortable th:nth-child(2) { position: sticky; left: 0; background: var(--card); z-index: 1 }
.number { text-align: right } td.rank { color: var(--soft); text-align: right }
td small { display: none; color: var(--soft); font-size: .78em } .wide td small { display: block }
th small { color: var(--soft); font-weight: 400; border: 1px solid var(--line); border-radius: 4px; padding: 0 .3em;
  margin-left: .2em; font-size: .78em } thead th small { border: 0; padding: 0; margin: 0 }
tr.control > * { color: var(--soft); font-weight: 400; font-style: italic } tr.control small { font-style: normal }
tr.hot > *, tr.chosen > th { background: var(--hover) }
tr.chosen th[scope=row] { box-shadow: inset 3px 0 var(--accent) }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0; cursor: pointer }
thead button { font-weight: 550 } thead button:hover, .pick:hover { color: var(--accent) }
.pick { font-weight: 550; text-decoration: underline; text-decoration-color: var(--line); text-underline-offset: 3px }
th[aria-sort=descending] button::after { content: ' ↓' } th[aria-sort=ascending] button::after { content: ' ↑' }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px }
.dots { min-width: 9.5rem; padding-left: .9rem; padding-right: .9rem } .dots div { position: relative; height: 1.1rem }
thead .dots div { display: flex; justify-content: space-between; height: auto }
.dots i { position: absolute; top: 50% } .dots .whisker { height: 2px; margin-top: -1px; background: var(--other) }
.dots .dot { width: 10px; height: 10px; margin: -5px; border-radius: 50%; background: var(--c1) }
tr.control .dot { background: var(--card); border: 2px solid var(--control) }
.dots .floor { top: -.5rem; bottom: -.5rem; border-left: 1px dashed var(--control) }
.dots .beyond { right: -.4rem; margin-top: -.75em; font-style: normal; color: var(--soft) }
details { margin: .5rem 0; font-size: .88rem } summary { cursor: pointer; color: var(--soft) }
dl.meanings, dl.rules { margin: .5rem 0; font-size: .88rem }
dl.meanings div, dl.rules div { display: grid; grid-template-columns: 11rem 1fr; gap: 1rem; padding: .28rem 0 }
dl.rules div + div { border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent) }
dl.meanings dt, dl.rules dt { color: var(--soft) } dl.meanings dd, dl.rules dd { margin: 0; overflow-wrap: anywhere }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 0 2rem }
.figures figure, .images figure { margin: 0 } .chart { display: block; width: 100%; height: auto; overflow: visible }
.chart text { font: 11.5px system-ui, sans-serif; fill: var(--soft) }
.axis path { stroke: var(--line); stroke-width: 1 }
.axis .name { fill: var(--ink); font-weight: 550 }
.c1 { --own: var(--c1) } .c2 { --own: var(--c2) } .c3 { --own: var(--c3) } .c4 { --own: var(--c4) }
.c5 { --own: var(--c5) } .c6 { --own: var(--c6) } .other { --own: var(--other) } .control { --own: var(--control) }
.line polyline { fill: none; stroke: var(--own); stroke-width: 2; stroke-linejoin: round }
.line.other polyline { stroke-width: 1.2 } .line.control polyline { stroke-dasharray: 5 4; stroke-width: 1.5 }
.line .hit { stroke: transparent !important; stroke-width: 12 !important; stroke-dasharray: none !important }
.line circle { fill: var(--own); stroke: var(--paper); stroke-width: 1.5 }
.line text { fill: var(--paper); font-size: 10px; font-weight: 700; text-anchor: middle }
.line, .point { outline: none; cursor: default }
.line:focus-visible polyline, .line.hot polyline { stroke-width: 3.5; stroke: var(--ink) }
.point circle { fill: var(--own) } .point text { fill: var(--ink) } .whisker { stroke: var(--own); stroke-width: 1.5 }
.point .whisker { opacity: .35 } .point.hot .whisker { opacity: 1; stroke-width: 2.5 }
.point.hot circle, .point:focus-visible circle { stroke: var(--ink); stroke-width: 2.5 }
.point.hot text { font-weight: 700 } .chart .floor path { stroke: var(--control); stroke-dasharray: 5 4 }
.lit .line:not(.hot), .lit .point:not(.hot) { opacity: .22 }
.legend { display: flex; flex-wrap: wrap; gap: .35rem; margin: .8rem 0 }
.chip { display: inline-flex; align-items: center; gap: .4em; border: 1px solid var(--line); border-radius: 99px;
  padding: .12rem .65rem .12rem .2rem; font-size: .82rem; background: var(--card) }
.chip i { font-style: normal; font-weight: 700; font-size: .72rem; min-width: 1.45rem; line-height: 1.45rem;
  border-radius: 99px;  text-align: center; background: var(--own); color: var(--paper) }
.chip.control i { background: none; color: var(--control) }
.chip.hot { border-color: var(--ink); background: var(--hover) }
.controls { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; font-size: .9rem }
select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 7px;
  padding: .2rem .5rem; max-width: 100% }
.classes { display: grid; gap: .25rem 1rem;
  font-size: .86rem; align-items: center }
.classes > div { display: contents } .classes .count { color: var(--soft); text-align: right }
.classes .head { color: var(--soft); font-size: .8rem }
.classes .bar { position: relative; height: 1.15rem; background: var(--hover); border-radius: 3px;
  margin-right: 2.9rem }
.classes .bar i { position: absolute; top: 0; bottom: 0; background: var(--c1); border-radius: 3px; opacity: .8 }
.classes .bar i.minus { background: repeating-linear-gradient(45deg, var(--c3) 0 3px, transparent 3px 6px) }
.classes .bar u { position: absolute; top: -2px; bottom: -2px; border-left: 2px solid var(--ink) }
.classes .bar .zero { border-left: 1px solid var(--soft) }
.classes .bar b { position: absolute; left: 100%; width: 2.9rem; text-align: right;
  font-weight: 550; line-height: 1.15rem }
.classes .cat { overflow-wrap: anywhere }
.images { display: flex; flex-wrap: wrap; gap: .8rem }
.images img { display: block; height: auto; max-width: 100%; max-height: 240px; width: auto; border-radius: 8px }
.images figcaption { font-size: .8rem; color: var(--soft); margin: .3rem 0 .6rem; line-height: 1.35 }
.images figcaption b { color: var(--ink) } .images figure { max-width: 100% }
.command { display: flex; gap: .8rem; align-items: start; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .7rem .9rem }
pre span { display: inline-block; max-width: 100% }
pre { margin: 0; flex: 1; white-space: pre-wrap; overflow-wrap: anywhere; font: .84rem/1.5 ui-monospace, monospace }
.copy { border: 1px solid var(--line); border-radius: 7px; padding: .1rem .6rem; font-size: .82rem }
@media (max-width: 40rem) { main { padding-top: 1.4rem }
  dl.meanings div, dl.rules div { grid-template-columns: 1fr; gap: 0 }
  .dots { min-width: 9rem } .sortable .rank { display: none } .classes { gap: .25rem .5rem }
  th, td { padding: .38rem .5rem } .images { display: grid; grid-template-columns: 1fr 1fr; align-items: end } }
@media print { :root { --paper: #fff; --hover: #f0eef2 }
  .copy, .note label { display: none } h2, h3 { break-after: avoid }
  .images { display: grid; grid-template-columns: repeat(3, 1fr) }
  .scroll { overflow: visible; border: 0 } table { font-size: 7.5pt } figure, tr, .words li { break-inside: avoid }
  .dots { min-width: 5rem } th, td { padding: .15rem .25rem } main { max-width: none; padding: 0 }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact } }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto } }
"""
SCRIPT = """
const told = value => (100 * value).toFixed(1).replace('-', '\\u2212').replace(/^\\u22120\\.0$/, '0.0')
const make = (parent, tag, name, text) => {
  const one = parent.appendChild(document.createElement(tag))
  one.className = name || ''
  if (text !== undefined) one.textContent = text
  return one
}
document.querySelectorAll('table.sortable').forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0]
  heads.forEach((head, at) => head.querySelector('button')?.addEventListener('click', () => {
    const before = head.getAttribute('aria-sort'), number = at !== 1
    const down = before ? before === 'ascending' : number && at !== 0
    heads.forEach(one => one.removeAttribute('aria-sort'))
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending')
    const value = row => row.cells[at].dataset.v
    const order = (a, b) => number ? value(a) - value(b) : value(a).localeCompare(value(b))
    const missing = row => value(row) === ''
    body.append(...[...body.rows].sort((a, b) => missing(a) - missing(b) || (down ? order(b, a) : order(a, b))))
  }))
})
document.querySelectorAll('section.run').forEach(run => {
  const data = JSON.parse(run.querySelector('.data').textContent)
  const each = (what, act) => run.querySelectorAll(what).forEach(act)
  let held = null
  const light = m => {
    each('.hot', one => one.classList.remove('hot'))
    if (m !== null) each(`[data-m="${m}"]`, one => one.classList.add('hot'))
    run.classList.toggle('lit', m !== null)
  }
  const over = event => {
    const one = event.target.closest?.('[data-m]')
    light(one ? one.dataset.m : held)
  }
  run.addEventListener('pointerover', over)
  run.addEventListener('focusin', over)
  run.addEventListener('pointerleave', () => light(held))
  each('.chip', chip => {
    chip.setAttribute('aria-pressed', 'false')
    chip.addEventListener('click', () => {
      held = held === chip.dataset.m ? null : chip.dataset.m
      each('.chip', one => one.setAttribute('aria-pressed', String(one.dataset.m === held)))
      light(held)
    })
  })
  run.querySelector('.ends')?.addEventListener('change', event => run.classList.toggle('wide', event.target.checked))
  const copy = run.querySelector('.copy')
  copy?.addEventListener('click', async () => {
    const text = run.querySelector('code').textContent
    try { await navigator.clipboard.writeText(text); copy.textContent = 'Copied' } catch {
      getSelection().selectAllChildren(run.querySelector('code')); copy.textContent = 'Selected' }
  })
  const box = run.querySelector('.classes'), order = run.querySelector('.order')
  const choices = [...run.querySelectorAll('.choice')]
  const bar = (row, value, floor, low) => {
    const one = make(row, 'div', 'bar'), at = v => 100 * (v - low) / (1 - low), zero = at(0)
    if (value === null) return make(one, 'b', '', '-')
    const fill = make(one, 'i', value < 0 ? 'minus' : '')
    fill.style.left = `${Math.min(zero, at(value))}%`
    fill.style.width = `${Math.abs(at(value) - zero)}%`
    if (low < 0) make(one, 'u', 'zero').style.left = `${zero}%`
    if (floor !== undefined && floor !== null) make(one, 'u').style.left = `${at(floor)}%`
    make(one, 'b', '', told(value))
  }
  const classes = m => {
    if (!box) return
    box.textContent = ''
    const widths = data.columns.map(key => key === 'pairs' ? 'max-content' : '1fr')
    box.style.gridTemplateColumns = ['minmax(5rem, max-content)', ...widths].join(' ')
    const head = make(box, 'div'), titles = { pairs: 'pairs', iou: 'IoU, %', msc: 'mSC' }
    make(head, 'span', 'head', 'class')
    data.columns.forEach(key => make(head, 'span', key === 'pairs' ? 'head count' : 'head', titles[key]))
    const at = 1 + data.columns.indexOf(order.value), value = row => row[at] === null ? -2 : row[at]
    const sorted = [...data.classes[m]].sort((a, b) => at ? value(b) - value(a) : a[0].localeCompare(b[0]))
    for (const [name, ...values] of sorted) {
      const row = make(box, 'div'), floor = data.floor[name] || []
      make(row, 'span', 'cat', name)
      data.columns.forEach((key, place) => {
        if (key === 'pairs') make(row, 'span', 'count', values[place])
        else bar(row, values[place], floor[place], key === 'msc' ? -1 : 0)
      })
    }
  }
  const pick = m => {
    choices.forEach(one => { one.value = m })
    each('.examples', one => { one.hidden = one.dataset.of !== m })
    each('tr.chosen', one => one.classList.remove('chosen'))
    each(`tr[data-m="${m}"]`, one => one.classList.add('chosen'))
    classes(m)
  }
  if (choices.length) {
    choices.forEach(one => one.addEventListener('change', () => pick(one.value)))
    order?.addEventListener('change', () => classes(choices[0].value))
    each('.pick', one => one.addEventListener('click', () => pick(one.dataset.pick)))
    pick(choices[0].value)
  }
})
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(one => { one.open = true }))
"""
