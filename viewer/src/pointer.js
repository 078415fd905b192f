// What the mouse does in the image: left draws for the active label, right for the background, the wheel goes through
// slices, Ctrl and the wheel zoom, Ctrl and dragging set the window, Shift or the middle button move. In the view in space
// dragging turns it, and the wheel zooms.
import { Painting, lineTo } from './painter.js'

/** What is drawn by pressing and releasing; the eraser is a brush of background. */
export const TOOLS = {
  point: { name: 'Click', key: 'c', hint: 'Click on the structure; right click on what is not part of it' },
  scribble: { name: 'Scribble', key: 's', hint: 'Draw a line inside of the structure; right button: background' },
  brush: { name: 'Brush', key: 'd', hint: 'Exactly these pixels, and nothing else changes; right button: erase' },
  lasso: { name: 'Lasso', key: 'l', hint: 'Draw around the structure; right button: background' },
  box: { name: 'Box', key: 'b', hint: 'Draw a box around the structure' },
  eraser: { name: 'Eraser', key: 'e', hint: 'Exactly these pixels become background' },
  look: { name: 'Look', key: 'v', hint: 'Move the crosshair without correcting anything' },
}

const WITH_SIZE = ['scribble', 'brush', 'eraser']

export class Pointer {
  /**
   * @param now () → {tool, label, width, locked}
   * @param send is given a prompt, and its painting
   * @param hover is told what is under the mouse
   * @param setWindow is told by which shares of the image the mouse went right and down
   */
  constructor(canvas, volume, marks, { now, send, hover, setWindow }) {
    Object.assign(this, { canvas, volume, marks, now, send, hover, setWindow })
    this.wheel = 0
    canvas.addEventListener('pointerdown', (event) => this.#down(event))
    canvas.addEventListener('pointermove', (event) => this.#move(event))
    canvas.addEventListener('pointerup', (event) => this.#up(event))
    canvas.addEventListener('pointercancel', () => this.abandon())
    canvas.addEventListener('pointerleave', () => {
      this.hover(null)
      this.#pen(null)
    })
    canvas.addEventListener('wheel', (event) => this.#scroll(event), { passive: false })
    canvas.addEventListener('contextmenu', (event) => event.preventDefault())
  }

  /** Forget what is being drawn. */
  abandon() {
    this.marks.stroke?.painting?.takeBack()
    this.marks.stroke = null
    this.drag = null
    this.volume.showLabels()
  }

  /** Show how large the pen is, where the mouse is. */
  #pen(found) {
    const { tool, width } = this.now()
    const pen = found && WITH_SIZE.includes(tool) ? { ...found, width } : null
    if (!pen && !this.marks.pen) return
    this.marks.pen = pen
    this.marks.draw()
  }

  /** The size of the pen has changed. */
  resized() {
    if (this.marks.pen) this.#pen(this.marks.pen)
  }

  get drawing() {
    return this.marks.stroke !== null
  }

  #down(event) {
    this.canvas.focus()
    if (this.drawing || this.drag) return
    if ((event.button === 1 || event.shiftKey) && !this.volume.space) {
      this.drag = { x: event.clientX, y: event.clientY, plane: this.volume.planeUnder(event) }
      this.canvas.setPointerCapture(event.pointerId)
      event.preventDefault()
      return
    }
    if (event.button === 0 && (event.ctrlKey || event.metaKey) && !this.volume.space) {
      this.drag = { window: true, x: event.clientX, y: event.clientY }
      this.canvas.setPointerCapture(event.pointerId)
      return
    }
    if (this.volume.space) {
      this.drag = { turn: true, x: event.clientX, y: event.clientY }
      return this.canvas.setPointerCapture(event.pointerId)
    }
    const found = this.volume.under(event)
    if (!found || event.button > 2) return
    event.preventDefault()
    this.canvas.setPointerCapture(event.pointerId)
    const { tool, label, width, locked } = this.now()
    if (tool === 'look') {
      this.drag = { look: true, plane: found.plane }
      return this.volume.moveTo(found.at)
    }
    const include = event.button === 0 && tool !== 'eraser'
    const prompt = { type: tool === 'eraser' ? 'brush' : tool, label }
    if (!include) prompt.include = false
    if (tool === 'point') prompt.at = found.at
    else if (tool === 'box') prompt.box = boxOf(found.at, found.at)
    else prompt.line = [found.at]
    const flat = this.volume.axisOf(found.plane)
    if (WITH_SIZE.includes(tool) && (width > 1 || prompt.type === 'brush')) Object.assign(prompt, { width, across: 'zyx'[flat] })
    let painting = null
    if (prompt.type === 'brush') {
      this.volume.remember()
      painting = new Painting(this.volume, flat, width, include ? label : 0, locked)
      painting.at(found.at)
      this.volume.showLabelsSoon()
    }
    this.marks.stroke = { plane: found.plane, prompt, painting, start: found.at }
    this.volume.moveTo(found.at)
  }

  #move(event) {
    if (this.drag?.look) {
      const found = this.volume.under(event, this.drag.plane)
      return found && this.volume.moveTo(found.at)
    }
    if (this.drag?.turn) {
      this.volume.turn((event.clientX - this.drag.x) / 2, (event.clientY - this.drag.y) / 2)
      return Object.assign(this.drag, { x: event.clientX, y: event.clientY })
    }
    if (this.drag?.window) {
      this.setWindow((event.clientX - this.drag.x) / this.canvas.clientWidth, (event.clientY - this.drag.y) / this.canvas.clientHeight)
      return Object.assign(this.drag, { x: event.clientX, y: event.clientY })
    }
    if (this.drag) return this.#pan(event)
    const stroke = this.marks.stroke
    const found = this.volume.space ? null : this.volume.under(event, stroke?.plane)
    this.hover(found)
    this.#pen(found)
    if (!stroke || !found || stroke.prompt.type === 'point') return
    if (stroke.prompt.type === 'box') stroke.prompt.box = boxOf(stroke.start, found.at)
    else if (String(stroke.prompt.line.at(-1)) !== String(found.at)) {
      for (const voxel of stroke.painting ? lineTo(stroke.prompt.line.at(-1), found.at) : [found.at]) {
        stroke.prompt.line.push(voxel)
        stroke.painting?.at(voxel)
      }
      if (stroke.painting) this.volume.showLabelsSoon()
    }
    this.marks.draw()
  }

  #up(event) {
    this.#move(event)
    this.drag = null
    const stroke = this.marks.stroke
    if (!stroke) return
    this.marks.stroke = null
    this.send(stroke.prompt, stroke.painting)
  }

