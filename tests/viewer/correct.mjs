// What a user does to correct a segmentation by hand: node correct.mjs PLAYWRIGHT CHROMIUM LINK OUT_FOLDER WHICH
// first: everything; again: look at what was kept; killed: click, while the server is killed
// Writes label maps as the page has them, and answers with what it saw as JSON.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [playwright, executablePath, link, out, which] = process.argv.slice(2)
const { chromium } = await import(pathToFileURL(join(playwright, 'index.mjs')))
const quiet = ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking']
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-component-update', '--disable-sync', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', ...quiet],
})
const context = await browser.newContext({ viewport: { width: 1000, height: 700 } })
context.setDefaultTimeout(240_000)
const seen = { errors: [] }

async function opened(address) {
  const page = await context.newPage()
  page.on('pageerror', (error) => seen.errors.push(String(error)))
  page.on('console', (message) => message.type() === 'error' && seen.errors.push(message.text()))
  await page.goto(address)
  await page.waitForSelector('body[data-ready]')
  return page
}
const begin = Date.now()
const page = await opened(link)
seen.seconds_to_image = (Date.now() - begin) / 1000
const version = (of = page) => of.evaluate(() => window.viewer.version)
const doing = async (action, of = page) => {
  const before = await version(of)
  await action()
  await of.waitForFunction((number) => window.viewer.version > number, before)
  await of.waitForFunction(() => document.getElementById('working').hidden)
}
const labels = (of = page) => of.evaluate(() => [...window.viewer.volume.labels])
const keep = async (name, of = page) => writeFileSync(join(out, name), Buffer.from(await labels(of)))
const toast = () => page.evaluate(() => (document.getElementById('toast').hidden ? '' : document.getElementById('toast').textContent))
/** Where a voxel of the slice that is shown is in the page. */
const place = (zyx, of = page) =>
  of.evaluate((voxel) => {
    const { volume } = window.viewer
    const [x, y] = volume.pixelOf(voxel, volume.plane)
    const frame = volume.canvas.getBoundingClientRect()
    const scale = volume.canvas.width / frame.width
    return [frame.left + x / scale, frame.top + y / scale]
  }, zyx)
const drag = async (voxels, options, of = page) => {
  await of.mouse.move(...(await place(voxels[0], of)))
  await of.mouse.down(options)
  for (const voxel of voxels.slice(1)) await of.mouse.move(...(await place(voxel, of)), { steps: 3 })
}
const [z] = await page.evaluate(() => window.viewer.volume.crosshair)
const at = (y, x) => [z, y, x]
seen.slice = z
seen.resumed = await toast()
await keep('opened')
if (which === 'again') {
  await page.screenshot({ path: join(out, 'again.png') })
  await browser.close()
  console.log(JSON.stringify(seen))
  process.exit(0)
}

if (which === 'killed') {
  await page.keyboard.press('d')
  await page.keyboard.press('1')
  await drag([at(70, 10), at(70, 20)])
  await doing(() => page.mouse.up())
  await keep('painted before')
  await page.keyboard.press('c')
  await page.keyboard.press('3')
  // the first that the page hears is that the server works, the next that it is gone
  const state = await page.evaluate(() => fetch('api/state').then((answer) => answer.json()))
  await page.route('**/api/state', (route) => route.fulfill({ json: { ...state, busy: true } }), { times: 1 })
  await page.mouse.click(...(await place(at(38, 34)))) // the server does not live to answer this
  await page.waitForFunction(() => document.getElementById('toast').className === 'error')
  seen.said = await toast()
  await page.waitForFunction(() => document.getElementById('working').hidden, null, { timeout: 20_000 })
  seen.errors = seen.errors.filter((text) => !text.includes('ERR_'))
  await page.screenshot({ path: join(out, 'killed.png') })
  await browser.close()
  console.log(JSON.stringify(seen))
  process.exit(0)
}

