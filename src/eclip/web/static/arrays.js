// Arrays as the API sends them: {dtype, shape, data}, little-endian bytes in base64.

export function unpack({dtype, shape, data}) {
  const text = atob(data), bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  const kinds = {float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array}
  const values = dtype === 'float16' ? halves(new Uint16Array(bytes.buffer)) : new kinds[dtype](bytes.buffer)
  return {shape, values, at: (...place) => part(values, shape, place)}
}

// The values below a place in the first axes: at(2) of (text, row, col) is the map of text 2.
function part(values, shape, place) {
  const size = shape.slice(place.length).reduce((product, side) => product * side, 1)
  const start = place.reduce((sum, index, axis) => sum * shape[axis] + index, 0)
  return values.subarray(start * size, (start + 1) * size)
}

function halves(bits) {
  const values = new Float32Array(bits.length)
  for (let i = 0; i < bits.length; i++) {
    const exponent = bits[i] >> 10 & 31, fraction = bits[i] & 1023
    const size = exponent === 31 ? (fraction ? NaN : Infinity)
      : exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024)
    values[i] = bits[i] >> 15 ? -size : size
  }
  return values
}
