// What lies over the image: the crosshair, which slice is shown, and what the user has drawn in it.

const BACKGROUND = '#f4f6fa'
const CHANGED = '#63b3ff'
const ACCEPTED = '#4fd79a'

export class Marks {
  /** @param colourOf label value → colour */
  constructor(canvas, volume, colourOf) {
    this.canvas = canvas
    this.volume = volume
    this.colourOf = colourOf
    this.steps = [[]] // after every prompt: what is drawn
    this.undone = []
    this.pen = null // under the mouse: {plane, at, width}
    this.voxels = 0 // so many the last prompt has changed
    this.accepted = [] // slices of the large view, as the server counts them
    this.pending = [] // sent, not answered yet
    this.stroke = null // being drawn
    this.changed = null // slices of the large view that the last prompt has changed, half-open
    this.visible = true
  }

  /** As the server's list of prompts grows. */
  add(prompt) {
    if (prompt.type === 'undo') return void (this.steps.length > 1 && this.undone.push(this.steps.pop()))
    if (prompt.type === 'redo') return void (this.undone.length && this.steps.push(this.undone.pop()))
    this.undone = []
    if (prompt.type === 'reset') this.steps = [[]]
    else if (prompt.type === 'automatic') this.steps.push([])
    else this.steps.push([...this.steps.at(-1), prompt])
  }

  clear() {
    this.steps = [[]]
    this.undone = []
    this.changed = null
  }

  draw() {
    const { canvas, volume } = this
    canvas.width = volume.canvas.width
    canvas.height = volume.canvas.height
    const context = canvas.getContext('2d')
    const scale = volume.canvas.width / volume.canvas.clientWidth || 1
    for (const plane of volume.planes) {
      const frame = volume.frameOf(plane)
      if (!frame) continue
      context.save()
      this.#label(context, plane, frame, scale)
      context.beginPath()
      context.rect(...frame)
      context.clip()
      this.#crosshair(context, plane, frame, scale)
      if (this.visible) {
        for (const mark of this.steps.at(-1)) this.#mark(context, plane, mark, scale, 1)
        for (const { prompt } of this.pending) this.#mark(context, plane, prompt, scale, 0.55)
      }
      if (this.stroke?.plane === plane) this.#mark(context, plane, this.stroke.prompt, scale, 1)
      if (this.pen?.plane === plane) this.#pen(context, plane, scale)
      context.restore()
    }
  }

