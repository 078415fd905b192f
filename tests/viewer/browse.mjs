// What a user does in the page, in a real browser: node browse.mjs PLAYWRIGHT CHROMIUM LINK OUT_FOLDER
// Writes label maps as the page has them, and answers with what it saw as JSON.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [playwright, executablePath, link, out] = process.argv.slice(2)
const { chromium } = await import(pathToFileURL(join(playwright, 'index.mjs')))
const quiet = ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking']
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-component-update', '--disable-sync', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', ...quiet],
})
const page = await browser.newPage({ viewport: { width: 1000, height: 640 } })
page.setDefaultTimeout(120_000)
const seen = { errors: [], elsewhere: [] }
page.on('pageerror', (error) => seen.errors.push(String(error)))
page.on('console', (message) => message.type() === 'error' && seen.errors.push(message.text()))
page.on('request', (request) => request.url().startsWith(new URL(link).origin) || request.url().startsWith('data:') || seen.elsewhere.push(request.url()))

const ready = () => page.waitForSelector('body[data-ready]')
const version = () => page.evaluate(() => window.viewer.version)
const settled = async (after) => {
  await page.waitForFunction((before) => window.viewer.version > before, after)
  await page.waitForFunction(() => document.getElementById('working').hidden)
}
/** Do something that changes the segmentation, and wait for it. */
const doing = async (action) => {
  const before = await version()
  await action()
  await settled(before)
}
const keep = async (name) => {
  const shown = await page.evaluate(() => [...window.viewer.volume.labels])
  writeFileSync(join(out, name), Buffer.from(shown))
}
/** Pixels of the picture that are so: their number and centre, in page coordinates, within a frame of the page. */
const pixels = (frame, kind) =>
  page.evaluate(
    ([[left, top, width, height], kind]) => {
      const canvas = document.getElementById('image')
      const scale = canvas.width / canvas.clientWidth
      const place = canvas.getBoundingClientRect()
      window.viewer.volume.nv.drawScene() // reading is possible only right after drawing
      const copy = new OffscreenCanvas(canvas.width, canvas.height)
      const context = copy.getContext('2d')
      context.drawImage(canvas, 0, 0)
      const area = [left - place.left, top - place.top, width, height].map((value) => Math.round(value * scale))
      const { data } = context.getImageData(...area)
      let [number, x, y] = [0, 0, 0]
      for (let at = 0; at < data.length; at += 4) {
        const [r, g, b] = [data[at], data[at + 1], data[at + 2]]
        const matches = kind === 'white' ? Math.min(r, g, b) > 200 : Math.max(r, g, b) - Math.min(r, g, b) > 40
        if (!matches) continue
        number += 1
        x += (at / 4) % area[2]
        y += Math.floor(at / 4 / area[2])
      }
      return { number, x: left + (x / number + 0.5) / scale, y: top + (y / number + 0.5) / scale }
    },
    [frame, kind],
  )
const slider = (id, value) =>
  page.evaluate(([id, value]) => {
    const input = document.getElementById(id)
    input.value = value
    input.dispatchEvent(new Event('input'))
  }, [id, value])

// as from webmail: clicked on a page of another site
await page.goto(`data:text/html,<a href="${link}">the segmentation</a>`)
await page.click('a')
await ready()
seen.address = page.url()
seen.title = await page.title()
seen.cookies = (await page.context().cookies()).map(({ httpOnly, sameSite }) => ({ httpOnly, sameSite }))
seen.scripts = await page.evaluate(() => document.cookie)
await keep('automatic')
const stage = await page.locator('#image').boundingBox()
const whole = [stage.x, stage.y, stage.width, stage.height]
seen.coloured = (await pixels(whole, 'coloured')).number
await page.keyboard.press('h')
seen.hidden = (await pixels(whole, 'coloured')).number

