// One task with the npm client `ollama`: node ollama.mjs <address> <task> [model]
// Prints what came of it as one line of JSON; an error is printed too, as {"error": {...}}.
import { Ollama } from 'ollama';

const [host, task, model = 'tiny'] = process.argv.slice(2);
const client = new Ollama({ host });
const messages = [{ role: 'user', content: 'hi' }];
const seen = [];

async function collect(stream, pick) {
  for await (const part of await stream) seen.push(pick(part));
  return seen;
}

const tasks = {
  version: async () => (await client.version()).version,
  generate: async () => (await client.generate({ model, prompt: 'hi' })).response,
  generateStream: () =>
    collect(client.generate({ model, prompt: 'hi', stream: true }), (part) => part.response),
  chat: async () => (await client.chat({ model, messages })).message.content,
  chatStream: () =>
    collect(client.chat({ model, messages, stream: true }), (part) => part.message.content),
  embed: async () => (await client.embed({ model, input: ['hi', 'you'] })).embeddings,
  list: async () => (await client.list()).models.map((one) => one.name),
  ps: async () => (await client.ps()).models.map((one) => one.name),
  show: async () => (await client.show({ model })).details.family,
  pull: () => collect(client.pull({ model, stream: true }), (part) => part.status),
  lifecycle: async () => {
    const created = await client.create({ model: 'js-mine', from: model, stream: false });
    const copied = await client.copy({ source: 'js-mine', destination: 'js-yours' });
    const deleted = await client.delete({ model: 'js-mine' });
    const gone = await client.delete({ model: 'js-yours' });
    return [created, copied, deleted, gone].map((answer) => answer.status);
  },
  // Stops listening after the first part, in the way the client offers.
  abort: async () => {
    const stream = await client.generate({ model, prompt: 'hi', stream: true });
    for await (const part of stream) {
      seen.push(part.response);
      stream.abort();
    }
  },
};

try {
  console.log(JSON.stringify({ value: await tasks[task]() }));
} catch (error) {
  const { name, message, status_code: status } = error;
  console.log(JSON.stringify({ error: { name, message, status }, seen }));
}
