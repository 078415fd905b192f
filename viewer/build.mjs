// Builds the page into nnunet_ext/viewer/page: npm ci && npm run build
import { build } from 'esbuild'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync, existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const page = join(here, '..', 'nnunet_ext', 'viewer', 'page')
rmSync(page, { recursive: true, force: true })
mkdirSync(page, { recursive: true })

// what a test compares, so that the page that is committed is that of these sources
const hash = createHash('sha256')
const sources = [...readdirSync(join(here, 'src')).map((name) => `src/${name}`), 'build.mjs', 'package-lock.json']
for (const name of sources.sort()) hash.update(name).update('\0').update(readFileSync(join(here, name))).update('\0')

// NiiVue can read Zarr; the decoders for it are more than half of the bundle, and the page never asks for them
const withoutZarrDecoders = {
  name: 'without-zarr-decoders',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^numcodecs\// }, ({ path }) => ({ path, namespace: 'none' }))
    esbuild.onLoad({ filter: /.*/, namespace: 'none' }, () => ({ contents: 'export default undefined' }))
  },
}

const result = await build({
  entryPoints: [join(here, 'src', 'main.js')],
  outfile: join(page, 'viewer.js'),
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  legalComments: 'none', // the licences are in licences.txt, whole
  metafile: true,
  plugins: [withoutZarrDecoders],
  logLevel: 'warning',
  banner: { js: `// nnunet-ext ${hash.digest('hex')}; licences of what is bundled: licences.txt` },
})
for (const name of ['index.html', 'viewer.css']) copyFileSync(join(here, 'src', name), join(page, name))

const bundled = new Set()
for (const file of Object.keys(result.metafile.inputs)) {
  const found = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)
  if (found) bundled.add(found[1])
}
const texts = [...bundled].sort().map((name) => {
  const folder = join(here, 'node_modules', name)
  const { version, license } = JSON.parse(readFileSync(join(folder, 'package.json')))
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry))
  const own = join(here, 'licences', `${name.replace('/', '__')}.txt`) // of packages that ship without their text
  const path = file ? join(folder, file) : own
  if (!existsSync(path)) throw new Error(`${name} has no licence text; put it into ${own}`)
  return `${name} ${version} (${license})\n\n${readFileSync(path, 'utf8').trim()}\n`
})
writeFileSync(join(page, 'licences.txt'), texts.join(`\n${'-'.repeat(80)}\n\n`))
