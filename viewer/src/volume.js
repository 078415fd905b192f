// The image and its label map on the screen. What is shown has axes i, j, k (right, anterior, superior); positions are
// voxels of the file, [z, y, x]. The server has turned the volume, so the way between them is whole numbers.
import { Niivue, SHOW_RENDER, SLICE_TYPE } from '@niivue/niivue'

/** By shown axis: the plane across it. */
export const PLANES = [
  { name: 'Sagittal', type: SLICE_TYPE.SAGITTAL, axis: 0 },
  { name: 'Coronal', type: SLICE_TYPE.CORONAL, axis: 1 },
  { name: 'Axial', type: SLICE_TYPE.AXIAL, axis: 2 },
]

export class Volume {
  /** @param description the server's answer to api/case */
  constructor(canvas, description, colours) {
    this.canvas = canvas
    this.shape = description.shape
    this.spacing = description.spacing
    this.axes = description.axes
    this.affine = description.affine
    this.main = description.slice_axis
    this.size = [0, 0, 0]
    this.axes.forEach(([to], axis) => (this.size[to] = this.shape[axis]))
    this.colours = colours
    this.labels = new Uint8Array(this.size[0] * this.size[1] * this.size[2])
    this.before = this.labels.slice() // the last change
    this.space = false
    this.opacity = 0.5
    this.outlines = false
    this.nv = new Niivue({
      interactive: false, // clicks are prompts here; see pointer.js
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      crosshairWidth: 0, // marks.js draws one that hides less
      fontColor: [0.62, 0.67, 0.74, 1],
      fontMinPx: 11,
      fontSizeScaling: 0.25,
      backColor: [0.035, 0.043, 0.055, 1],
      loadingText: '',
      logLevel: 'error',
    })
  }

  async load(channel) {
    if (!this.attached) await this.nv.attachToCanvas(this.canvas)
    this.attached = true
    const at = this.attached && this.nv.volumes.length ? this.crosshair : null
    await this.nv.loadVolumes([{ url: `api/image/${channel}.nii`, name: 'image.nii' }])
    this.range = [this.nv.volumes[0].global_min, this.nv.volumes[0].global_max]
    this.automaticWindow = [this.nv.volumes[0].cal_min, this.nv.volumes[0].cal_max]
    this.nv.createEmptyDrawing()
    this.nv.drawBitmap = this.labels
    this.nv.setDrawColormap(this.#colormap())
    this.showSpace(false)
    this.moveTo(at ?? this.shape.map((n) => Math.floor(n / 2)))
    this.showLabels()
  }

  #colormap() {
    const values = [...this.colours.keys()].sort((a, b) => a - b)
    const rgb = values.map((value) => [1, 3, 5].map((at) => parseInt(this.colours.get(value).slice(at, at + 2), 16)))
    return {
      R: [0, ...rgb.map((c) => c[0])],
      G: [0, ...rgb.map((c) => c[1])],
      B: [0, ...rgb.map((c) => c[2])],
      A: [0, ...rgb.map(() => 255)],
      I: [0, ...values],
      labels: ['', ...values.map(String)],
    }
  }

