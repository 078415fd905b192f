// Opens the page of `s2v serve` and clicks in it, for viewer_times.py; prints seconds as JSON.
// node viewer_times.mjs PLAYWRIGHT CHROMIUM LINK CLICKS, which are {at: [z, y, x], label} as JSON
const [playwright, executablePath, link, clicks] = process.argv.slice(2)
const { chromium } = await import(playwright)
const args = ['--no-sandbox', '--disable-gpu', '--use-angle=swiftshader', '--enable-unsafe-swiftshader']
const browser = await chromium.launch({ executablePath, args })
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
page.setDefaultTimeout(600_000)
const seconds = (since) => (performance.now() - since) / 1000

let begin = performance.now()
await page.goto(link)
await page.waitForFunction(() => document.getElementById('kept').textContent) // written once the image is shown
const image = seconds(begin)
await page.waitForSelector('body[data-ready]')
const automatic = seconds(begin)

const masks = []
await page.keyboard.press('c')
for (const { at, label } of JSON.parse(clicks)) {
  const by = at[0] - (await page.evaluate(() => window.viewer.volume.crosshair[0]))
  for (let step = 0; step < Math.abs(by); step++) await page.keyboard.press(by > 0 ? 'PageUp' : 'PageDown')
  await page.keyboard.press(String(label))
  const [place, before] = await page.evaluate((zyx) => {
    const { volume, version } = window.viewer
    const frame = volume.canvas.getBoundingClientRect()
    const [x, y] = volume.pixelOf(zyx, volume.plane).map((value) => (value * frame.width) / volume.canvas.width)
    return [[frame.left + x, frame.top + y], version]
  }, at)
  begin = performance.now()
  await page.mouse.click(...place)
  await page.waitForFunction((version) => window.viewer.version > version, before)
  masks.push(seconds(begin))
  await page.waitForFunction(() => document.getElementById('working').hidden)
}
await browser.close()
console.log(JSON.stringify({ image, automatic, masks }))
