// eventsource.mjs <url> <eventName>[,<eventName>…]
//
// Listens to a stream by the npm package `eventsource`. The environment variable API_KEY, when set,
// is sent as X-API-Key. Prints one JSON line per observation:
//
//   {"open":true}
//   {"event":"ready","id":"…","data":{…}}          id is the EventSource's lastEventId
//   {"error":"…","code":503,"readyState":2}        readyState 0: it reconnects by itself, 2: it gave up
//
// Ends at a line "quit" on stdin, or when stdin ends.
import { EventSource } from 'eventsource';
import { commands, emit, eventNames, payload } from './common.mjs';

const [url, names] = process.argv.slice(2);
if (url === undefined || names === undefined) {
  console.error('usage: eventsource.mjs <url> <eventName>[,<eventName>…]');
  process.exit(2);
}

const key = process.env.API_KEY;
const source = new EventSource(url, {
  fetch: (input, init) =>
    fetch(input, { ...init, headers: key ? { ...init.headers, 'X-API-Key': key } : init.headers }),
});

const relay = (event) => emit({ event: event.type, id: event.lastEventId, data: payload(event.data) });

source.addEventListener('open', () => emit({ open: true }));
source.addEventListener('error', (event) => {
  // a server may name an event "error" too; only that one carries data
  if (typeof event.data === 'string') {
    relay(event);
  } else {
    emit({ error: event.message ?? 'error', code: event.code, readyState: source.readyState });
  }
});
for (const name of eventNames(names).filter((each) => each !== 'error')) {
  source.addEventListener(name, relay);
}

commands(
  () => {},
  () => {
    source.close();
    process.exit(0);
  },
);
