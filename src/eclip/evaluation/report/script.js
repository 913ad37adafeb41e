const told = value => (100 * value).toFixed(1).replace('-', '\u2212').replace(/^\u22120\.0$/, '0.0')
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
