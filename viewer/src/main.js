// The page: one image, its labels, and a session on the server.
import { Marks } from './marks.js'
import { Pointer, TOOLS } from './pointer.js'
import { server } from './server.js'
import { Volume } from './volume.js'
import { Windows } from './windows.js'

// distinct from each other, also with a colour vision deficiency for the first ones, and from the grey image
const COLOURS = ['#ff6b5e', '#38a3ff', '#ffc83d', '#2fd08f', '#c58bff', '#ff9ad5', '#35e0e6', '#ff9d42', '#a5e85c', '#8fa0ff', '#f2e6a0', '#d98c6a']

const $ = (id) => document.getElementById(id)
const element = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...children)
  return made
}

const WIDTHS = [1, 3, 5, 7, 9, 13, 19, 27, 39]

let volume, marks, pointer, description, windows
let cases = []
let locked = []
let version = -1
let tool = 'point'
let label = 1
let width = 5
let outlines = false
let opacity = 0.5
let hidden = false
let polling = null
let toastTimer = null
let sending = Promise.resolve()

const colourOf = (value) => COLOURS[(value - 1) % COLOURS.length]
const foreground = () => description.labels.filter(({ value }) => value > 0)

// -- messages ------------------------------------------------------------------------------------------------------

function toast(text, kind = 'notice') {
  const box = $('toast')
  box.textContent = text
  box.className = kind
  box.hidden = false
  clearTimeout(toastTimer)
  toastTimer = setTimeout(() => (box.hidden = true), kind === 'error' ? 9000 : 5000)
}

async function attempt(action) {
  try {
    return await action()
  } catch (error) {
    toast(error.message, error.status === 409 ? 'notice' : 'error')
    return undefined
  }
}

// -- the session ---------------------------------------------------------------------------------------------------

/** Ask how far the server is, for as long as it works; the next question waits for the answer to the last one. */
function watch() {
  polling ??= setTimeout(ask, 150)
}

async function ask() {
  const state = await server.state().catch(() => null)
  if (state) showState(state)
  else showWorking(false) // it was stopped, which whoever asked for something is told
  polling = state && (state.busy || marks.pending.length) ? setTimeout(ask, 150) : null
}

function showWorking(busy) {
  $('working').hidden = !busy
  document.body.classList.toggle('busy', busy)
}

function showState(state) {
  if (state.busy) watch() // also if another tab made it work
  const [done, of] = state.progress ?? [0, 0]
  showWorking(state.busy)
  $('bar').value = of ? Math.min(1, done / of) : 0
  $('bar').toggleAttribute('data-unknown', !of)
  $('progress').textContent = of ? `Segmenting: ${done} slices done` : 'Segmenting'
  $('undo').disabled = state.undo === 0
  $('undo').title = state.undo ? `Undo (Ctrl+Z), ${state.undo} possible` : 'There is nothing to undo'
  $('redo').disabled = state.redo === 0
  $('redo').title = state.redo ? `Do again what was undone (Ctrl+Y), ${state.redo} possible` : 'There is nothing to do again'
  locked = state.locked
  for (const { value } of foreground()) $(`lock-${value}`).setAttribute('aria-pressed', String(locked.includes(value)))
  if (String(marks.accepted) !== String(state.accepted)) {
    marks.accepted = state.accepted
    marks.draw()
  }
  if (state.failure) toast(state.failure, 'error')
}

function receive(change, painting) {
  const complete = change.version === version + 1
  if (!painting) volume.remember()
  let changed = painting?.changed ?? 0
  if (change.box && complete) changed += volume.setLabels(change.box, change.labels)
  version = complete ? change.version : version
  marks.changed = change.box?.[volume.main] ?? null
  marks.voxels = changed
  for (const notice of change.notices) toast(notice)
  if (!complete) return refresh()
  paintPending(painting)
  countVoxels()
}

