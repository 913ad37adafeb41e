// Draws a map on an image, pixel by pixel as `eclip.render.paint` does; a test compares the two.

const LEVELS = 255, FAINTEST = 0.12, FULL = 0.85
const ENCODED = Uint8Array.from({length: 1 << 14}, (_, i) => {  // sRGB of linear light
  const light = i / ((1 << 14) - 1)
  return Math.round(255 * (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055))
})

function oklab(red, green, blue) {
  const [r, g, b] = [red, green, blue].map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
  return [0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s]
}

const encode = light => ENCODED[light <= 0 ? 0 : light >= 1 ? 16383 : light * 16383 + 0.5 | 0]

function pixel(L, a, b) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3
  const red = encode(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s)
  const green = encode(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s)
  const blue = encode(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s)
  return (255 << 24 | blue << 16 | green << 8 | red) >>> 0
}

const GROUND = Float64Array.from({length: 256}, (_, gray) => 0.9 * oklab(gray / 255, gray / 255, gray / 255)[0])

// The colors of a table over each gray: entry 256 * level + gray, as bytes of red, green, blue, opacity.
export class Blend {
  constructor(colors, signed) {
    this.signed = signed
    this.lab = Array.from({length: LEVELS}, (_, i) => oklab(...colors.subarray(3 * i, 3 * i + 3)))
    this.table = new Uint32Array(LEVELS * 256)
  }

  at(alpha) {
    if (this.alpha === alpha) return this.table
    this.alpha = alpha
    for (let level = 0; level < LEVELS; level++) {
      const [L, a, b] = this.lab[level]
      const strength = this.signed ? Math.abs(2 * level / (LEVELS - 1) - 1) : level / (LEVELS - 1)
      const ramp = Math.min(1, Math.max(0, (strength - FAINTEST) / (FULL - FAINTEST)))
      const opacity = alpha * ramp * ramp * (3 - 2 * ramp)
      if (opacity === 0 && level > 0 && !this.signed) {  // as the level below: the gray alone
        this.table.copyWithin(256 * level, 256 * (level - 1), 256 * level)
        continue
      }
      for (let gray = 0; gray < 256; gray++) {
        const ground = GROUND[gray]
        this.table[256 * level + gray] = pixel(ground + 0.92 * opacity * (L - ground), opacity * a, opacity * b)
      }
    }
    return this.table
  }
}

// Of an image's pixels as bytes of red, green, blue, opacity; Pillow's mode L.
export function grays(rgba) {
  const gray = new Uint8Array(rgba.length / 4)
  for (let i = 0, j = 0; i < gray.length; i++, j += 4)
    gray[i] = rgba[j] * 19595 + rgba[j + 1] * 38470 + rgba[j + 2] * 7471 + 0x8000 >> 16
  return gray
}

// The lowest and the highest of some values.
export function rangeOf(values) {
  let low = Infinity, high = -Infinity
  for (const value of values) { if (value < low) low = value; if (value > high) high = value }
  return [low, high]
}

// A map in [0, 1]: the low end of the range, its own if none is given, becomes 0, the high end 1; zeros stay.
export function normalized(map, range = rangeOf(map)) {
  const {fround} = Math, [low, high] = range, span = fround(high - low)
  return Float32Array.from(map, value => span > 0 ? fround(value - low) / span : 0)
}

// A map in [-1, 1] with its zero kept.
export function signed(map, peak = null) {
  const most = peak ?? map.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  return Float32Array.from(map, value => most > 0 ? Math.max(-1, Math.min(1, value / most)) : 0)
}

// Bilinear, corners not aligned, rounded where torch rounds on a CPU with fused multiply-add: as `eclip.heatmap.resize`.
export function resized(map, rows, cols, width, height) {
  const found = new Float32Array(width * height), {fround} = Math
  const [left, right, across] = places(cols, width), [above, below, down] = places(rows, height)
  const wide = new Float32Array(rows * width)  // first along each row of the grid, then between two of them
  for (let row = 0, i = 0; row < rows; row++) {
    const start = row * cols
    for (let x = 0; x < width; x++, i++)
      wide[i] = fround(1 - across[x]) * map[start + left[x]] + fround(across[x] * map[start + right[x]])
  }
  for (let y = 0, i = 0; y < height; y++) {
    const top = above[y] * width, bottom = below[y] * width, v = down[y], w = fround(1 - v)
    for (let x = 0; x < width; x++, i++) found[i] = w * wide[top + x] + fround(v * wide[bottom + x])
  }
  return found
}

function places(count, size) {
  const first = new Int32Array(size), second = new Int32Array(size), weight = new Float32Array(size)
  const {fround} = Math, scale = fround(count / size)
  for (let i = 0; i < size; i++) {
    const at = Math.max(0, fround(scale * (i + 0.5) - 0.5))
    first[i] = Math.min(count - 1, Math.floor(at))
    second[i] = Math.min(count - 1, first[i] + 1)
    weight[i] = at - first[i]
  }
  return [first, second, weight]
}

// The nearest whole number; halves go to the even one, as in numpy.
function even(value) {
  const near = value + 0.5 | 0
  return near - value === 0.5 ? near & ~1 : near
}

// The level of each pixel's color in the table.
export function levels(values, isSigned) {
  const found = new Uint8Array(values.length), {fround} = Math, most = LEVELS - 1
  for (let i = 0; i < values.length; i++)
    found[i] = even(fround((isSigned ? fround(values[i] + 1) / 2 : values[i]) * most))
  return found
}

// How much the heat changes from pixel to pixel, as numpy.gradient.
export function slopes(heat, width, height) {
  const found = new Float32Array(heat.length)
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++) {
      const l = x > 0 ? i - 1 : i, r = x < width - 1 ? i + 1 : i
      const t = y > 0 ? i - width : i, b = y < height - 1 ? i + width : i
      const across = width > 1 ? (heat[r] - heat[l]) / (r - l) : 0
      const down = height > 1 ? (heat[b] - heat[t]) / ((b - t) / width) : 0
      found[i] = Math.sqrt(across * across + down * down)
    }
  return found
}

// A line around all heat of at least `level`, over pixels that are drawn already.
export function outline(pixels, heat, slope, level, stroke, alpha, ink) {
  const reach = stroke / 2 + 0.5
  for (let i = 0; i < heat.length; i++) {
    const away = Math.abs(heat[i] - level)
    if (away >= reach * slope[i] || slope[i] === 0) continue
    const line = alpha * Math.min(1, reach - away / slope[i]), old = pixels[i]
    const red = (old & 255) + line * (ink[0] - (old & 255))
    const green = (old >> 8 & 255) + line * (ink[1] - (old >> 8 & 255))
    const blue = (old >> 16 & 255) + line * (ink[2] - (old >> 16 & 255))
    pixels[i] = (255 << 24 | Math.round(blue) << 16 | Math.round(green) << 8 | Math.round(red)) >>> 0
  }
}

export const strokeOf = (width, height) => Math.max(1.25, Math.max(width, height) / 420)
