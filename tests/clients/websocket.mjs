// websocket.mjs <url>
//
// Listens over the npm package `ws`, and reconnects by itself with the last position as `cursor`. The
// environment variable API_KEY, when set, is sent as X-API-Key. Prints one JSON line per observation:
//
//   {"open":true}
//   {"event":"ready","id":"…","data":{…}}          id is the position it moves the cursor to
//   {"error":"connection lost","code":1006,"readyState":0}
//
// Ends at a line "quit" on stdin, or when stdin ends.
import { WebSocket } from 'ws';
import { commands, emit } from './common.mjs';
import { follow } from './follow.mjs';

const url = process.argv[2];
if (url === undefined) {
  console.error('usage: websocket.mjs <url>');
  process.exit(2);
}
const headers = process.env.API_KEY ? { 'X-API-Key': process.env.API_KEY } : {};
const stop = follow((target) => new WebSocket(target, { headers }), url, emit);

commands(
  () => {},
  () => {
    stop();
    process.exit(0);
  },
);