/** What was painted and not answered yet stays on the screen. */
function paintPending(answered) {
  for (const { painting } of marks.pending) if (painting && painting !== answered) painting.again()
  if (marks.stroke?.painting) marks.stroke.painting.again()
  volume.showLabels()
}

/** All of the label map: at the start, and if somebody else has changed it. */
async function refresh() {
  const change = await server.labels()
  version = change.version
  volume.setLabels(change.box, change.labels)
  volume.remember()
  marks.clear()
  for (const prompt of await server.prompts()) marks.add(prompt)
  paintPending(null)
  marks.draw()
  countVoxels()
}

/** One after the other, in the order of the clicks. */
function send(prompt, painting = null) {
  const entry = { prompt, painting }
  if (!['undo', 'redo', 'reset', 'automatic'].includes(prompt.type)) marks.pending.push(entry)
  volume.draw()
  sending = sending.then(() =>
    attempt(async () => {
      watch()
      const done = () => (marks.pending = marks.pending.filter((other) => other !== entry))
      try {
        const change = await server.prompt(prompt)
        marks.add(prompt)
        await receive(change, painting)
      } catch (error) {
        done()
        if (painting) await refresh().catch(() => painting.takeBack()) // what was painted is not so
        throw error
      } finally {
        done()
        volume.draw()
        showState(await server.state())
        if (cases.length) showCases(await server.cases())
      }
    }),
  )
  return sending
}

/** Another tab may have changed something, or opened another case. */
async function lookAgain() {
  const state = await server.state().catch(() => null)
  if (!state || marks.pending.length || state.busy) return
  if (state.case !== description.name) return void location.reload()
  if (state.version !== version) await refresh()
  showState(state)
}

const undo = () => (!$('undo').disabled || marks.pending.length) && send({ type: 'undo' })
const redo = () => (!$('redo').disabled || marks.pending.length) && send({ type: 'redo' })
const lock = (value) => send({ type: 'lock', label: value, locked: !locked.includes(value) })
function acceptSlice() {
  const slice = volume.crosshair[volume.axisOf(volume.plane)]
  return send({ type: 'accept', slice, accepted: !marks.accepted.includes(slice) })
}
const automatic = () => send({ type: 'automatic' })
const reset = () => $('confirm-reset').showModal()
const save = () =>
  attempt(async () => {
    if (!description.saves_to) return void $('download').click()
    const { file } = await server.save()
    toast(`Saved as ${file}`, 'good')
  })

// -- cases ---------------------------------------------------------------------------------------------------------

const SIGNS = { untouched: '○', 'in work': '◐', accepted: '●' }

function showCases(listed) {
  cases = listed
  $('cases-part').hidden = $('accept').hidden = !cases.length
  const rows = cases.map(({ name, status }) => {
    const sign = element('span', { className: 'sign', title: status }, SIGNS[status])
    const row = element('button', { type: 'button', title: `${name}: ${status}` }, sign, element('span', { className: 'name' }, name), element('span', { className: 'amount' }, status))
    row.dataset.status = status
    row.setAttribute('aria-current', String(name === description.name))
    row.addEventListener('click', () => openCase(name))
    return row
  })
  const scrolled = $('cases').scrollTop
  $('cases').replaceChildren(...rows)
  $('cases').scrollTop = scrolled
  $('cases-title').textContent = `Cases, ${cases.filter(({ status }) => status === 'accepted').length} of ${cases.length} accepted`
}

const openCase = (name) =>
  attempt(async () => {
    if (name === description.name) return
    await sending // what was drawn belongs to this case
    await server.open(name)
    location.reload()
  })

/** The case before or after this one. */
function neighbour(by) {
  const found = cases[cases.findIndex(({ name }) => name === description.name) + by]
  return found && openCase(found.name)
}