  /** The plane in which slices were segmented is the large one; an image of one slice has no others. */
  #arrange() {
    if (this.size[this.main] === 1) return this.nv.setCustomLayout([{ sliceType: PLANES[this.main].type, position: [0, 0, 1, 1] }])
    const others = [2, 1, 0].filter((axis) => axis !== this.main)
    this.nv.setCustomLayout([
      { sliceType: PLANES[this.main].type, position: [0, 0, 0.62, 1] },
      { sliceType: PLANES[others[0]].type, position: [0.625, 0, 0.375, 0.4975] },
      { sliceType: PLANES[others[1]].type, position: [0.625, 0.5025, 0.375, 0.4975] },
    ])
  }

  /** @param space show the structures in space instead of slices, and the image faintly, or it would hide them */
  showSpace(space) {
    this.space = space
    this.nv.volumes[0].opacity = space ? 0 : 1
    if (space) this.nv.setCustomLayout([{ sliceType: SLICE_TYPE.RENDER, position: [0, 0, 1, 1] }])
    else this.#arrange()
    this.#showOpacity()
  }

  /** Turn the structures in space, by degrees. */
  turn(right, down) {
    const { renderAzimuth, renderElevation } = this.nv.scene
    this.nv.scene.renderAzimuth = (renderAzimuth + right + 360) % 360
    this.nv.scene.renderElevation = Math.min(90, Math.max(-90, renderElevation + down))
    this.draw()
  }

  /** Axis of the file, z, y, x, across which a plane lies. */
  axisOf(plane) {
    return this.axes.findIndex(([to]) => to === plane.axis)
  }

  /** Of a voxel in the label map. */
  indexOf(zyx) {
    const [i, j, k] = this.toShown(zyx)
    return i + this.size[0] * (j + this.size[1] * k)
  }

  // -- positions ---------------------------------------------------------------------------------------------------

  toShown(zyx) {
    const ijk = [0, 0, 0]
    this.axes.forEach(([to, sign], axis) => (ijk[to] = sign > 0 ? zyx[axis] : this.shape[axis] - 1 - zyx[axis]))
    return ijk
  }

  fromShown(ijk) {
    return this.axes.map(([to, sign], axis) => (sign > 0 ? ijk[to] : this.shape[axis] - 1 - ijk[to]))
  }

  /** Millimetres of the patient, RAS. */
  toMm([z, y, x]) {
    return this.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3])
  }

  #pixel(event) {
    const frame = this.canvas.getBoundingClientRect()
    const scale = this.canvas.width / frame.width
    return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale]
  }

  /** Where the mouse is: {plane, at: [z, y, x]}, or null outside of the image. With a plane: only there. */
  under(event, plane) {
    const [x, y] = this.#pixel(event)
    const tile = this.nv.screenSlices.findIndex((slice) => {
      const [left, top, width, height] = slice.leftTopWidthHeight
      const [low, high] = width < 0 ? [left + width, left] : [left, left + width]
      return x >= low && x < high && y >= top && y < top + height
    })
    const found = tile < 0 ? undefined : PLANES.find(({ type }) => type === this.nv.screenSlices[tile].axCorSag)
    if (!found || (plane && found !== plane)) return null
    const place = this.nv.screenXY2TextureFrac(x, y, tile, true)
    if (place[0] < 0) return null
    const ijk = [...place].map((part, axis) => Math.min(this.size[axis] - 1, Math.floor(part * this.size[axis])))
    ijk[found.axis] = this.shownCrosshair[found.axis] // the slice that is shown, not what rounding makes of it
    return { plane: found, at: this.fromShown(ijk) }
  }

  /** The plane whose part of the window the mouse is in, also beside the image. */
  planeUnder(event) {
    const [x, y] = this.#pixel(event)
    const [u, v] = [x / this.canvas.width, y / this.canvas.height]
    const tile = this.nv.getCustomLayout().find(({ position: [left, top, width, height] }) => u >= left && u < left + width && v >= top && v < top + height)
    return tile ? PLANES.find(({ type }) => type === tile.sliceType) : null
  }

  /** Canvas pixels of the centre of a voxel in the view of a plane; null if it is not in view. */
  pixelOf(zyx, plane) {
    const place = this.toShown(zyx).map((index, axis) => (index + 0.5) / this.size[axis])
    return this.nv.frac2canvasPosWithTile(place, plane.type)?.pos ?? null
  }

  /** [left, top, width, height] of what a plane shows, in canvas pixels. */
  frameOf(plane) {
    const slice = this.nv.screenSlices.find(({ axCorSag }) => axCorSag === plane.type)
    if (!slice) return null
    const [left, top, width, height] = slice.leftTopWidthHeight
    return [width < 0 ? left + width : left, top, Math.abs(width), height]
  }

  /** The one that is large. */
  get plane() {
    return PLANES[this.main]
  }

  get planes() {
    return this.size[this.main] === 1 ? [this.plane] : PLANES
  }

  get shownCrosshair() {
    return [...this.nv.scene.crosshairPos].map((part, axis) => Math.min(this.size[axis] - 1, Math.max(0, Math.floor(part * this.size[axis]))))
  }

  get crosshair() {
    return this.fromShown(this.shownCrosshair)
  }

  moveTo(zyx) {
    this.nv.scene.crosshairPos = this.toShown(zyx).map((index, axis) => (index + 0.5) / this.size[axis])
    this.draw()
  }

  scroll(plane, by) {
    const ijk = this.shownCrosshair
    ijk[plane.axis] = Math.min(this.size[plane.axis] - 1, Math.max(0, ijk[plane.axis] + by))
    this.moveTo(this.fromShown(ijk))
  }

  /** Move the crosshair by a voxel in the large view: right, down. */
  step([right, down]) {
    const here = this.crosshair
    const from = this.pixelOf(here, this.plane)
    const ways = [0, 1, 2].filter((axis) => this.axes[axis][0] !== this.main).flatMap((axis) => [-1, 1].map((sign) => here.map((n, other) => (other === axis ? n + sign : n))))
    const along = (to) => {
      const [x, y] = this.pixelOf(to, this.plane) ?? from
      return (x - from[0]) * right + (y - from[1]) * down
    }
    const inside = (to) => to.every((n, axis) => n >= 0 && n < this.shape[axis])
    const best = ways.filter(inside).sort((a, b) => along(b) - along(a))[0]
    if (from && best && along(best) > 0) this.moveTo(best)
  }

  zoom(factor) {
    if (this.space) {
      this.nv.scene.volScaleMultiplier = factor ? Math.min(4, Math.max(0.5, this.nv.scene.volScaleMultiplier * factor)) : 1
      return this.draw()
    }
    const place = this.nv.scene.pan2Dxyzmm
    const zoom = Math.min(12, Math.max(1, place[3] * factor))
    const centre = this.nv.frac2mm(this.nv.scene.crosshairPos)
    const change = place[3] - zoom // so that the crosshair stays where it is
    for (let axis = 0; axis < 3; axis++) place[axis] = zoom === 1 ? 0 : place[axis] + change * centre[axis]
    place[3] = zoom
    this.nv.setPan2Dxyzmm(place)
    this.draw()
  }

  // -- what is shown -----------------------------------------------------------------------------------------------

  /** Write a part of the label map, i fastest, into a half-open box of the shown; returns how many voxels change. */
  setLabels(box, values) {
    const [[i0, i1], [j0, j1], [k0, k1]] = box
    let [from, changed] = [0, 0]
    for (let k = k0; k < k1; k++) {
      for (let j = j0; j < j1; j++) {
        let index = i0 + this.size[0] * (j + this.size[1] * k)
        for (let i = i0; i < i1; i++, index++, from++) {
          if (this.labels[index] !== values[from]) changed++
          this.labels[index] = values[from]
        }
      }
    }
    this.showLabels()
    return changed
  }

  /** Keep the label map as the one before what changes next. */
  remember() {
    this.before.set(this.labels)
  }

  /** Show the label map before the last change, or the present one. */
  compare(before) {
    this.comparing = before
    this.showLabels()
  }

  showLabels() {
    this.nv.drawBitmap = this.comparing ? this.before : this.labels
    this.nv.refreshDrawing(false)
    this.draw()
  }

  /** As often as the screen shows something, however often labels change. */
  showLabelsSoon() {
    this.soon ??= requestAnimationFrame(() => {
      this.soon = null
      this.showLabels()
    })
  }

  labelAt(zyx) {
    return this.labels[this.indexOf(zyx)]
  }

  /** @param outlines show borders alone, on which opacity is whole */
  setOpacity(opacity, outlines) {
    Object.assign(this, { opacity, outlines })
    this.#showOpacity()
  }

  #showOpacity() {
    const rim = this.outlines && this.opacity > 0 && !this.space
    this.nv.drawRimOpacity = rim ? 1 : -1
    this.nv.setDrawOpacity(rim ? 0.004 : this.space && this.opacity > 0 ? 1 : this.opacity) // a rim is where anything is drawn at all
    this.draw()
  }

  setWindow(low, high) {
    const image = this.nv.volumes[0]
    image.cal_min = low
    image.cal_max = Math.max(high, low + (this.range[1] - this.range[0]) / 1000)
    this.nv.updateGLVolume()
    this.draw()
  }

  onDraw = () => {}

  draw() {
    this.nv.drawScene()
    this.onDraw()
  }
}
