// Boxes around the connected regions of a mask, as `eclip.heatmap.boxes`: pixels that touch at a corner are connected.

const LEAST_SHARE = 0.1  // smaller regions, as a share of the largest, are specks

// [left, top, right, bottom] of each region of heat >= level, the largest first; right and bottom exclusive.
export function boxes(heat, width, height, level) {
  const parent = [], region = []  // of each run of pixels in a row
  const find = one => { while (parent[one] !== one) one = parent[one] = parent[parent[one]]; return one }
  let before = [], first = 0
  for (let y = 0; y < height; y++) {
    const runs = []
    for (let x = 0, i = y * width; x < width; x++, i++) {
      if (heat[i] < level) continue
      const start = x
      while (x < width && heat[y * width + x] >= level) x++
      i = y * width + x
      const own = parent.length
      parent.push(own)
      region.push([start, y, x, y + 1, x - start])
      runs.push([start, x, own])
    }
    first = 0
    for (const [start, stop, own] of runs) {
      while (first < before.length && before[first][1] < start) first++
      for (let j = first; j < before.length && before[j][0] <= stop; j++) parent[find(before[j][2])] = find(own)
    }
    before = runs
  }
  const whole = new Map()
  region.forEach((one, number) => {
    const root = find(number), all = whole.get(root)
    if (!all) { whole.set(root, [...one, number]); return }
    whole.set(root, [Math.min(all[0], one[0]), Math.min(all[1], one[1]), Math.max(all[2], one[2]),
      Math.max(all[3], one[3]), all[4] + one[4], Math.min(all[5], number)])
  })
  const found = [...whole.values()].sort((a, b) => b[4] - a[4] || a[5] - b[5])
  return found.filter(one => one[4] >= LEAST_SHARE * found[0][4]).map(one => one.slice(0, 4))
}