/** Save this case as accepted, and open the next one that is not. */
const acceptCase = () =>
  attempt(async () => {
    if (!cases.length) return
    await sending
    showCases(await server.accept(true))
    const here = cases.findIndex(({ name }) => name === description.name)
    const next = [...cases.slice(here + 1), ...cases.slice(0, here)].find(({ status }) => status !== 'accepted')
    if (next) return void openCase(next.name)
    toast('All cases are accepted', 'good')
  })

// -- labels, tools, view -------------------------------------------------------------------------------------------

function buildLabels() {
  const list = $('labels')
  foreground().forEach(({ value, name }, number) => {
    const swatch = element('span', { className: 'swatch' })
    swatch.style.background = colourOf(value)
    const key = number < 9 ? element('kbd', {}, String(number + 1)) : ''
    const amount = element('span', { className: 'amount', id: `amount-${value}` })
    const button = element('button', { type: 'button', id: `label-${value}` }, swatch, element('span', { className: 'name' }, name), amount, key)
    button.addEventListener('click', () => chooseLabel(value))
    button.setAttribute('role', 'radio')
    const lockButton = element('button', { type: 'button', id: `lock-${value}`, className: 'lock', title: `Lock ${name}: no voxel of it comes or goes (K)` }, icon('unlocked'), icon('locked'))
    lockButton.setAttribute('aria-label', `Lock ${name}`)
    lockButton.addEventListener('click', () => lock(value))
    list.append(element('div', { className: 'label-row' }, button, lockButton))
  })
  chooseLabel(foreground()[0].value)
}

function chooseLabel(value) {
  label = value
  for (const { value: other } of foreground()) $(`label-${other}`).setAttribute('aria-checked', String(other === value))
}

function buildTools() {
  for (const [name, { name: shown, key, hint }] of Object.entries(TOOLS)) {
    const button = element('button', { type: 'button', id: `tool-${name}`, title: `${hint} (${key.toUpperCase()})` })
    button.append(icon(name), element('span', {}, shown))
    button.setAttribute('role', 'radio')
    button.addEventListener('click', () => chooseTool(name))
    $('tools').append(button)
  }
  chooseTool('point')
}

const ICONS = {
  point: 'M12 3v6M12 15v6M3 12h6M15 12h6',
  scribble: 'M3 17c4-10 6-10 7-5s3 6 5 0 3-6 6-4',
  lasso: 'M12 4c5 0 8 2.5 8 6s-3 6-8 6-8-2.5-8-6 3-6 8-6zM8 16c-1 3 0 4 3 4',
  box: 'M4 5h16v14H4z',
  brush: 'M20 4L10 14M10 14c-4-1-5 2-6 6 4 1 8 0 6-6',
  unlocked: 'M6 11h12v9H6zM8 11V7c0-5 8-5 8 0',
  locked: 'M6 11h12v9H6zM8 11V8c0-5 8-5 8 0v3',
  eraser: 'M4 15L13 6l6 6-7 7H8zM9 10l6 6',
  look: 'M2 12c4-7 16-7 20 0-4 7-16 7-20 0zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6',
}

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  svg.setAttribute('viewBox', '0 0 24 24')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  path.setAttribute('d', ICONS[name])
  svg.append(path)
  return svg
}

function chooseTool(name) {
  tool = name
  for (const other of Object.keys(TOOLS)) $(`tool-${other}`).setAttribute('aria-checked', String(other === name))
  $('hint').textContent = TOOLS[name].hint
  $('size-part').hidden = !['scribble', 'brush', 'eraser'].includes(name)
  $('image').dataset.tool = name
}

function chooseWidth(number) {
  width = WIDTHS[Math.max(0, Math.min(WIDTHS.length - 1, number))]
  $('size').value = String(WIDTHS.indexOf(width))
  $('size-shown').textContent = `${width} px`
  pointer?.resized()
}