  #pan(event) {
    const { plane } = this.drag
    const frame = plane && this.volume.frameOf(plane)
    if (!frame) return
    const scale = this.canvas.width / this.canvas.clientWidth
    const slice = this.volume.nv.screenSlices.find(({ axCorSag }) => axCorSag === plane.type)
    const mirrored = slice.leftTopWidthHeight[2] < 0 ? -1 : 1
    const [across, up] = [0, 1, 2].filter((axis) => axis !== plane.axis)
    const place = this.volume.nv.scene.pan2Dxyzmm
    const zoom = place[3]
    place[across] += (zoom * mirrored * (event.clientX - this.drag.x) * scale * slice.fovMM[0]) / frame[2]
    place[up] -= (zoom * (event.clientY - this.drag.y) * scale * slice.fovMM[1]) / frame[3]
    this.drag.x = event.clientX
    this.drag.y = event.clientY
    this.volume.nv.setPan2Dxyzmm(place)
    this.volume.draw()
  }

  #scroll(event) {
    event.preventDefault()
    if (this.drawing) return
    if (event.ctrlKey || this.volume.space) return this.volume.zoom(Math.exp(-event.deltaY / 400))
    const plane = this.volume.planeUnder(event)
    // a notch is a slice; touch pads send many small steps
    this.wheel += event.deltaMode ? event.deltaY * 40 : event.deltaY
    const steps = Math.abs(event.deltaY) >= 50 || event.deltaMode ? Math.sign(event.deltaY) : Math.trunc(this.wheel / 40)
    if (!steps || !plane) return
    this.wheel = 0
    this.volume.scroll(plane, -steps)
  }
}

function boxOf(a, b) {
  return a.map((value, axis) => [Math.min(value, b[axis]), Math.max(value, b[axis]) + 1])
}