  #label(context, plane, [left, top, width, height], scale) {
    const { volume } = this
    const count = volume.size[plane.axis]
    const index = volume.shownCrosshair[plane.axis]
    context.font = `500 ${12 * scale}px system-ui, sans-serif`
    context.textBaseline = 'top'
    context.shadowColor = '#000'
    context.shadowBlur = 3 * scale
    const tile = volume.nv.getCustomLayout().find(({ sliceType }) => sliceType === plane.type).position
    const [x, y] = [tile[0] * this.canvas.width, tile[1] * this.canvas.height]
    let end = x + 10 * scale
    const write = (text, colour) => {
      context.fillStyle = colour
      context.fillText(text, end, y + 9 * scale)
      end += context.measureText(text).width + 16 * scale
    }
    write(`${plane.name}  ${index + 1} / ${count}`, '#c6cedb')
    if (plane === volume.plane && this.accepted.includes(volume.crosshair[volume.axisOf(plane)])) write('accepted', ACCEPTED)
    const changed = plane === volume.plane && count > 1 ? this.changed : null
    if (changed) {
      const slices = changed[1] - changed[0] === 1 ? `slice ${changed[1]}` : `slices ${changed[0] + 1} to ${changed[1]}`
      write(`last change: ${this.voxels} ${this.voxels === 1 ? 'voxel' : 'voxels'}, ${slices}`, CHANGED)
    }
    context.shadowBlur = 0
    if (count > 1) { // where in the volume this is
      const [barTop, barHeight] = [y + 30 * scale, tile[3] * this.canvas.height - 44 * scale]
      const barLeft = x + tile[2] * this.canvas.width - 6 * scale
      context.fillStyle = '#ffffff1c'
      context.fillRect(barLeft, barTop, 2 * scale, barHeight)
      if (changed) {
        context.fillStyle = CHANGED
        const step = barHeight / count
        context.fillRect(barLeft, barTop + (count - changed[1]) * step, 2 * scale, (changed[1] - changed[0]) * step)
      }
      context.fillStyle = '#8fa3bf'
      const thumb = Math.max(10 * scale, barHeight / count)
      context.fillRect(barLeft - scale, barTop + (1 - index / (count - 1)) * (barHeight - thumb), 4 * scale, thumb)
    }
  }

  #crosshair(context, plane, [left, top, width, height], scale) {
    const centre = this.volume.pixelOf(this.volume.crosshair, plane)
    if (!centre) return
    const [x, y] = centre.map((value) => Math.round(value) + 0.5)
    const gap = 9 * scale
    context.strokeStyle = '#7fb4ff80'
    context.lineWidth = Math.max(1, scale)
    context.beginPath()
    for (const [x0, y0, x1, y1] of [
      [left, y, x - gap, y],
      [x + gap, y, left + width, y],
      [x, top, x, y - gap],
      [x, y + gap, x, top + height],
    ]) {
      context.moveTo(x0, y0)
      context.lineTo(x1, y1)
    }
    context.stroke()
  }

  /** How large a voxel of the finer axis is in a view, in canvas pixels. */
  #voxelSize(zyx, plane) {
    const { volume } = this
    const flat = volume.axisOf(plane)
    const axis = [0, 1, 2].filter((other) => other !== flat).sort((a, b) => volume.spacing[a] - volume.spacing[b])[0]
    const next = zyx.map((index, other) => index + (other === axis ? (index > 0 ? -1 : 1) : 0))
    const [here, there] = [zyx, next].map((voxel) => volume.pixelOf(voxel, plane))
    return here && there ? Math.hypot(here[0] - there[0], here[1] - there[1]) : 0
  }

  #pen(context, plane, scale) {
    const centre = this.volume.pixelOf(this.pen.at, plane)
    if (!centre) return
    context.strokeStyle = '#ffffffd0'
    context.lineWidth = scale
    context.beginPath()
    context.arc(...centre, Math.max(2 * scale, (this.pen.width / 2) * this.#voxelSize(this.pen.at, plane)), 0, 2 * Math.PI)
    context.stroke()
  }

  /** A prompt where it is in the slice that is shown; a brush shows itself. */
  #mark(context, plane, prompt, scale, alpha) {
    const { volume } = this
    if (prompt.type === 'brush') return
    const shown = volume.shownCrosshair[plane.axis]
    const here = (zyx) => volume.toShown(zyx)[plane.axis] === shown
    const colour = prompt.include === false ? BACKGROUND : this.colourOf(prompt.label)
    context.globalAlpha = alpha
    if (prompt.type === 'point') {
      if (!here(prompt.at)) return
      const centre = volume.pixelOf(prompt.at, plane)
      if (centre) dot(context, centre, colour, prompt.include === false, scale)
      return
    }
    const corners = prompt.type === 'box' ? cornersOf(prompt.box, volume, plane) : prompt.line
    if (!corners || !corners.every(here)) return
    const pixels = corners.map((zyx) => volume.pixelOf(zyx, plane))
    if (pixels.some((pixel) => !pixel)) return
    context.beginPath()
    pixels.forEach(([x, y], number) => (number ? context.lineTo(x, y) : context.moveTo(x, y)))
    if (prompt.type !== 'scribble') context.closePath()
    if (prompt.width > 1) {
      context.globalAlpha = 0.4 * alpha
      context.strokeStyle = colour
      context.lineJoin = context.lineCap = 'round'
      context.lineWidth = prompt.width * this.#voxelSize(corners[0], plane)
      context.stroke()
      context.globalAlpha = alpha
    }
    for (const [style, width] of [['#000000a0', 4.5], [colour, 2.5]]) {
      context.strokeStyle = style
      context.lineWidth = width * scale
      context.lineJoin = context.lineCap = 'round'
      context.setLineDash(prompt.include === false && style === colour ? [5 * scale, 4 * scale] : [])
      context.stroke()
    }
    context.setLineDash([])
    if (pixels.length === 1) dot(context, pixels[0], colour, prompt.include === false, scale)
  }
}

/** Plus: added; minus: removed. Shapes, not only colours. */
function dot(context, [x, y], colour, removes, scale) {
  const radius = 6.5 * scale
  context.beginPath()
  context.arc(x, y, radius, 0, 2 * Math.PI)
  context.fillStyle = removes ? '#1d2430' : colour
  context.fill()
  context.lineWidth = 1.5 * scale
  context.strokeStyle = removes ? colour : '#0b0e13'
  context.stroke()
  context.beginPath()
  const arm = 3 * scale
  context.moveTo(x - arm, y)
  context.lineTo(x + arm, y)
  if (!removes) {
    context.moveTo(x, y - arm)
    context.lineTo(x, y + arm)
  }
  context.strokeStyle = removes ? colour : '#0b0e13'
  context.lineWidth = 1.8 * scale
  context.stroke()
}

/** Of a half-open box [z, y, x], the corners in this plane; null if it does not lie in it. */
function cornersOf(box, volume, plane) {
  const flat = volume.axes.findIndex(([to]) => to === plane.axis)
  if (box[flat][1] - box[flat][0] !== 1) return null
  const [a, b] = [0, 1, 2].filter((axis) => axis !== flat)
  return [[0, 0], [0, 1], [1, 1], [1, 0]].map(([p, q]) => {
    const corner = [0, 0, 0]
    corner[flat] = box[flat][0]
    corner[a] = p ? box[a][1] - 1 : box[a][0]
    corner[b] = q ? box[b][1] - 1 : box[b][0]
    return corner
  })
}
