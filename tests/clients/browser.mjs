// browser.mjs [<pageUrl> [<url>]] <eventName>[,<eventName>…]
//
// Listens to a stream by the EventSource, or for a ws:// url by the WebSocket, of a real Chromium, from a page of an origin other than the
// server's. In place of <pageUrl> and <url> "-" may stand (as if left out):
//
//   without <pageUrl>  the program serves a blank page itself on a free loopback port
//   without <url>      it waits for a line "go <streamUrl>" on stdin; a further "go" replaces the stream
//
// Prints {"origin":"http://…"} first (the server under test must allow it), then one JSON line per
// observation:
//
//   {"open":true}
//   {"event":"ready","id":"…","data":{…}}          id is the EventSource's lastEventId
//   {"error":"…","readyState":2}                   readyState 0: it reconnects by itself, 2: it gave up
//   {"error":"…","fatal":true}                     no browser or no page; the program ends with code 1
//
// What the browser logs as an error (CORS, status codes) goes to stderr.
// Ends at a line "quit" on stdin, or when stdin ends, and takes the browser with it.
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { commands, emit, eventNames, payload } from './common.mjs';
import { follow } from './follow.mjs';

const args = process.argv.slice(2);
const names = args.pop();
const given = (value) => (value === undefined || value === '' || value === '-' ? undefined : value);
const [pageUrl, url] = args.map(given);
if (names === undefined || args.length > 2) {
  console.error('usage: browser.mjs [<pageUrl> [<url>]] <eventName>[,<eventName>…]');
  process.exit(2);
}

/** Serves one blank page and resolves to its address. */
function serveBlankPage() {
  const server = createServer((request, response) => {
    const page = request.url === '/';
    response.writeHead(page ? 200 : 204, { 'content-type': 'text/html; charset=utf-8' });
    response.end(page ? '<!doctype html><title>blank</title>' : undefined);
  });
  server.unref();
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}/`));
  });
}

/** Runs inside the page: replaces the stream and reports everything it says. */
function listen([streamUrl, eventNames]) {
  globalThis.stream?.close();
  const stream = new EventSource(streamUrl);
  globalThis.stream = stream;
  const report = (observation) => globalThis.report(observation);
  const relay = (event) => report({ event: event.type, id: event.lastEventId, text: event.data });
  stream.addEventListener('open', () => report({ open: true }));
  stream.addEventListener('error', (event) => {
    // a server may name an event "error" too; only that one carries data
    if (typeof event.data === 'string') {
      relay(event);
    } else {
      const error = stream.readyState === EventSource.CLOSED ? 'refused' : 'connection lost';
      report({ error, readyState: stream.readyState });
    }
  });
  for (const name of eventNames.filter((each) => each !== 'error')) {
    stream.addEventListener(name, relay);
  }
}

const profile = await mkdtemp(join(tmpdir(), 'bongsu-browser-'));
const streams = [];
let context;
let page;
let started;
let ending = false;

async function end(code) {
  if (ending) {
    return;
  }
  ending = true;
  setTimeout(() => process.exit(code), 10_000);
  // a browser that is still starting is waited for: it cannot be closed half way
  await started;
  await context?.close().catch(() => {});
  await rm(profile, { recursive: true, force: true, maxRetries: 5 }).catch(() => {});
  process.exit(code);
}

async function open(streamUrl) {
  if (page === undefined) {
    streams.push(streamUrl); // the page does not stand yet
  } else if (streamUrl.startsWith('ws')) {
    await page.evaluate(
      ([source, target]) => {
        const keepOpen = new Function(`return ${source}`)();
        keepOpen((each) => new WebSocket(each), target, (observation) => globalThis.report(observation));
      },
      [follow.toString(), streamUrl],
    );
  } else {
    await page.evaluate(listen, [streamUrl, eventNames(names)]);
  }
}

function fail(error) {
  if (!ending) {
    emit({ error: error.message, fatal: true });
    end(1);
  }
}

commands(
  (line) => {
    const [word, streamUrl] = line.split(/\s+/);
    if (word === 'go' && streamUrl !== undefined) {
      open(streamUrl).catch(fail);
    } else {
      console.error(`not understood: ${line}`);
    }
  },
  () => end(0),
);

async function start() {
  const address = pageUrl ?? (await serveBlankPage());
  emit({ origin: new URL(address).origin });

  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.BONGSU_TEST_CHROMIUM || '/usr/bin/chromium',
    headless: true,
    // the clean-up above is this program's
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  const opened = context.pages()[0] ?? (await context.newPage());
  opened.on('console', (message) => {
    if (message.type() === 'error') {
      console.error(message.text());
    }
  });
  opened.on('crash', () => fail(new Error('the page crashed')));
  await opened.exposeFunction('report', ({ text, ...observation }) =>
    emit(text === undefined ? observation : { ...observation, data: payload(text) }),
  );
  await opened.goto(address);
  page = opened;
  if (url !== undefined) {
    streams.push(url);
  }
  for (const streamUrl of streams) {
    await open(streamUrl);
  }
}

started = start().catch((error) => {
  // not awaited here: the end waits for this very promise
  fail(error);
});
