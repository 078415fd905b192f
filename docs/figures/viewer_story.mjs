// Corrects a phantom in the page as a user would, with a picture after every step, for draw_viewer.py.
// node viewer_story.mjs PLAYWRIGHT CHROMIUM LINK FOLDER PLACES, which are positions z, y, x as JSON
import { join } from 'node:path'

const [playwright, executablePath, link, folder, places] = process.argv.slice(2)
const { chromium } = await import(playwright)
const { lesion, error, rest } = JSON.parse(places)
const args = ['--no-sandbox', '--disable-gpu', '--use-angle=swiftshader', '--enable-unsafe-swiftshader']
const browser = await chromium.launch({ executablePath, args })
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
page.setDefaultTimeout(600_000)

/** Do something that changes the segmentation, and wait for it. */
const doing = async (action) => {
  const before = await page.evaluate(() => window.viewer.version)
  await action()
  await page.waitForFunction((version) => window.viewer.version > version, before)
  await page.waitForFunction(() => document.getElementById('working').hidden)
}
const picture = (name) => page.screenshot({ path: join(folder, `viewer_${name}.jpg`), type: 'jpeg', quality: 90 })
/** Where a voxel is in the page, in the large view; it must be in the slice that is shown. */
const at = (voxel) =>
  page.evaluate((zyx) => {
    const { volume } = window.viewer
    const frame = volume.canvas.getBoundingClientRect()
    const [x, y] = volume.pixelOf(zyx, volume.plane).map((value) => (value * frame.width) / volume.canvas.width)
    return [frame.left + x, frame.top + y]
  }, voxel)
const drag = async (voxels) => {
  await page.mouse.move(...(await at(voxels[0])))
  await page.mouse.down()
  for (const voxel of voxels.slice(1)) await page.mouse.move(...(await at(voxel)), { steps: 6 })
}
const key = (name) => page.keyboard.press(name)
const goTo = async (slice) => {
  const by = slice - (await page.evaluate(() => window.viewer.volume.crosshair[0]))
  for (let step = 0; step < Math.abs(by); step++) await key(by > 0 ? 'PageUp' : 'PageDown')
}

await page.goto(link)
await page.waitForSelector('body[data-ready]')
await key('3')
await key('c')
await goTo(lesion[0])
await picture('automatic')

await doing(async () => page.mouse.click(...(await at(lesion))))
await picture('click')

await goTo(error[0][0])
await key('s')
await page.mouse.move(...(await at(error[0])))
await page.mouse.down({ button: 'right' })
for (const voxel of error.slice(1)) await page.mouse.move(...(await at(voxel)), { steps: 6 })
await doing(() => page.mouse.up({ button: 'right' }))
await picture('scribble')

await key('e')
await key('[')
await drag(rest)
await picture('brush')
await doing(() => page.mouse.up())

await doing(() => page.click('#lock-3'))
await doing(() => key('y'))
await key('Control+s')
await page.waitForSelector('#toast.good')
await picture('saved')
await browser.close()
