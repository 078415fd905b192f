// Painting on the screen while the mouse moves: the same voxels that the server will give the label to, so that nobody
// has to wait for it.

/** Voxels around the centre of a round pen: steps along the two axes of a plane, as the server has them. */
export function penSteps(width, [mmA, mmB]) {
  const reach = (width / 2) * Math.min(mmA, mmB)
  const steps = []
  for (let a = -Math.floor(reach / mmA + 1e-9); a <= reach / mmA + 1e-9; a++) {
    for (let b = -Math.floor(reach / mmB + 1e-9); b <= reach / mmB + 1e-9; b++) {
      if (Math.hypot(a * mmA, b * mmB) <= reach + 1e-9) steps.push([a, b])
    }
  }
  return steps
}

/** Voxels from one to another in a plane, each a neighbour of the one before, without the first. */
export function lineTo(from, to) {
  const way = to.map((value, axis) => value - from[axis])
  const number = Math.max(...way.map(Math.abs))
  return Array.from({ length: number }, (_, step) => from.map((value, axis) => value + Math.round((way[axis] * (step + 1)) / number)))
}

/** One stroke of a brush or an eraser, and how to take it back. */
export class Painting {
  /** @param flat axis of the file, z, y, x, across which the plane lies @param value of the label @param locked values */
  constructor(volume, flat, width, value, locked) {
    Object.assign(this, { volume, value, locked: new Set(locked) })
    this.plane = [0, 1, 2].filter((axis) => axis !== flat)
    this.steps = penSteps(width, this.plane.map((axis) => volume.spacing[axis]))
    this.before = new Map() // index of a voxel → its label
  }

  at(voxel) {
    const [first, second] = this.plane
    for (const [a, b] of this.steps) {
      const place = [...voxel]
      place[first] += a
      place[second] += b
      if (place.some((index, axis) => index < 0 || index >= this.volume.shape[axis])) continue
      const index = this.volume.indexOf(place)
      const label = this.volume.labels[index]
      if (this.before.has(index) || this.locked.has(label)) continue
      this.before.set(index, label)
      this.volume.labels[index] = this.value
    }
  }

  /** Once more, after the server has answered something older. */
  again() {
    for (const index of this.before.keys()) this.volume.labels[index] = this.value
  }

  takeBack() {
    for (const [index, label] of this.before) this.volume.labels[index] = label
  }

  get changed() {
    return [...this.before.values()].filter((label) => label !== this.value).length
  }
}