function countVoxels() {
  const counts = new Float64Array(256)
  for (const value of volume.labels) counts[value]++
  const [rows, columns] = [0, 1].map((row) => volume.affine[row])
  const voxel = Math.abs(determinant([rows, columns, volume.affine[2]])) / 1000
  for (const { value } of foreground()) $(`amount-${value}`).textContent = counts[value] ? `${millilitres(counts[value] * voxel)} ml` : '–'
}

const millilitres = (ml) => ml.toLocaleString('en', { maximumSignificantDigits: ml < 100 ? 2 : 3 })

const determinant = ([a, b, c]) => a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])

function hover(found) {
  const at = found?.at ?? volume.crosshair
  const value = volume.labelAt(at)
  const name = description.labels.find((entry) => entry.value === value)?.name ?? ''
  const mm = volume.toMm(at).map((part, axis) => `${'RAS'[axis]} ${part.toFixed(1)}`).join('  ')
  $('where').textContent = `x ${at[2]}  y ${at[1]}  z ${at[0]}    ${mm} mm    ${name}`
}

function showOpacity() {
  volume.setOpacity(hidden ? 0 : opacity, outlines)
  marks.visible = !hidden
  marks.draw()
  $('visible').checked = !hidden
  $('outlines').checked = outlines
}

function showSpace(space) {
  if (space) pointer.abandon()
  volume.showSpace(space)
  $('space').checked = space
}

// -- keys ----------------------------------------------------------------------------------------------------------

function key(event) {
  if (document.querySelector('dialog[open]') || event.altKey) return
  const typed = event.key.toLowerCase()
  const onControl = event.target instanceof HTMLElement && event.target.matches('input, select')
  if (onControl && event.target.matches('[type=number]')) return typed === 'enter' || typed === 'escape' ? event.target.blur() : undefined
  const handled = () => event.preventDefault()
  if (event.ctrlKey || event.metaKey) {
    if (typed === 'z') return handled(), event.shiftKey ? redo() : undo()
    if (typed === 'y') return handled(), redo()
    if (typed === 's') return handled(), save()
    if (typed === 'enter') return handled(), acceptCase()
    return undefined
  }
  if (typed === 'escape') return pointer.drawing ? pointer.abandon() : $('working').hidden ? undefined : server.cancel()
  if (/^[1-9]$/.test(typed)) {
    const entry = foreground()[Number(typed) - 1]
    return entry && chooseLabel(entry.value)
  }
  if (onControl && typed.startsWith('arrow')) return undefined
  if (typed === 'm') return showSpace(!volume.space)
  if (volume.space && /^(arrow|page|enter|delete)/.test(typed)) return handled() // they are about slices, which are not shown
  const onButton = event.target instanceof HTMLElement && event.target.matches('button, a')
  if (typed === 'pageup' || typed === 'pagedown') return handled(), volume.scroll(volume.plane, typed === 'pageup' ? 1 : -1)
  const direction = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[typed]
  if (direction) return handled(), volume.step(direction)
  if ((typed === 'enter' && !onButton) || typed === 'delete') {
    const prompt = { type: 'point', label, at: volume.crosshair }
    return handled(), send(typed === 'delete' ? { ...prompt, include: false } : prompt)
  }
  if (typed === 'h') return (hidden = !hidden), showOpacity()
  if (typed === 'a') return automatic()
  if (typed === 'o') return (outlines = !outlines), showOpacity()
  if (typed === 'p') return event.repeat || volume.compare(true)
  if (typed === 'w') return toast(`Window: ${windows.next()}`)
  if (typed === 'k') return lock(label)
  if (typed === 'y') return acceptSlice()
  if (typed === 'n') return neighbour(event.shiftKey ? -1 : 1)
  const larger = { '[': -1, ',': -1, ']': 1, '.': 1 }[typed]
  if (larger) return chooseWidth(WIDTHS.indexOf(width) + larger)
  if (typed === '?') return $('help').showModal()
  if (typed === '+' || typed === '-') return volume.zoom(typed === '+' ? 1.25 : 0.8)
  if (typed === '0') return volume.zoom(0)
  const chosen = Object.keys(TOOLS).find((name) => TOOLS[name].key === typed)
  return chosen && chooseTool(chosen)
}

