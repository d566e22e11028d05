// What the two clients share: one JSON line per observation on stdout, commands on stdin.

// The names every client listens for besides those of its command line.
const ALWAYS = ['ready', 'heartbeat', 'position', 'close'];

/** Writes one observation; a pipe is written synchronously on Linux, so nothing stays in a buffer. */
export function emit(observation) {
  process.stdout.write(`${JSON.stringify(observation)}\n`);
}

/** The event names to listen for: the comma separated list and the ones above. */
export function eventNames(list) {
  const named = list.split(',').map((name) => name.trim()).filter((name) => name !== '');
  return [...new Set([...ALWAYS, ...named])];
}

/** The payload as JSON where it is JSON, else as the text that came. */
export function payload(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Hands every line of stdin to `onLine` and calls `onEnd` once: at the line "quit", at stdin's end
 * (the parent is gone), at a signal, and when nobody reads stdout any more.
 */
export function commands(onLine, onEnd) {
  let ended = false;
  const end = () => {
    if (!ended) {
      ended = true;
      onEnd();
    }
  };
  let rest = '';
  process.stdin.setEncoding('utf8');
  process.stdin.on('data', (chunk) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    for (const line of lines.map((each) => each.trim())) {
      if (line === 'quit') {
        end();
      } else if (line !== '' && !ended) {
        onLine(line);
      }
    }
  });
  process.stdin.on('end', end);
  process.stdin.on('error', end);
  process.stdout.on('error', end);
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
}