// one voxel of the image is far brighter than all others: look for it in the picture, in each of the three views
await slider('level', 500)
await slider('width', 1000)
await page.keyboard.press('v')
const views = {
  large: [0, 0, 0.62, 1],
  above: [0.625, 0, 0.375, 0.4975],
  below: [0.625, 0.5025, 0.375, 0.4975],
}
seen.bright = {}
let bright
for (const [name, [left, top, width, height]] of Object.entries(views)) {
  const frame = [stage.x + left * stage.width, stage.y + top * stage.height, width * stage.width, height * stage.height].map(Math.round)
  await page.mouse.move(frame[0] + frame[2] / 2, frame[1] + frame[3] / 2)
  for (let step = 0; step < 30; step++) await page.mouse.wheel(0, -100) // to one end
  let best = { number: 0 }
  for (let step = 0; step < 30; step++) {
    const found = await pixels(frame, 'white')
    if (found.number > best.number) best = { ...found, step }
    await page.mouse.wheel(0, 100)
  }
  for (let step = 0; step < 30; step++) await page.mouse.wheel(0, -100)
  for (let step = 0; step < best.step; step++) await page.mouse.wheel(0, 100)
  await page.mouse.click(best.x, best.y)
  seen.bright[name] = await page.textContent('#where')
  if (name === 'large') bright = best
}
// the same where the image is zoomed and moved
await page.mouse.click(bright.x, bright.y)
for (let step = 0; step < 3; step++) await page.keyboard.press('+')
await page.keyboard.down('Shift')
await page.mouse.move(bright.x, bright.y)
await page.mouse.down()
await page.mouse.move(bright.x - 60, bright.y - 45, { steps: 3 })
await page.mouse.up()
await page.keyboard.up('Shift')
const large = [stage.x, stage.y, 0.62 * stage.width, stage.height].map(Math.round)
const moved = await pixels(large, 'white')
seen.dragged = [moved.x - bright.x, moved.y - bright.y]
await page.mouse.click(stage.x + 20, stage.y + stage.height / 2) // away, and back
await page.mouse.click(moved.x, moved.y)
seen.bright.zoomed = await page.textContent('#where')
await page.keyboard.press('0')
await page.keyboard.press('h')
await page.screenshot({ path: join(out, 'look.png') })

// click on it, for the second label
await page.keyboard.press('2')
await page.keyboard.press('c')
await doing(() => page.mouse.click(bright.x, bright.y))
await keep('clicked')
await doing(() => page.mouse.click(bright.x + 60, bright.y + 40, { button: 'right' }))
await keep('removed')
await page.keyboard.press('s')
await page.keyboard.press('1')
const drag = async (...places) => {
  await page.mouse.move(...places[0])
  await page.mouse.down()
  for (const place of places.slice(1)) await page.mouse.move(...place, { steps: 4 })
  await page.mouse.up()
}
const near = (dx, dy) => [bright.x + dx, bright.y + dy]
await doing(() => drag(near(-70, 10), near(-40, 30), near(-10, 50)))
await keep('scribbled')
await page.click('#tool-lasso')
await doing(() => drag(near(20, -60), near(80, -60), near(80, -10), near(20, -10)))
await page.click('#tool-box')
await doing(() => drag(near(-80, -60), near(-30, -20)))
await page.click('#tool-eraser')
await doing(() => drag(near(-60, -50), near(-20, -50)))
await keep('erased')
await page.screenshot({ path: join(out, 'drawn.png') })
await doing(() => page.keyboard.press('Control+z'))
await doing(() => page.click('#undo'))
await doing(() => page.click('#undo'))
await keep('undone')

// the automatic result, and back
await doing(() => page.click('#automatic'))
await keep('automatic again')
await doing(() => page.click('#undo'))
await page.reload()
await ready()
await keep('reloaded')
seen.undo = await page.isEnabled('#undo')

// the keyboard alone: the crosshair, a click, undo; and a reset that is thought over
const crosshair = () => page.evaluate(() => window.viewer.volume.crosshair)
const places = [await crosshair()]
await page.keyboard.press('ArrowRight')
places.push(await crosshair())
await page.keyboard.press('ArrowDown')
await page.keyboard.press('PageUp')
places.push(await crosshair())
seen.crosshair = places
await doing(() => page.keyboard.press('Enter'))
await doing(() => page.keyboard.press('Control+z'))
await page.click('#reset')
await page.click('#confirm-reset button:first-of-type')

await page.click('#save')
await page.waitForFunction(() => document.getElementById('toast').textContent.startsWith('Saved as'))
const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')])
await download.saveAs(join(out, 'downloaded.nii.gz'))
seen.download = download.suggestedFilename()

// help says which keys there are
await page.keyboard.press('?')
seen.help = await page.isVisible('#help')
await page.keyboard.press('Escape')
// a link works once
const stranger = await (await browser.newContext()).newPage()
seen.again = (await stranger.goto(link)).status()
await browser.close()
console.log(JSON.stringify(seen))
