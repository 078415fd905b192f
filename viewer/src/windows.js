// Windows: which values of the image are black and white.

/** Usual windows of CT in HU: centre and width. */
const CT = [
  ['Soft tissue', 40, 400],
  ['Liver', 60, 160],
  ['Lung', -600, 1500],
  ['Bone', 400, 1800],
  ['Brain', 40, 80],
]

/** Names, centres and widths that fit a channel; the first one is what the page starts with. */
export function presetsOf(channel, automatic, range) {
  const of = (name, [low, high]) => [name, (low + high) / 2, Math.max(high - low, Number.EPSILON)]
  const known = [of('Automatic', automatic), of('All values', range)]
  return /^ct\b/i.test(channel) ? [...known, ...CT] : known
}

export class Windows {
  /** @param fields {level, width, levelNumber, widthNumber, preset}: two sliders, two numbers, a list */
  constructor(fields, volume) {
    Object.assign(this, { fields, volume })
    for (const name of ['level', 'width']) {
      fields[name].addEventListener('input', () => this.#fromSliders())
      fields[`${name}Number`].addEventListener('change', () => this.#fromNumbers())
    }
    fields.preset.addEventListener('change', () => this.choose(Number(fields.preset.value)))
  }

  /** Of another channel. */
  start(channel) {
    this.presets = presetsOf(channel, this.volume.automaticWindow, this.volume.range)
    const shown = ([name, centre, width]) => (name in { Automatic: 1, 'All values': 1 } ? name : `${name} (${centre}, ${width})`)
    this.fields.preset.replaceChildren(...this.presets.map((preset, number) => new Option(shown(preset), String(number))), new Option('By hand', '-1'))
    this.choose(0)
  }

  choose(number) {
    const preset = this.presets[number]
    if (preset) this.set(preset[1], preset[2], number)
  }

  next() {
    this.choose((Number(this.fields.preset.value) + 1) % this.presets.length)
    return this.presets[Number(this.fields.preset.value)][0]
  }

  /** Drag: to the right is wider, down is brighter; shares of the range of the image. */
  drag(right, down) {
    const span = this.#span()
    this.set(this.centre - down * span, this.width + right * span)
  }

  set(centre, width, preset = -1) {
    const { fields } = this
    const [low] = this.volume.range
    this.centre = centre
    this.width = Math.max(width, this.#span() / 1000)
    fields.level.value = String((1000 * (this.centre - low)) / this.#span())
    fields.width.value = String((1000 * this.width) / this.#span())
    fields.levelNumber.value = rounded(this.centre)
    fields.widthNumber.value = rounded(this.width)
    fields.preset.value = String(preset)
    this.volume.setWindow(this.centre - this.width / 2, this.centre + this.width / 2)
  }

  #fromSliders() {
    const share = (name) => (this.#span() * Number(this.fields[name].value)) / 1000
    this.set(this.volume.range[0] + share('level'), share('width'))
  }

  #fromNumbers() {
    const [centre, width] = [this.fields.levelNumber, this.fields.widthNumber].map((field) => Number(field.value))
    if (Number.isFinite(centre) && width > 0) this.set(centre, width)
    else this.set(this.centre, this.width)
  }

  #span() {
    const [low, high] = this.volume.range
    return high - low || 1
  }
}

const rounded = (value) => String(Number(value.toPrecision(4)))