// a brush: what is seen while the mouse is down is what the server makes of it
await page.keyboard.press('d')
await page.keyboard.press('4')
await page.keyboard.press(']')
seen.size = await page.textContent('#size-shown')
await drag([at(20, 20), at(26, 30)])
await page.waitForTimeout(100)
await keep('painting')
await page.screenshot({ path: join(out, 'painting.png') })
await doing(() => page.mouse.up())
await keep('painted')
await page.keyboard.down('p')
seen.compared = await page.evaluate(() => window.viewer.volume.nv.drawBitmap === window.viewer.volume.before)
await page.keyboard.up('p')
seen.compared_no_more = await page.evaluate(() => window.viewer.volume.nv.drawBitmap === window.viewer.volume.labels)

// the eraser, and a stroke that is given up
await page.keyboard.press('e')
await page.keyboard.press('[')
await drag([at(23, 25), at(23, 29)])
await doing(() => page.mouse.up())
await keep('erased')
await drag([at(40, 40), at(45, 40)])
await page.keyboard.press('Escape')
await page.mouse.up()
await keep('given up')

// undo, redo, and a lock that holds under a brush
await doing(() => page.keyboard.press('Control+z'))
await keep('undone')
await doing(() => page.keyboard.press('Control+y'))
await keep('done again')
await doing(() => page.click('#lock-4'))
seen.locked = await page.getAttribute('#lock-4', 'aria-pressed')
await page.keyboard.press('d')
await page.keyboard.press('1')
await drag([at(20, 16), at(20, 24)])
await keep('painting around')
await doing(() => page.mouse.up())
await keep('painted around')
await doing(() => page.keyboard.press('k'), page)
await doing(() => page.keyboard.press('k'), page)

// the same stroke once more changes nothing, and the page says so
await drag([at(20, 16), at(20, 24)])
await doing(() => page.mouse.up())
seen.nothing = await toast()

// a click of which the network is told
await page.keyboard.press('c')
await page.keyboard.press('3')
const clicked = Date.now()
await doing(async () => page.mouse.click(...(await place(at(38, 34)))))
seen.seconds_of_a_click = (Date.now() - clicked) / 1000
await keep('clicked')
await page.screenshot({ path: join(out, 'clicked.png') })

// windows: a number, a drag, a key
await page.fill('#level-number', '500')
await page.keyboard.press('Enter')
seen.level = await page.evaluate(() => [window.viewer.volume.nv.volumes[0].cal_min, window.viewer.volume.nv.volumes[0].cal_max])
await page.keyboard.down('Control')
await drag([at(40, 40), at(60, 40)])
await page.mouse.up()
await page.keyboard.up('Control')
seen.dragged = Number(await page.inputValue('#level-number'))
await page.click('#image', { button: 'middle', position: { x: 5, y: 300 } })
await page.keyboard.press('w')
seen.window = await page.evaluate(() => document.getElementById('preset').selectedOptions[0].textContent)
await page.keyboard.press('o')
await page.screenshot({ path: join(out, 'outlines.png') })
await page.keyboard.press('o')

// in space: structures that can be turned, and nothing can be corrected by accident
const shot = async (name) => page.locator('#image').screenshot({ path: join(out, name) })
const before = await version()
await page.keyboard.press('m')
await shot('space.png')
await page.mouse.move(300, 300)
await page.mouse.down()
await page.mouse.move(380, 330, { steps: 3 })
await page.mouse.up()
seen.turned = await page.evaluate(() => [window.viewer.volume.nv.scene.renderAzimuth, window.viewer.volume.nv.scene.renderElevation])
await shot('turned.png')
await page.keyboard.press('Enter')
await page.keyboard.press('ArrowLeft')
await keep('in space')
seen.prompts_in_space = (await version()) - before
await page.keyboard.press('m')
seen.slices_again = await page.evaluate(() => window.viewer.volume.nv.screenSlices.length)

// two tabs: what one does, the other sees when somebody looks at it
const other = await opened(new URL('/', link).href)
await other.keyboard.press('d')
await drag([at(60, 60), at(64, 60)], {}, other)
await doing(() => other.mouse.up(), other)
await keep('other', other)
await doing(() => page.evaluate(() => window.dispatchEvent(new Event('focus'))))
await keep('first')
await browser.close()
console.log(JSON.stringify(seen))