// -- start ---------------------------------------------------------------------------------------------------------

async function start() {
  description = await server.case()
  document.title = `${description.name} · nnunet-ext`
  $('name').textContent = description.name
  const colours = new Map(foreground().map(({ value }) => [value, colourOf(value)]))
  volume = new Volume($('image'), description, colours)
  marks = new Marks($('marks'), volume, colourOf)
  volume.onDraw = () => {
    marks.draw()
    hover(null)
  }
  buildLabels()
  buildTools()
  const channels = $('channel')
  description.channels.forEach((name, number) => channels.append(element('option', { value: String(number) }, name)))
  $('channels').hidden = description.channels.length < 2
  await volume.load(0)
  showOpacity()
  const fields = { level: $('level'), width: $('width'), levelNumber: $('level-number'), widthNumber: $('width-number'), preset: $('preset') }
  windows = new Windows(fields, volume)
  windows.start(description.channels[0])
  const setWindow = (right, down) => windows.drag(right, down)
  pointer = new Pointer($('image'), volume, marks, { now: () => ({ tool, label, width, locked }), send, hover, setWindow })
  chooseWidth(WIDTHS.indexOf(width))

  const changeChannel = async () => {
    const number = Number(channels.value)
    showSpace(false)
    await volume.load(number)
    windows.start(description.channels[number])
  }
  channels.addEventListener('change', () => attempt(changeChannel))
  $('opacity').addEventListener('input', () => ((opacity = Number($('opacity').value) / 100), (hidden = false), showOpacity()))
  $('visible').addEventListener('change', () => ((hidden = !$('visible').checked), showOpacity()))
  $('outlines').addEventListener('change', () => ((outlines = $('outlines').checked), showOpacity()))
  $('space').addEventListener('change', () => showSpace($('space').checked))
  $('size').addEventListener('input', () => chooseWidth(Number($('size').value)))
  $('undo').addEventListener('click', undo)
  $('redo').addEventListener('click', redo)
  $('accept').addEventListener('click', acceptCase)
  $('automatic').addEventListener('click', automatic)
  $('reset').addEventListener('click', reset)
  $('reset-yes').addEventListener('click', () => send({ type: 'reset' }))
  $('save').addEventListener('click', save)
  $('cancel').addEventListener('click', () => attempt(server.cancel))
  $('help-open').addEventListener('click', () => $('help').showModal())
  for (const dialog of document.querySelectorAll('dialog')) dialog.addEventListener('close', () => $('image').focus())
  document.addEventListener('keydown', key)
  document.addEventListener('keyup', (event) => event.key.toLowerCase() === 'p' && volume.compare(false))
  window.addEventListener('blur', () => volume.comparing && volume.compare(false))
  window.addEventListener('focus', () => attempt(lookAgain))
  new ResizeObserver(() => requestAnimationFrame(() => volume.draw())).observe($('image'))
  if (description.saves_to) $('save').title = `Save as ${description.saves_to} (Ctrl+S)`
  else { // there is nothing to save to, so the download is what saves
    $('save').hidden = true
    $('download').classList.add('primary')
  }

  $('kept').textContent = description.kept_in ? `Kept in ${description.kept_in} after every change` : 'Not kept: started without --out'
  showCases(await server.cases())
  watch()
  await refresh() // waits for the automatic result
  showState(await server.state())
  document.body.dataset.ready = 'true'
  if (description.resumed) toast(`This case goes on where it ended, after ${description.resumed} prompts`)
}

// for tests, and for whoever opens the console
window.viewer = {
  get volume() {
    return volume
  },
  get version() {
    return version
  },
}

start().catch((error) => toast(error.message, 'error'))
