// What the server is asked for; every refusal is an Error with the server's sentence.

async function request(path, options) {
  let answer
  try {
    answer = await fetch(path, options)
  } catch {
    throw new Error('The server does not answer. Was it stopped?')
  }
  if (answer.ok) return answer
  const text = await answer.text()
  let sentence = text
  try {
    sentence = JSON.parse(text).detail ?? text
  } catch {
    // plain text, or nothing
  }
  const error = new Error(sentence || `The server answers ${answer.status}.`)
  error.status = answer.status
  throw error
}

const json = async (path, options) => (await request(path, options)).json()

async function change(path, options) {
  const answer = await request(path, options)
  const { version, box, notices } = JSON.parse(answer.headers.get('X-Change'))
  return { version, box, notices, labels: new Uint8Array(await answer.arrayBuffer()) }
}

let shown = '' // name of the case, so that nothing is done to another one that was opened in another tab

const post = (body) => ({
  method: 'POST',
  headers: { 'Content-Type': 'application/json', 'X-Case': encodeURIComponent(shown) },
  body: JSON.stringify(body ?? {}),
})

export const server = {
  case: async () => {
    const description = await json('api/case')
    shown = description.name
    return description
  },
  cases: async () => (await json('api/cases')).cases,
  open: (name) => json('api/open', post({ name })),
  accept: async (accepted) => (await json('api/accept', post({ accepted }))).cases,
  state: () => json('api/state'),
  prompts: async () => (await json('api/prompts')).prompts,
  labels: () => change('api/labels'),
  prompt: (prompt) => change('api/prompt', post(prompt)),
  cancel: () => json('api/cancel', post()),
  save: () => json('api/save', post()),
}
