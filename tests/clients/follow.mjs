/**
 * Keeps a WebSocket open: whatever `connect(url)` makes is listened to, and made again, from the last position
 * on, 200 ms after it broke. Works with the browser's WebSocket and with that of npm's `ws`; runs inside a page,
 * so it uses nothing from outside. Returns what stops it.
 */
export function follow(connect, url, report) {
  let cursor;
  let socket;
  let stopped = false;
  const open = () => {
    const target = cursor === undefined ? url : `${url}&cursor=${encodeURIComponent(cursor)}`;
    socket = connect(target);
    socket.onopen = () => report({ open: true });
    socket.onmessage = (message) => {
      const frame = JSON.parse(message.data);
      const position = frame.event === 'ready' ? frame.data.position : (frame.id ?? frame.position);
      if (position !== undefined && frame.replay === undefined) {
        cursor = position;
      }
      report({ event: frame.event ?? 'position', id: position, data: frame.data });
    };
    socket.onerror = () => {};
    socket.onclose = (close) => {
      if (!stopped) {
        report({ error: 'connection lost', code: close.code, readyState: 0 });
        setTimeout(open, 200);
      }
    };
  };
  open();
  return () => {
    stopped = true;
    socket.close();
  };
}
